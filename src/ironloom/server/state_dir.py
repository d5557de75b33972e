"""The state folder: one daemon holds it at a time, and says where it listens.

daemon.lock     held (flock) by the daemon for its life; the kernel lets go when it dies, however it dies
daemon.json     where the daemon listens: {pid, url, host, port, started_s, version}; removed at a clean end
state.db        the SQLite file
journal/        the event log's journal
logs/           a folder a service, a file a replica; daemon.log of a detached daemon
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from ironloom.errors import StateError


@dataclass(frozen=True, kw_only=True, slots=True)
class Discovery:
    """Where a daemon listens. Readable by its user alone: `key` opens the control API where keys are wanted."""

    pid: int
    url: str
    started: float
    version: str
    key: str | None = None
    cert: str | None = None


class StateDir:
    """The folder, held. Raises StateError when another daemon holds it, naming it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(path / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(
                f"The state folder {path} cannot be used: {error.strerror}.",
                hint="give another with --state or IRONLOOM_HOME",
            ) from error
        if not _lock(self._lock):
            holder = os.pread(self._lock, 4096, 0).decode(errors="replace").strip() or "another process"
            os.close(self._lock)
            raise StateError(
                f"The state folder {path} is held by {holder}.",
                hint=f"`ironloom down --state {path}` stops it; --state OTHER starts a second one on its own folder",
            )

    @property
    def database(self) -> Path:
        return self.path / "state.db"

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    @property
    def id(self) -> str:
        """An id of this folder that outlives moves: engines carry it, so that only our own are ever cleaned up."""
        file = self.path / "id"
        if not file.exists():
            file.write_text(uuid.uuid4().hex)
        return file.read_text().strip()

    def announce(self, discovery: Discovery) -> None:
        """Write where the daemon listens."""
        who = f"the ironloom daemon with pid {discovery.pid} on {discovery.url}"
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, who.encode(), 0)
        write_private(self.path / "daemon.json", json.dumps(asdict(discovery)))

    def release(self) -> None:
        """Let go at a clean end."""
        (self.path / "daemon.json").unlink(missing_ok=True)
        os.close(self._lock)


def _lock(descriptor: int) -> bool:
    """Take the lock. A daemon that is just ending may hold it for a moment, so one refusal is not yet an answer."""
    for _ in range(25):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False


def write_private(path: Path, text: str) -> None:
    """Write a file that only its user may read, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    partial.replace(path)
