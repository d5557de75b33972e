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
from pathlib import Path
from typing import Any

import msgspec

from ironloom.account.database import Database
from ironloom.account.events import Event, EventKind, Outcome, StoredEvent
from ironloom.account.journal import Journal, Position, read_journal
from ironloom.account.records import BEGIN, END, EVENT, PROGRESS, Batch, Record
from ironloom.errors import StateError
from ironloom.units import format_duration

FLUSH_EVERY_S = 0.5
MAX_RETRY_S = 5.0
"""While SQLite cannot take records it is tried again after half a second, then ever more rarely up to this."""
MAX_PENDING = 100_000
"""Ends of requests, and events, kept in memory while SQLite cannot take them (a full disk); beyond, at each attempt,
the oldest are dropped and counted."""

_VALUE_OF = {outcome: outcome.value for outcome in Outcome}
"""An enum's own `value` is a call of two functions."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_logger = logging.getLogger(__name__)

_CUT_OPEN_REQUESTS = (
    "UPDATE requests SET outcome=?, status=COALESCE(status, 0), prompt_tokens=COALESCE(prompt_tokens, 0),"
    " completion_tokens=COALESCE(completion_tokens, 0), held_s=COALESCE(held_s, 0),"
    " num_retries=COALESCE(num_retries, 0) WHERE outcome IS NULL"
)


def boot_id() -> str:
    """The id of this boot; monotonic times compare only within one. Random where the system has none."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return str(uuid.uuid4())


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
        self._wall_less_monotonic_s = wall() - monotonic()
        """Read anew before each import: a request then costs one look at one clock."""
        self._batch = Batch()
        """What is to be imported next."""
        self._imported: set[int] = set()
        """Requests that are open, and whose beginning is in an earlier batch."""
        self._flushing = asyncio.Lock()
        self._listeners: list[Callable[[StoredEvent], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._told_no_room = False
        self._failing_since_s: float | None = None
        self._num_told_dropped = 0
        self.last_s = 0.0
        """Wall clock of the last record of an earlier process; 0 where there was none."""
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

        def recover(connection: sqlite3.Connection) -> tuple[int, int, int, float]:
            position = _imported(connection)
            batch = Batch()
            for behind, payload in read_journal(folder, position):
                with contextlib.suppress(msgspec.DecodeError):
                    batch.add(tuple(_decode(payload)))
                position = behind
            batch.write(connection, position, _meta(connection, "boot_id") or boot_id())
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('boot_id', ?)", (boot_id(),))
            cut = connection.execute(_CUT_OPEN_REQUESTS, (Outcome.CUT.value,)).rowcount
            next_request = connection.execute("SELECT COALESCE(MAX(seq), 0) + 1 FROM requests").fetchone()[0]
            next_event = connection.execute("SELECT COALESCE(MAX(seq), 0) + 1 FROM events").fetchone()[0]
            last_s = connection.execute(
                "SELECT MAX(COALESCE((SELECT MAX(wall_time_s) FROM events), 0),"
                " COALESCE((SELECT MAX(wall_time_s) FROM requests), 0))"
            ).fetchone()[0]
            return next_request, next_event, cut, last_s

        try:
            next_request, next_event, num_cut, last_s = await database.write(recover)
            journal = Journal(folder)
        except (OSError, sqlite3.OperationalError) as error:
            raise StateError(
                f"The event log in {folder.parent} cannot be written: {error}.",
                hint="free disk space or check the folder's permissions; nothing of the log is lost",
            ) from error
        journal.discard_before(journal.position)
        log = cls(database, journal, next_request=next_request, next_event=next_event, wall=wall, monotonic=monotonic)
        log.last_s = last_s
        if num_cut:
            _logger.warning("closed %d requests that the last daemon left open", num_cut)
        log._task = asyncio.get_running_loop().create_task(log._flush_for_ever(), name="event-log")
        return log

    def begin(
        self, request_id: str, service: str, key_id: str, path: str, stream: bool, now_s: float | None = None
    ) -> int:
        """A request has been accepted. Returns the number to end it with. `now_s` is monotonic."""
        seq = self._next_request
        self._next_request = seq + 1
        if now_s is None:
            now_s = self._monotonic()
        wall_s = now_s + self._wall_less_monotonic_s
        record = (BEGIN, seq, wall_s, now_s, request_id, service, key_id, path, 1 if stream else 0)
        self._batch.begun[seq] = record
        try:
            self._journal.append(_encode(record))
        except OSError as error:
            self._cannot_journal(error)
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
        now_s: float | None = None,
    ) -> None:
        """The request has ended. A second end of the same request changes nothing and is counted."""
        if now_s is None:
            now_s = self._monotonic()
        record = (
            END,
            seq,
            now_s,
            _VALUE_OF[outcome],
            status,
            replica,
            prompt_tokens,
            completion_tokens,
            ttft_s,
            held_s,
            num_retries,
        )
        begin = self._batch.begun.pop(seq, None)
        if begin is not None:
            self._batch.whole += (begin, record)
        elif seq in self._imported:
            self._imported.remove(seq)
            self._batch.closed.append(record)
        else:
            self.num_double_ends += 1
            _logger.error("request %d ended twice (%s)", seq, outcome)
            return
        try:
            self._journal.append(_encode(record))
        except OSError as error:
            self._cannot_journal(error)

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
        is_open = seq in self._batch.begun or seq in self._imported
        if not is_open or self._journal.has_no_room or self._failing_since_s is not None:
            return
        now_s = self._monotonic()
        self._append(
            (PROGRESS, seq, status, replica, prompt_tokens, completion_tokens, ttft_s, now_s, held_s, num_retries)
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
                EVENT,
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
            if not self._batch:
                return
            batch, self._batch = self._batch, Batch()
            self._imported.update(batch.begun)
            self._wall_less_monotonic_s = self._wall() - self._monotonic()
            position = self._journal.position
            try:
                await self._database.write(lambda connection: batch.write(connection, position, self._boot_id))
            except BaseException:
                self._batch = batch.followed_by(self._batch)
                self.num_dropped += self._batch.keep_newest(MAX_PENDING)
                raise
            self._journal.discard_before(position)

    async def close(self) -> None:
        """Flush and stop."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(sqlite3.Error):  # what SQLite cannot take now stays in the journal
            await self.flush()
        self._journal.close()

    async def events(
        self, *, service: str = "", after: int = 0, limit: int = 100, is_latest: bool = True
    ) -> list[StoredEvent]:
        """The newest `limit` events after a sequence number, oldest first. Without `is_latest` those of the last half
        second may be missing, and nothing is written first."""
        if is_latest:
            await self._flush_quietly()

        def query(connection: sqlite3.Connection) -> list[StoredEvent]:
            where, values = ("service = ? AND seq > ?", [service, after]) if service else ("seq > ?", [after])
            rows = connection.execute(
                f"SELECT * FROM events WHERE {where} ORDER BY seq DESC LIMIT ?",
                [*values, limit],
            ).fetchall()
            return [_stored(row) for row in reversed(rows)]

        return await self._database.read(query)

    async def left_replicas(self) -> list[StoredEvent]:
        """The last event of each replica that was never told to be stopped, oldest first."""
        await self._flush_quietly()

        def query(connection: sqlite3.Connection) -> list[StoredEvent]:
            rows = connection.execute(
                "SELECT * FROM events WHERE seq IN (SELECT MAX(seq) FROM events WHERE replica != '' AND"
                " kind LIKE 'replica.%' GROUP BY replica) AND kind != ? ORDER BY seq",
                [EventKind.REPLICA_STOPPED.value],
            ).fetchall()
            return [_stored(row) for row in rows]

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

    def _append(self, record: Record) -> None:
        self._batch.add(record)
        try:
            self._journal.append(_encode(record))
        except OSError as error:
            self._cannot_journal(error)

    def _cannot_journal(self, error: OSError) -> None:
        """No room for a new segment: records are kept in memory alone until there is, or SQLite can take them."""
        if not self._told_no_room:
            self._told_no_room = True
            _logger.error("the event log cannot be journaled: %s; what happens now would not survive kill -9", error)

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
                f"the event log cannot be written ({error}): {len(self._batch)} records wait in memory, "
                f"{self.num_dropped} were dropped"
            )
            if self._failing_since_s is None:
                self._failing_since_s = time.monotonic()
                _logger.error("the event log cannot be written: %s; trying again until it can", error)
            return False
        self._told_no_room = self._told_no_room and self._journal.has_no_room
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
