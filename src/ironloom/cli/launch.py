"""Starting the daemon in a session of its own, and waiting until it takes requests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ironloom.cli import settings
from ironloom.cli.client import Client, DaemonNotRunning
from ironloom.cli.output import say
from ironloom.cli.progress import Line
from ironloom.errors import DaemonError, StateError

START_DEADLINE_S = 60.0
POLL_S = 0.1
LAST_LINES = 12
PROGRAM = (sys.executable, "-m", "ironloom.cli", "up")


def ensure_daemon() -> Client:
    """A client of the daemon that commands act on; starts it when none runs on this machine.

    Raises DaemonNotRunning when IRONLOOM_URL names a daemon that does not answer, DaemonError when it cannot start.
    """
    client = Client()
    try:
        client.ready()
    except DaemonNotRunning:
        if client.to.remote:
            raise
    else:
        return client
    say("No daemon runs here yet; starting one.")
    started, process = start(settings.state_dir(), [])
    let_go(process)
    say(f"The daemon runs at {started.to.url}; `ironloom down` stops it.")
    return started


def start(
    state_dir: Path,
    args: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    deadline_s: float = START_DEADLINE_S,
) -> tuple[Client, subprocess.Popen[bytes]]:
    """Start `ironloom up` in a new session, its output in the state folder, and wait until /readyz answers.

    `env` is added to this process's environment.
    Raises StateError when the folder cannot be written, DaemonError when the daemon ends or is not ready in time.
    """
    log = state_dir / "logs" / "daemon.log"
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as output:
            log_start = output.tell()
            process = subprocess.Popen(
                [*PROGRAM, "--state", str(state_dir), *args],
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    except OSError as error:
        raise StateError(
            f"The state folder {state_dir} cannot be written ({error.strerror}).",
            hint="IRONLOOM_HOME names another folder.",
        ) from error
    try:
        with Line("Starting the daemon") as line:
            give_up_s = time.monotonic() + deadline_s
            while time.monotonic() < give_up_s:
                line.show("")
                found = settings.running(state_dir)
                if found is not None and found.pid == process.pid and _takes_requests(client := Client(found)):
                    return client, process
                if process.poll() is not None:
                    return _other_or_raise(state_dir, process, log, log_start)
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        stop(process)
        raise
    stop(process)
    raise DaemonError(
        f"The daemon took no requests within {deadline_s:.0f} s, and was stopped.{_last_lines(log, log_start)}",
        hint=f"its whole log is {log}.",
    )


def stop(process: subprocess.Popen[bytes], patience_s: float = 10.0) -> None:
    """End a daemon that we started: asked first, then killed."""
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def let_go(process: subprocess.Popen[bytes]) -> None:
    """Leave a started daemon to itself: it outlives this command."""
    process.returncode = 0  # subprocess would warn that it still runs; that is what was asked for


def _takes_requests(client: Client) -> bool:
    try:
        return client.ready()
    except DaemonError:
        return False


def _other_or_raise(
    state_dir: Path, process: subprocess.Popen[bytes], log: Path, log_start: int
) -> tuple[Client, subprocess.Popen[bytes]]:
    """Ours ended. If another command started one at the same moment, that one will do."""
    found = settings.running(state_dir)
    if found is not None and found.pid != process.pid and _takes_requests(client := Client(found)):
        return client, process
    raise DaemonError(
        f"The daemon ended as it started, with status {process.returncode}.{_last_lines(log, log_start)}",
        hint=f"its whole log is {log}.",
    )


def _last_lines(log: Path, start: int) -> str:
    """What the daemon wrote since `start`, its last lines, indented."""
    try:
        with log.open("rb") as stream:
            stream.seek(start)
            lines = [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return " Its last lines:\n" + "\n".join(f"  {line}" for line in lines[-LAST_LINES:]) if lines else ""
