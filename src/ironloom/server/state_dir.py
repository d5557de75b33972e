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
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironloom.errors import StateError

DEFAULT_PORT = 11500


def default_state_dir() -> Path:
    """$IRONLOOM_HOME, else ironloom/ under $XDG_STATE_HOME (default ~/.local/state)."""
    home = os.environ.get("IRONLOOM_HOME")
    if home:
        return Path(home).expanduser()
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".local" / "state") / "ironloom"


@dataclass(frozen=True, kw_only=True, slots=True)
class Discovery:
    """Where a daemon listens, as its state folder tells."""

    pid: int
    url: str
    host: str
    port: int
    started_s: float
    version: str


def read_discovery(state_dir: Path) -> Discovery | None:
    """What the daemon of this folder wrote, or None when none runs (a file that a dead one left is not believed)."""
    try:
        data: dict[str, Any] = json.loads((state_dir / "daemon.json").read_text())
        found = Discovery(**data)
    except (OSError, ValueError, TypeError):
        return None
    return found if _is_held(state_dir / "daemon.lock") else None


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
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 4096, 0).decode(errors="replace").strip() or "another process"
            os.close(self._lock)
            raise StateError(
                f"The state folder {path} is held by {holder}.",
                hint=f"`ironloom down --state {path}` stops it; --state DIR starts a second daemon on a folder of its own",
            ) from None

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
        text = json.dumps({name: getattr(discovery, name) for name in Discovery.__slots__})
        partial = self.path / "daemon.json.partial"
        partial.write_text(text)
        partial.replace(self.path / "daemon.json")

    def release(self) -> None:
        """Let go at a clean end."""
        (self.path / "daemon.json").unlink(missing_ok=True)
        os.close(self._lock)


def _is_held(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
