"""A daemon that cannot begin leaves nothing open: no task, no thread, no socket."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ironloom.errors import ClusterError, UsageError
from ironloom.server.batches import Batches
from ironloom.server.daemon import Daemon
from ironloom.server.ground import Options
from ironloom.server.state_dir import StateDir


class Backend:
    """Raises at its opening, or never."""

    name = "fake"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.closed: list[bool] = []

    async def open(self, **_: Any) -> None:
        if self.error is not None:
            raise self.error

    async def close(self, *, stop_replicas: bool) -> None:
        self.closed.append(stop_replicas)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def given(backend: Backend) -> Callable[..., Any]:
    """What a daemon makes its backend by."""
    return lambda *_: backend


def opened(tmp_path: Path, backend: Backend, error: type[Exception], *, port: int, **more: Any) -> None:
    """Open a daemon, which raises `error`, and see that nothing is left of it."""
    folder = StateDir(tmp_path)

    async def main() -> None:
        daemon = Daemon(Options(port=port, state_dir=tmp_path, **more), folder, backend=given(backend))
        with pytest.raises(error):
            await daemon.open()
        assert [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    threads = set(threading.enumerate())
    try:
        asyncio.run(main())
    finally:
        folder.release()
    assert [one.name for one in set(threading.enumerate()) - threads] == []
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", port)) != 0


def test_a_backend_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    opened(tmp_path, Backend(UsageError("There is no namespace models.")), UsageError, port=free_port())


def test_neither_does_an_end_after_the_backend_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(self: object) -> int:
        raise OSError("no space left on device")

    monkeypatch.setattr(Batches, "open", full)
    backend = Backend()
    opened(tmp_path, backend, OSError, port=free_port())
    assert backend.closed == [False]  # what runs goes on


def test_options_that_contradict_each_other_leave_nothing_open(tmp_path: Path) -> None:
    opened(tmp_path, Backend(ClusterError("never asked")), UsageError, port=free_port(), is_shared=True,
           require_keys=True)  # fmt: skip


def test_an_address_that_is_taken_leaves_nothing_open(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        folder = StateDir(tmp_path)

        async def main() -> None:
            daemon = Daemon(Options(port=port, state_dir=tmp_path), folder, backend=given(Backend()))
            with pytest.raises(UsageError, match=f"Cannot listen on 127.0.0.1 port {port}"):
                await daemon.open()
            assert [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

        try:
            asyncio.run(main())
        finally:
            folder.release()
