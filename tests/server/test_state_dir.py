"""One daemon holds a state folder; the second is told who does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ironloom.errors import StateError
from ironloom.server.state_dir import Discovery, StateDir

HOLD = """
import sys, time; from pathlib import Path
from ironloom.server.state_dir import Discovery, StateDir
import os
folder = StateDir(Path(sys.argv[1]))
folder.announce(Discovery(pid=os.getpid(), url="http://127.0.0.1:1", started=1.0, version="1"))
print("held", flush=True); time.sleep(60)
"""


def test_a_second_daemon_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(StateError, match=rf"pid {holder.pid} on http://127.0.0.1:1") as caught:
            StateDir(tmp_path)
        assert "ironloom down" in (caught.value.hint or "")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    StateDir(tmp_path).release()


def test_the_announcement_is_private_and_goes_with_a_clean_end(tmp_path: Path) -> None:
    folder = StateDir(tmp_path / "new" / "folder")
    folder.announce(Discovery(pid=os.getpid(), url="http://127.0.0.1:5", started=2.0, version="1", key="il-x"))
    file = folder.path / "daemon.json"
    assert json.loads(file.read_text())["key"] == "il-x"
    assert file.stat().st_mode & 0o077 == 0
    folder.release()
    assert not file.exists()


def test_the_folders_id_stays(tmp_path: Path) -> None:
    folder = StateDir(tmp_path)
    first = folder.id
    folder.release()
    again = StateDir(tmp_path)
    assert again.id == first
    again.release()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be used"):
        StateDir(tmp_path / "file" / "below")
