"""The event log: what happened to services and replicas, and how each request ended, exactly once.

Records are journaled at once (see journal.py) and imported into SQLite in batches, half a second later. A request is
one row. The position that was imported is written in the same transaction as the rows, so a record is imported once,
whenever the process dies. At the next start the journal's rest is imported, and every request that is still open is
closed with the outcome `cut`, and with what its last record of progress knew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ironloom.account.database import Database
from ironloom.account.events import Event, EventKind, Outcome, StoredEvent
from ironloom.account.journal import Journal, Position, read_journal
from ironloom.errors import StateError
from ironloom.units import format_duration

FLUSH_EVERY_S = 0.5
MAX_RETRY_S = 5.0
"""While SQLite cannot take records it is tried again after half a second, then ever more rarely up to this."""
MAX_PENDING = 200_000
"""Records kept in memory while SQLite cannot take them (a full disk); beyond, the oldest are dropped and counted."""

_BEGIN, _END, _EVENT, _PROGRESS = 1, 2, 3, 4
_VALUE_OF = {outcome: outcome.value for outcome in Outcome}
"""An enum's own `value` is a call of two functions."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_logger = logging.getLogger(__name__)

_INSERT_REQUEST = (
    "INSERT INTO requests (seq, request_id, service, key_id, path, stream, wall_time_s, monotonic_s, boot_id, outcome,"
    " status, replica, prompt_tokens, completion_tokens, ttft_s, duration_s, held_s, num_retries)"
    " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_CLOSE_REQUEST = (
    "UPDATE requests SET outcome=?, status=?, replica=?, prompt_tokens=?, completion_tokens=?, ttft_s=?,"
    " duration_s = ? - monotonic_s, held_s=?, num_retries=? WHERE seq=? AND outcome IS NULL"
)
_NOTE_PROGRESS = (
    "UPDATE requests SET status=?, replica=?, prompt_tokens=?, completion_tokens=?, ttft_s=?,"
    " duration_s = ? - monotonic_s, held_s=?, num_retries=? WHERE seq=? AND outcome IS NULL"
)
_CUT_OPEN_REQUESTS = (
    "UPDATE requests SET outcome=?, status=COALESCE(status, 0), prompt_tokens=COALESCE(prompt_tokens, 0),"
    " completion_tokens=COALESCE(completion_tokens, 0), held_s=COALESCE(held_s, 0),"
    " num_retries=COALESCE(num_retries, 0) WHERE outcome IS NULL"
)
_INSERT_EVENT = (
    "INSERT INTO events"
    " (seq, wall_time_s, monotonic_s, boot_id, kind, service, replica, reason, message, devices, data)"
    " VALUES (?,?,?,?,?,?,?,?,?,?,?)"
)


def boot_id() -> str:
    """The id of this boot; monotonic times compare only within one. Random where the system has none."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return str(uuid.uuid4())


@dataclass
class _Batch:
    """Records taken for import, and the journal position behind the last of them."""

    records: list[tuple[Any, ...]]
    position: Position


class EventLog:
    """The only writer of the tables `events` and `requests`. Used from the event loop's thread."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        *,
        next_request: int,
        next_event: int,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._journal = journal
        self._next_request = next_request
        self._next_event = next_event
        self._wall = wall
        self._monotonic = monotonic
        self._boot_id = boot_id()
        self._pending: list[tuple[Any, ...]] = []
        self._open: set[int] = set()
        self._flushing = asyncio.Lock()
        self._listeners: list[Callable[[StoredEvent], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._may_journal_at_s = 0.0
        """After the journal had no room, monotonic: not before this is it tried again."""
        self._failing_since_s: float | None = None
        self._num_told_dropped = 0
        self.problem: str | None = None
        """Why records wait in memory, as a sentence; None when all is well."""
        self.num_dropped = 0
        self.num_double_ends = 0

    @classmethod
    async def open(
        cls,
        database: Database,
        folder: Path,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> EventLog:
        """Import what an earlier process left in the journal, close its open requests as cut, and start anew.

        Raises StateError when the disk is full.
        """

        def recover(connection: sqlite3.Connection) -> tuple[int, int, int]:
            last = _imported(connection)
            batch = _Batch([], last)
            for position, payload in read_journal(folder, last):
                with contextlib.suppress(msgspec.DecodeError):
                    batch.records.append(tuple(_decode(payload)))
                batch.position = position
            _import(connection, batch, _meta(connection, "boot_id") or boot_id())
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('boot_id', ?)", (boot_id(),))
            cut = connection.execute(_CUT_OPEN_REQUESTS, (Outcome.CUT.value,)).rowcount
            next_request = connection.execute("SELECT COALESCE(MAX(seq), 0) + 1 FROM requests").fetchone()[0]
            next_event = connection.execute("SELECT COALESCE(MAX(seq), 0) + 1 FROM events").fetchone()[0]
            return next_request, next_event, cut

        try:
            next_request, next_event, num_cut = await database.write(recover)
            journal = Journal(folder)
        except (OSError, sqlite3.OperationalError) as error:
            raise StateError(
                f"The event log in {folder.parent} cannot be written: {error}.",
                hint="free disk space or check the folder's permissions; nothing of the log is lost",
            ) from error
        journal.discard_before(journal.position)
        log = cls(database, journal, next_request=next_request, next_event=next_event, wall=wall, monotonic=monotonic)
        if num_cut:
            _logger.warning("closed %d requests that the last daemon left open", num_cut)
        log._task = asyncio.get_running_loop().create_task(log._flush_for_ever(), name="event-log")
        return log

    def begin(self, request_id: str, service: str, key_id: str, path: str, stream: bool) -> int:
        """A request has been accepted. Returns the number to end it with."""
        seq = self._next_request
        self._next_request = seq + 1
        record = (_BEGIN, seq, self._wall(), self._monotonic(), request_id, service, key_id, path, stream)
        self._append(record)
        self._open.add(seq)
        return seq

    def end(
        self,
        seq: int,
        outcome: Outcome,
        status: int,
        replica: str = "",
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        ttft_s: float | None = None,
        held_s: float = 0.0,
        num_retries: int = 0,
    ) -> None:
        """The request has ended. A second end of the same request changes nothing and is counted."""
        try:
            self._open.remove(seq)
        except KeyError:
            self.num_double_ends += 1
            _logger.error("request %d ended twice (%s)", seq, outcome)
            return
        self._append(
            (
                _END,
                seq,
                self._monotonic(),
                _VALUE_OF[outcome],
                status,
                replica,
                prompt_tokens,
                completion_tokens,
                ttft_s,
                held_s,
                num_retries,
            )
        )

    def progress(
        self,
        seq: int,
        status: int,
        replica: str,
        prompt_tokens: int,
        completion_tokens: int,
        ttft_s: float | None,
        held_s: float,
        num_retries: int,
    ) -> None:
        """How far an open request is: what its row has if the process dies before its end.

        Nothing is kept while records wait for room: those that tell of an end need it more.
        """
        if seq not in self._open or self._may_journal_at_s or self._failing_since_s is not None:
            return
        now_s = self._monotonic()
        self._append(
            (_PROGRESS, seq, status, replica, prompt_tokens, completion_tokens, ttft_s, now_s, held_s, num_retries)
        )

    def event(self, event: Event) -> None:
        """Something happened to a service, a replica or the daemon."""
        stored = StoredEvent(
            seq=self._next_event,
            wall_time_s=self._wall(),
            monotonic_s=self._monotonic(),
            boot_id=self._boot_id,
            event=event,
        )
        self._next_event += 1
        self._append(
            (
                _EVENT,
                stored.seq,
                stored.wall_time_s,
                stored.monotonic_s,
                event.kind.value,
                event.service,
                event.replica,
                event.reason,
                event.message,
                json.dumps(event.devices),
                json.dumps(event.data),
            )
        )
        for listener in self._listeners:
            listener(stored)

    def listen(self, listener: Callable[[StoredEvent], None]) -> Callable[[], None]:
        """Call `listener` at each event from now on; the result stops that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def flush(self) -> None:
        """Import everything recorded so far. Raises sqlite3.Error when SQLite cannot take it; nothing is lost then."""
        async with self._flushing:
            if not self._pending:
                return
            batch = _Batch(self._pending, self._journal.position)
            self._pending = []
            try:
                await self._database.write(lambda connection: _import(connection, batch, self._boot_id))
            except BaseException:
                self._pending = batch.records + self._pending
                raise
            self._journal.discard_before(batch.position)

    async def close(self) -> None:
        """Flush and stop."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(sqlite3.Error):  # what SQLite cannot take now stays in the journal
            await self.flush()
        self._journal.close()

    async def events(self, *, service: str = "", after: int = 0, limit: int = 100) -> list[StoredEvent]:
        """The newest `limit` events after a sequence number, oldest first."""
        await self._flush_quietly()

        def query(connection: sqlite3.Connection) -> list[StoredEvent]:
            where, values = ("service = ? AND seq > ?", [service, after]) if service else ("seq > ?", [after])
            rows = connection.execute(
                f"SELECT * FROM events WHERE {where} ORDER BY seq DESC LIMIT ?",
                [*values, limit],
            ).fetchall()
            return [_stored(row) for row in reversed(rows)]

        return await self._database.read(query)

    async def requests(self, *, service: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """The newest requests, newest first, as rows of the table `requests`."""
        await self._flush_quietly()

        def query(connection: sqlite3.Connection) -> list[dict[str, Any]]:
            where, values = ("WHERE service = ?", [service]) if service else ("", [])
            rows = connection.execute(
                f"SELECT * FROM requests {where} ORDER BY seq DESC LIMIT ?",
                [*values, limit],
            ).fetchall()
            return [dict(row) for row in rows]

        return await self._database.read(query)

    def _append(self, record: tuple[Any, ...]) -> None:
        if self._may_journal_at_s:
            self._journal_again(record)
        else:
            try:
                self._journal.append(_encode(record))
            except OSError as error:
                self._cannot_journal(error)
        self._pending.append(record)
        if len(self._pending) > MAX_PENDING:
            del self._pending[: MAX_PENDING // 10]
            self.num_dropped += MAX_PENDING // 10

    def _cannot_journal(self, error: OSError) -> None:
        """No room for a new segment: records are kept in memory alone until there is, or SQLite can take them."""
        if not self._may_journal_at_s:
            _logger.error("the event log cannot be journaled: %s; what happens now would not survive kill -9", error)
        self._may_journal_at_s = time.monotonic() + FLUSH_EVERY_S

    def _journal_again(self, record: tuple[Any, ...]) -> None:
        if time.monotonic() < self._may_journal_at_s:
            return
        try:
            self._journal.append(_encode(record))
        except OSError as error:
            self._cannot_journal(error)
        else:
            self._may_journal_at_s = 0.0

    async def _flush_for_ever(self) -> None:
        wait_s = FLUSH_EVERY_S
        while True:
            await asyncio.sleep(wait_s)
            is_well = await self._flush_quietly()
            wait_s = FLUSH_EVERY_S if is_well else min(MAX_RETRY_S, 2 * wait_s)

    async def _flush_quietly(self) -> bool:
        """Flush; whether that went well. Trouble, and its end, are said once."""
        try:
            await self.flush()
        except sqlite3.Error as error:
            self.problem = (
                f"the event log cannot be written ({error}): {len(self._pending)} records wait in memory, "
                f"{self.num_dropped} were dropped"
            )
            if self._failing_since_s is None:
                self._failing_since_s = time.monotonic()
                _logger.error("the event log cannot be written: %s; trying again until it can", error)
            return False
        if self._failing_since_s is not None:
            lasted_s = time.monotonic() - self._failing_since_s
            self._failing_since_s = self.problem = None
            num_dropped = self.num_dropped - self._num_told_dropped
            self._num_told_dropped = self.num_dropped
            text = (
                f"for {format_duration(lasted_s)} the event log could not be written; {num_dropped} records were lost"
            )
            _logger.warning("%s", text)
            self.event(
                Event(kind=EventKind.LOG_RECOVERED, reason="LogWritable", message=text, data={"dropped": num_dropped})
            )
        return True


def _meta(connection: sqlite3.Connection, name: str) -> str | None:
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def _imported(connection: sqlite3.Connection) -> Position:
    segment, _, offset = (_meta(connection, "journal") or "0:0").partition(":")
    return Position(int(segment), int(offset))


def _import(connection: sqlite3.Connection, batch: _Batch, boot: str) -> None:
    """Write a batch of records: a request that begins and ends in it is one insert."""
    begun: dict[int, tuple[Any, ...]] = {}
    whole: list[tuple[Any, ...]] = []
    closed: list[tuple[Any, ...]] = []
    progress: dict[int, tuple[Any, ...]] = {}
    events: list[tuple[Any, ...]] = []
    for record in batch.records:
        if record[0] == _BEGIN:
            begun[record[1]] = record
        elif record[0] == _END:
            _, seq, monotonic, outcome, status, replica, prompt, completion, ttft, held, retries = record
            start = begun.pop(seq, None)
            progress.pop(seq, None)
            if start is None:
                closed.append((outcome, status, replica, prompt, completion, ttft, monotonic, held, retries, seq))
            else:
                duration = monotonic - start[3]
                row = (*_begin_row(start, boot), outcome, status, replica, prompt, completion, ttft, duration, held)
                whole.append((*row, retries))
        elif record[0] == _PROGRESS:
            progress[record[1]] = record
        else:
            events.append((*record[1:4], boot, *record[4:]))
    nothing = (None,) * 9
    connection.executemany(_INSERT_REQUEST, whole)
    connection.executemany(_INSERT_REQUEST, [(*_begin_row(start, boot), *nothing) for start in begun.values()])
    connection.executemany(_CLOSE_REQUEST, closed)
    connection.executemany(_NOTE_PROGRESS, [(*record[2:], record[1]) for record in progress.values()])
    connection.executemany(_INSERT_EVENT, events)
    connection.execute(
        "INSERT OR REPLACE INTO meta VALUES ('journal', ?)",
        (f"{batch.position.segment}:{batch.position.offset}",),
    )


def _begin_row(record: tuple[Any, ...], boot: str) -> tuple[Any, ...]:
    _, seq, wall, monotonic, request_id, service, key_id, path, stream = record
    return (seq, request_id, service, key_id, path, int(stream), wall, monotonic, boot)


def _stored(row: sqlite3.Row) -> StoredEvent:
    event = Event(
        kind=EventKind(row["kind"]),
        service=row["service"],
        replica=row["replica"],
        reason=row["reason"],
        message=row["message"],
        devices=tuple(json.loads(row["devices"])),
        data=json.loads(row["data"]),
    )
    return StoredEvent(
        seq=row["seq"],
        wall_time_s=row["wall_time_s"],
        monotonic_s=row["monotonic_s"],
        boot_id=row["boot_id"],
        event=event,
    )
