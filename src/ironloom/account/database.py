"""The owner of the SQLite file: one thread writes, one thread reads, everybody else asks.

WAL with synchronous=NORMAL: what a returned write holds survives the death of the process; a power cut may lose the
last moments, never the consistency.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from ironloom.account.schema import MIGRATIONS
from ironloom.errors import StateError

T = TypeVar("T")
_Job = tuple[Callable[[sqlite3.Connection], Any], "Future[Any]"]


class Database:
    """Functions of a connection, run where the connection lives.

    A function given to `write` runs alone in one transaction: it is committed when it returns and rolled back when it
    raises. One given to `read` sees a snapshot.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer = _Worker(path, writes=True)
        self._reader = _Worker(path, writes=False)

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open the file, making or migrating it. Raises StateError when it is damaged or newer than this program."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _migrate(path)
        except sqlite3.DatabaseError as error:
            raise StateError(
                f"The state file {path} cannot be used: {error}.",
                hint="free disk space or check the folder's permissions; if the file is damaged, move it away: "
                "services must then be applied again",
            ) from error
        return cls(path)

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run `function` in a transaction of its own on the writer thread. Raises what it raises."""
        return await asyncio.wrap_future(self._writer.submit(function))

    def write_soon(self, function: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """As `write`, for callers that do not wait on the event loop."""
        return self._writer.submit(function)

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run `function` on the reader thread."""
        return await asyncio.wrap_future(self._reader.submit(function))

    def close(self) -> None:
        """Finish what was submitted, then close. Idempotent."""
        self._reader.close()
        self._writer.close()


class _Worker:
    """A thread with a connection of its own and a queue of functions to run on it."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        self._path = path
        self._writes = writes
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(
            target=self._run, name=f"sqlite-{'writer' if writes else 'reader'}", daemon=True
        )
        self._thread.start()

    def submit(self, function: Callable[[sqlite3.Connection], T]) -> Future[T]:
        if self._closed:
            raise StateError(f"The state file {self._path} is closed.")
        future: Future[T] = Future()
        self._jobs.put((function, future))
        return future

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            self._thread.join()

    def _run(self) -> None:
        connection = connect(self._path)
        if not self._writes:
            connection.execute("PRAGMA query_only = ON")
        begin = "BEGIN IMMEDIATE" if self._writes else "BEGIN"
        try:
            while (job := self._jobs.get()) is not None:
                function, future = job
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    connection.execute(begin)
                    result = function(connection)
                    connection.execute("COMMIT")
                except BaseException as error:  # the caller gets it, whatever it is
                    with contextlib.suppress(sqlite3.Error):
                        if connection.in_transaction:
                            connection.execute("ROLLBACK")
                    future.set_exception(error)
                else:
                    future.set_result(result)
        finally:
            connection.close()


def connect(path: Path) -> sqlite3.Connection:
    """A connection with this program's settings; transactions are begun by hand."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.row_factory = sqlite3.Row
    return connection


def _migrate(path: Path) -> None:
    with contextlib.closing(connect(path)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise StateError(
                f"The state file {path} has schema version {version}, this program knows {len(MIGRATIONS)}.",
                hint="use the newer ironloom that wrote it, or another --state folder",
            )
        for number in range(version, len(MIGRATIONS)):
            connection.executescript(f"BEGIN;{MIGRATIONS[number]};PRAGMA user_version = {number + 1};COMMIT;")
