"""A program that starts as the daemon does: announces itself in its state folder, and answers until SIGTERM.

`--fail TEXT` in the environment variable FAKE_DAEMON ends it at once with TEXT; `silent` never answers. At SIGUSR1 it
forks a child that never comes to its exec, and writes its pid into the file `forked`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from fake_control import FakeControl

how = os.environ.get("FAKE_DAEMON", "")
if how.startswith("fail "):
    sys.exit(how.removeprefix("fail "))
state_dir = Path(sys.argv[sys.argv.index("--state") + 1])
done = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: done.set())


def fork(*_: object) -> None:
    """A child in a session of its own that has not come to its exec yet, as one of an engine's start."""
    if pid := os.fork():
        (state_dir / "forked").write_text(str(pid))
    else:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()


signal.signal(signal.SIGUSR1, fork)
print("args:", *sys.argv[1:], flush=True)
with FakeControl() as fake:
    status = fake.status() | {"pid": os.getpid(), "state_dir": str(state_dir)}
    fake.answers["GET", "/api/v1/status"] = (200, status)

    def called(_method: str, path: str) -> None:
        if path.endswith("/shutdown"):  # once it is answered
            threading.Timer(0.1, done.set).start()

    fake.on_call = called
    if how != "silent":
        found = {"pid": os.getpid(), "url": fake.url, "started": 0.0, "version": "0.1.0", "key": None, "cert": None}
        (state_dir / "daemon.json").write_text(json.dumps(found))
    done.wait(60)
