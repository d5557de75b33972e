"""Batches: each is a task that reads its file, sends its rows through the gateway, and writes each answer at once.

All that must survive is in SQLite before it is told. At a start every unfinished batch is taken up where its rows
stand. A row in flight at a kill is sent again; its answer is still written, and billed, once.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from ironloom.account.database import Database
from ironloom.account.events import Event, EventKind
from ironloom.errors import RequestError
from ironloom.serve.gateway.internal import Caller
from ironloom.server import batch_store as store
from ironloom.server.batch_rows import LineError, Row, lines_of, read_rows, service_errors
from ironloom.server.batch_slots import Slots
from ironloom.server.batch_store import FINAL_STATUSES, Batch, PendingRow, RowResult
from ironloom.server.files import Page

_PAGE_ROWS = 256
_HEADERS = {b"content-type": b"application/json"}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLimits:
    """How hard batches push, and how long they are patient."""

    rows_in_flight: int = 32
    """Requests that batches send at a time to one service of which it is not known how many its replicas run."""
    max_tries: int = 6
    """Of a row that gets 502, 503 or 504; a 429 only means that the queue is full, and is waited out."""
    first_pause_s: float = 1.0
    """Before the second try; doubled for each further one, up to `max_pause_s`."""
    max_pause_s: float = 60.0
    cancel_grace_s: float = 60.0
    """Rows in flight at a cancellation may still end for this long."""
    close_grace_s: float = 5.0
    """Answers that are there when the daemon ends may take so long to be written down."""


class _Answer(msgspec.Struct, frozen=True):
    class Usage(msgspec.Struct, frozen=True):
        prompt_tokens: int = 0
        completion_tokens: int | None = 0

    usage: Usage | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode


class Batches:
    """All batches of a daemon. The only writer of the tables `batches` and `batch_rows`.

    `why_not(key id, service)` says why a key's batch may not use a service, None when it may. `concurrency(service)`
    is how many requests its replicas run at once now; 0 is not known.
    """

    def __init__(
        self,
        database: Database,
        call: Caller,
        *,
        why_not: Callable[[str, str], str | None],
        concurrency: Callable[[str], int] = lambda _service: 0,
        on_event: Callable[[Event], None] = lambda _event: None,
        limits: BatchLimits | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._call = call
        self._why_not = why_not
        self._concurrency = concurrency
        self._on_event = on_event
        self._limits = limits or BatchLimits()
        self._wall_clock = wall_clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, asyncio.Event] = {}
        self._slots: dict[str, Slots] = {}
        self._is_ending = False
        self._num_asking = 0
        self._none_asking = asyncio.Event()
        self._none_asking.set()

    async def open(self) -> int:
        """Take up every unfinished batch; returns how many."""
        ids = await self._database.read(store.unfinished)
        for batch_id in ids:
            self._start(batch_id)
        return len(ids)

    def stop(self) -> None:
        """Send no more rows. Those in flight go on to their answers."""
        self._is_ending = True

    async def close(self) -> None:
        """Stop. Answers that are there are written down first; rows without one are sent again at the next start."""
        self.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.close_grace_s):
                await self._none_asking.wait()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(
        self,
        *,
        input_file_id: str,
        endpoint: str,
        window_s: float,
        completion_window: str,
        metadata: dict[str, str],
        key_id: str = "",
        output_expires_after_s: float | None = None,
    ) -> dict[str, Any]:
        """A new batch, durable at return and running soon after."""
        now_s = self._wall_clock()
        batch = Batch(
            id=f"batch_{secrets.token_hex(12)}",
            endpoint=endpoint,
            input_file_id=input_file_id,
            status="validating",
            key_id=key_id,
            created_s=now_s,
            expires_s=now_s + window_s,
            completion_window=completion_window,
            output_expires_after_s=output_expires_after_s,
            metadata=metadata,
        )
        await self._database.write(lambda connection: store.insert_batch(connection, batch))
        self._on_event(Event(kind=EventKind.BATCH_CREATED, reason="BatchCreated", message=f"{batch.id} was created"))
        self._start(batch.id)
        return batch.view(store.Counts())

    async def get(self, batch_id: str, *, owner: str | None = None) -> dict[str, Any]:
        """One batch as OpenAI shows it. Raises RequestError 404."""

        def query(connection: sqlite3.Connection) -> dict[str, Any] | None:
            batch = store.find_batch(connection, batch_id)
            if batch is None or (owner is not None and batch.key_id != owner):
                return None
            return batch.view(store.count_rows(connection, batch_id))

        view = await self._database.read(query)
        if view is None:
            raise RequestError(404, f"there is no batch {batch_id[:100]!r}", code="batch_not_found", param="id")
        return view

    async def page(self, page: Page, *, owner: str | None = None) -> tuple[list[dict[str, Any]], bool]:
        """A page of batches, newest first, and whether there are more."""
        found = await self._database.read(lambda connection: store.list_batches(connection, page, owner))
        return [batch.view(counts) for batch, counts in found[: page.limit]], len(found) > page.limit

    async def cancel(self, batch_id: str, *, owner: str | None = None) -> dict[str, Any]:
        """Ask a batch to end; what is done stays. One that has ended stays as it is. Raises RequestError 404."""
        await self.get(batch_id, owner=owner)
        now_s = self._wall_clock()
        await self._database.write(lambda connection: store.start_cancelling(connection, batch_id, now_s))
        if (stop := self._stops.get(batch_id)) is not None:
            stop.set()
        return await self.get(batch_id, owner=owner)

    async def wait(self, batch_id: str) -> None:
        """Wait until a batch's task has ended (at once if it has none)."""
        if (task := self._tasks.get(batch_id)) is not None:
            await asyncio.wait([task])

    def _start(self, batch_id: str) -> None:
        self._stops[batch_id] = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._run(batch_id), name=batch_id)
        self._tasks[batch_id] = task

        def forget(_task: asyncio.Task[None]) -> None:
            self._tasks.pop(batch_id, None)
            self._stops.pop(batch_id, None)

        task.add_done_callback(forget)

    async def _run(self, batch_id: str) -> None:
        """Take a batch from where it stands to its end. A state file that cannot be written is waited for."""
        pause_s = self._limits.first_pause_s
        while True:
            try:
                await self._advance(batch_id)
                return
            except sqlite3.Error as error:
                _logger.error("batch %s cannot be written: %s; trying again in %.0f s", batch_id, error, pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, self._limits.max_pause_s)
            except Exception:
                _logger.exception("batch %s failed; it is taken up again at the next start", batch_id)
                return

    async def _advance(self, batch_id: str) -> None:
        batch = await self._database.read(lambda connection: store.find_batch(connection, batch_id))
        if batch is not None and batch.status == "validating":
            batch = await self._validate(batch)
        if batch is None:
            return
        if batch.status not in FINAL_STATUSES:
            end = "cancelled" if batch.status == "cancelling" else await self._run_rows(batch)
            now_s = self._wall_clock()
            batch = await self._database.write(lambda connection: store.finish(connection, batch_id, end, now_s))
        self._ended(batch)

    async def _validate(self, batch: Batch) -> Batch | None:
        """Read and check the file; returns the batch as it is then: in progress, failed, or cancelled meanwhile."""
        now_s = self._wall_clock()

        def read(connection: sqlite3.Connection) -> tuple[list[Row], list[LineError]]:
            parts = store.input_parts(connection, batch, now_s)
            if parts is None:
                return [], [LineError(code="file_not_found", message="the input file is gone", param="input_file_id")]
            return read_rows(lines_of(parts), batch.endpoint)

        rows, errors = await self._database.read(read)
        errors = errors or service_errors(rows, lambda service: self._why_not(batch.key_id, service))

        def settle(connection: sqlite3.Connection) -> Batch | None:
            if errors:
                store.reject(connection, batch.id, errors, now_s)
            else:
                store.accept(connection, batch.id, rows, now_s)
            return store.find_batch(connection, batch.id)

        return await self._database.write(settle)

    async def _run_rows(self, batch: Batch) -> str:
        """Send every row that has no answer; returns how it ended: completed, cancelled or expired."""
        stop = self._stops[batch.id]
        sending: set[asyncio.Task[None]] = set()
        sender = asyncio.create_task(self._send_all(batch, sending))
        stopped = asyncio.create_task(stop.wait())
        try:
            left_s = max(0.0, batch.expires_s - self._wall_clock())
            await asyncio.wait({sender, stopped}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if sender.done():
                sender.result()
                return "completed"
            sender.cancel()
            if stop.is_set():
                if sending:
                    await asyncio.wait(set(sending), timeout=self._limits.cancel_grace_s)
                return "cancelled"
            return "expired"
        finally:
            leftover = {sender, stopped, *sending}
            for task in leftover:
                task.cancel()
            await asyncio.gather(*leftover, return_exceptions=True)

    async def _send_all(self, batch: Batch, sending: set[asyncio.Task[None]]) -> None:
        last_line = 0
        failures: list[BaseException] = []

        def ended(slots: Slots, task: asyncio.Task[None]) -> None:
            slots.release()
            sending.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                failures.append(error)

        while True:
            after = last_line
            rows = await self._database.read(
                lambda connection: store.pending_rows(connection, batch.id, after, _PAGE_ROWS)  # noqa: B023
            )
            if not rows or failures:
                break
            for row in rows:
                slots = self._slots_of(row.service)
                await slots.acquire()
                task = asyncio.create_task(self._send_row(batch, row))
                sending.add(task)
                task.add_done_callback(partial(ended, slots))
                last_line = row.line
        while sending:
            await asyncio.wait(set(sending))
        if failures:
            raise failures[0]

    def _slots_of(self, service: str) -> Slots:
        if service not in self._slots:
            self._slots[service] = Slots(lambda: self._concurrency(service) or self._limits.rows_in_flight)
        return self._slots[service]

    async def _send_row(self, batch: Batch, row: PendingRow) -> None:
        result = await self._ask(batch, row)
        try:
            while True:
                try:
                    await self._database.write(
                        lambda connection: store.write_result(connection, batch.id, row.line, result)
                    )
                    return
                except sqlite3.OperationalError as error:  # a full disk: the answer is kept until it can be written
                    _logger.error("%s, line %d cannot be written: %s; trying again", batch.id, row.line, error)
                    await asyncio.sleep(self._limits.first_pause_s)
        finally:
            self._asked()

    async def _asks(self) -> None:
        """A row is asked for from now until `_asked`; never, once nothing more is sent."""
        if self._is_ending:
            await asyncio.Event().wait()
        self._num_asking += 1
        self._none_asking.clear()

    def _asked(self) -> None:
        self._num_asking -= 1
        if not self._num_asking:
            self._none_asking.set()

    async def _ask(self, batch: Batch, row: PendingRow) -> RowResult:
        """The answer to one row, tried again while it may still come. Who gets it calls `_asked` when it is kept."""
        limits = self._limits
        pause_s = limits.first_pause_s
        tries = 0
        while True:
            await self._asks()
            try:
                result, retry_after_s = await self._ask_once(batch, row)
            except BaseException:
                self._asked()
                raise
            if result.status in {502, 503, 504}:
                tries += 1
            if result.status not in {429, 502, 503, 504} or tries >= limits.max_tries:
                return result
            self._asked()
            await asyncio.sleep(min(max(pause_s, retry_after_s or 0.0), limits.max_pause_s))
            pause_s = min(2 * pause_s, limits.max_pause_s)

    async def _ask_once(self, batch: Batch, row: PendingRow) -> tuple[RowResult, float | None]:
        request_id = store.request_id(batch.id, row.line)
        try:
            answer = await self._call(
                row.service, batch.endpoint, row.body, _HEADERS, key_id=batch.key_id, request_id=request_id
            )
            body = await _read_body(answer.body)
        except RequestError as error:
            return RowResult(status=error.status, response=msgspec.json.encode(error.body())), error.retry_after_s
        try:
            msgspec.json.decode(body)
            body.decode()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            problem = {"code": "engine_error", "message": "the engine's answer was not JSON"}
            return RowResult(status=502, error=problem), None
        with suppress(msgspec.ValidationError):
            usage = _decode_answer(body).usage
            if usage is not None and answer.status < 300:
                return RowResult(
                    status=answer.status,
                    response=body,
                    prompt_tokens=usage.prompt_tokens,
                    completion_tokens=usage.completion_tokens or 0,
                ), None
        return RowResult(status=answer.status, response=body), None

    def _ended(self, batch: Batch) -> None:
        self._on_event(
            Event(
                kind=EventKind.BATCH_ENDED,
                reason=f"Batch{batch.status.capitalize()}",
                message=f"{batch.id} is {batch.status}",
            )
        )


async def _read_body(body: Any) -> bytes:
    """The whole body, its iterator closed whatever happens, so that a cancelled row drops its request."""
    if hasattr(body, "aclose"):
        async with aclosing(body):
            return b"".join([piece async for piece in body])
    return b"".join([piece async for piece in body])
