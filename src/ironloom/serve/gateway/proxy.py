"""One inference request on its way: claim a replica, send, pass the answer on, account for it, exactly once.

    acquire ──► held ──► granted ──► connecting ──► sent ──► answering ──► finished
       └──────────────────┘             │            │          │
                 ▲                      └── died ────┤          └── died, timeout ──► error event, or cut
                 └── retry, ahead of all others ─────┘

Callbacks all the way: the only coroutine is the one that opens a connection. Up to the answer's first byte the request
can be sent again, as the client has seen nothing of it; a heartbeat is not part of the answer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from ironloom.account.events import Outcome
from ironloom.errors import RequestError
from ironloom.serve.gateway import errors
from ironloom.serve.gateway.metrics import ServiceMetrics
from ironloom.serve.gateway.requests import prefix_hash
from ironloom.serve.gateway.usage import TAIL_BYTES, EventStream, usage_in_tail
from ironloom.serve.http.client import EVENT_STREAM, Connection
from ironloom.serve.http.exchange import Exchange
from ironloom.serve.pool import ServicePool, Slot
from ironloom.serve.reason import one_line

if TYPE_CHECKING:
    from ironloom.serve.gateway.app import Gateway

_HEARTBEAT_LINES = b"Content-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
_MAX_GATHERED_BYTES = 1 << 20
PROGRESS_EVERY_S = 1.0
"""So often the log is told how far a stream is, from the deadlines' tick: a chunk costs nothing for it."""
_CLIENT_GONE_CODE = 499
"""The status that nginx logs for a client that went away first."""


class RequestLog(Protocol):
    """The event log's side for requests; see account/log.py. All calls return at once."""

    def begin(
        self, request_id: str, service: str, key_id: str, path: str, stream: bool, now_s: float | None = None
    ) -> int: ...
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
    ) -> None: ...
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
    ) -> None: ...


class ServiceEntry:
    """A declared service as requests see it."""

    __slots__ = ("created_s", "metrics", "name", "pool", "timeout_s")

    def __init__(self, name: str, pool: ServicePool, timeout_s: float, created_s: float) -> None:
        self.name = name
        self.pool = pool
        self.timeout_s = timeout_s
        self.created_s = created_s
        self.metrics = ServiceMetrics()


class Forward:
    """See the module. A Claim to the pool, a Receiver to the client, a Timed thing to the deadlines."""

    __slots__ = (
        "_answered",
        "_body",
        "_connection",
        "_deadline_s",
        "_events",
        "_exchange",
        "_finished",
        "_gateway",
        "_gathered",
        "_held_s",
        "_held_since_s",
        "_hide_usage",
        "_id_line",
        "_key_id",
        "_length",
        "_lines",
        "_num_failures",
        "_num_retries",
        "_path",
        "_request_id",
        "_seq",
        "_service",
        "_slot",
        "_status",
        "_stream",
        "_tail",
        "_ttft_s",
        "_whole",
        "due_s",
    )

    def __init__(
        self,
        gateway: Gateway,
        service: ServiceEntry,
        exchange: Exchange,
        path: str,
        body: bytes,
        stream: bool,
        hide_usage: bool,
        request_id: str,
        id_line: bytes,
        key_id: str,
    ) -> None:
        self._gateway = gateway
        self._service = service
        self._exchange = exchange
        self._path = path
        self._body = body
        self._stream = stream
        self._hide_usage = hide_usage
        self._request_id = request_id
        self._id_line = id_line
        """The request's id as a line of a head."""
        self._key_id = key_id
        self._slot: Slot | None = None
        self._connection: Connection | None = None
        self._events: EventStream | None = None
        """Set when the answer is a stream."""
        self._gathered: list[bytes] | None = None
        """An answer that is no stream, to a client that has had a heartbeat: kept, to be told as an event."""
        self._tail = b""
        """The last bytes of an answer that is no stream."""
        self._status = 0
        self._answered = False
        """True once a byte of the answer has gone to the client: from then on nothing is sent again."""
        self._whole = False
        """True once all of the answer has."""
        self._finished = False
        self._held_since_s = 0.0
        self._held_s = 0.0
        self._ttft_s: float | None = None
        self._num_failures = 0
        self._num_retries = 0
        self.due_s = self._deadline_s = exchange.request.arrived_s + service.timeout_s

    _seq: int

    def start(self) -> None:
        """Begin. Everything else follows from callbacks."""
        gateway, service, request = self._gateway, self._service, self._exchange.request
        # A request whose head is known came just now; another one may have waited for its body or its turn.
        now_s = request.arrived_s if request.known is not None else time.monotonic()
        self._seq = gateway.log.begin(self._request_id, service.name, self._key_id, self._path, self._stream, now_s)
        gateway.deadlines.add(self)
        self._exchange.on_gone(self._client_gone)
        if self._finished:
            return
        try:
            slot = service.pool.acquire(self, len(self._body), now_s)
        except RequestError as error:
            self.refused(error)
            return
        if slot is None:
            self._wait(now_s)
        else:
            self._send(slot)

    # --- Claim ---

    def granted(self, slot: Slot) -> None:
        self._held_s += time.monotonic() - self._held_since_s
        self.due_s = self._deadline_s
        self._send(slot)

    def refused(self, error: RequestError) -> None:
        self._tell(error, Outcome.ENGINE_FAILED if error.source == "engine" else Outcome.REJECTED)

    def prefix_hash(self) -> int | None:
        return prefix_hash(self._body)

    def _wait(self, now_s: float) -> None:
        self._slot = None
        self._held_since_s = now_s
        if self._stream:
            self.due_s = min(self._deadline_s, now_s + self._gateway.config.heartbeat_s)

    # --- sending ---

    def _send(self, slot: Slot) -> None:
        self._slot = slot
        connection = slot.upstream.take()
        if connection is None:
            self._gateway.spawn(self._connect(slot))
        else:
            self._send_on(connection)

    async def _connect(self, slot: Slot) -> None:
        try:
            connection = await slot.upstream.connect()
        except OSError:
            if self._slot is slot and not self._finished:
                self._service.pool.suspect(slot)
                self._again(slot)
            return
        if self._slot is slot and not self._finished:
            self._send_on(connection)
        else:
            connection.keep()

    def _send_on(self, connection: Connection) -> None:
        self._connection = connection
        body = self._body
        headers = self._exchange.request.headers
        trace = b""
        if b"traceparent" in headers:
            trace = b"traceparent: %b\r\ntracestate: %b\r\n" % (
                headers[b"traceparent"],
                headers.get(b"tracestate", b""),
            )
        post = connection.upstream.post(self._path)
        connection.send(
            b"%b%b%bContent-Length: %d\r\n\r\n%b" % (post, self._id_line, trace, len(body), body),
            self,
        )

    def _again(self, slot: Slot) -> None:
        """Send it again, to whichever replica is free: the client has seen nothing of an answer."""
        self._num_retries += 1
        self._service.metrics.num_retries += 1
        self._connection = None
        self._events = None
        self._tail = b""
        now_s = time.monotonic()
        self._wait(now_s)
        self._service.pool.requeue(self, slot, len(self._body), now_s)

    # --- Receiver ---

    _lines: bytes
    _length: int | None

    def answered(self, status: int, content_type: bytes, lines: bytes, body: bytes) -> None:
        if self._held_since_s and self._exchange.started:  # a held stream has had its heartbeat
            self.received_head(status, content_type, lines, len(body))
            self.received(body)
            self.ended()
            return
        self._connection = None
        self._status = status
        self._whole = True
        self._tail = body
        now_s = time.monotonic()
        self._note_first_byte(now_s)
        self._exchange.respond_lines(status, lines, body)
        self._finish(Outcome.OK, status, now_s=now_s)

    def received_head(self, status: int, content_type: bytes, lines: bytes, content_length: int | None) -> None:
        self._status = status
        self._lines = lines
        self._length = content_length
        if content_type.startswith(EVENT_STREAM):
            self._events = EventStream(hide_usage=self._hide_usage)

    def received(self, data: bytes) -> None:
        events = self._events
        if events is not None:
            data = events.feed(data)
            if not data:
                return
            if not self._answered:
                self._begin_answer()
            self._exchange.write(data)
            return
        if self._gathered is not None or (not self._answered and self._exchange.started):
            self._gather(data)
            return
        if not self._answered:
            if len(data) == self._length:
                self._note_first_byte(time.monotonic())
                self._whole = True
                self._tail = data[-TAIL_BYTES:]
                self._exchange.respond_lines(self._status, self._lines, data)
                return
            self._begin_answer()
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        self._exchange.write(data)

    def ended(self) -> None:
        self._connection = None
        exchange = self._exchange
        if not self._whole:
            if self._gathered is not None:
                exchange.write(errors.event_of_body(b"".join(self._gathered), self._status))
                exchange.end()
            elif not exchange.started:
                self._note_first_byte(time.monotonic())
                exchange.respond_lines(self._status, self._lines, b"")
            else:
                if self._events is not None:
                    exchange.write(self._events.rest())
                exchange.end()
        self._finish(Outcome.OK, self._status)

    def lost(self, reason: str, *, stale: bool) -> None:
        slot = self._slot
        assert slot is not None
        self._connection = None
        if self._answered or self._gathered is not None:
            self._cut(errors.engine_failed(self._service.name, reason, 1), Outcome.ENGINE_FAILED)
            return
        if not stale:
            self._num_failures += 1
            self._service.pool.suspect(slot)
            if self._num_failures > self._gateway.config.max_retries:
                error = errors.engine_failed(self._service.name, reason, self._num_failures)
                self._tell(error, Outcome.ENGINE_FAILED)
                return
        self._again(slot)

    def _begin_answer(self) -> None:
        self._note_first_byte(time.monotonic())
        if not self._exchange.started:
            self._exchange.start_lines(self._status, self._lines, None if self._events is not None else self._length)
        self._exchange.on_flow(self._pause, self._resume)
        if self._events is not None:
            write = self._exchange.relay()
            if write is not None and self._connection is not None:
                self._connection.relay = self._events.relay_to(write)
            self.due_s = 0.0  # at the next tick the log hears of it for the first time

    def _note_first_byte(self, now_s: float) -> None:
        self._answered = True
        assert self._slot is not None
        self._slot.num_refusals = 0
        self._ttft_s = now_s - self._exchange.request.arrived_s
        self._service.metrics.ttft.observe(self._ttft_s)

    def _gather(self, data: bytes) -> None:
        if self._gathered is None:
            self._note_first_byte(time.monotonic())
            self._gathered = []
        if sum(map(len, self._gathered)) < _MAX_GATHERED_BYTES:
            self._gathered.append(data)

    def _pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def _resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    # --- other ends ---

    def on_due(self, now_s: float) -> None:
        if now_s >= self._deadline_s:
            self._time_out()
            return
        if self._events is not None and self._answered:
            self._note_progress(self._events, now_s)
            return
        if self._slot is None:
            if not self._exchange.started:
                self._exchange.start_lines(200, _HEARTBEAT_LINES, None)
            waits_for = one_line(self._service.pool.report.waits_for)
            why = f" ({waits_for})" if waits_for else ""
            self._exchange.write(f": held until a replica of {self._service.name} is ready{why}\n\n".encode())
        self.due_s = min(self._deadline_s, now_s + self._gateway.config.heartbeat_s)

    def _note_progress(self, events: EventStream, now_s: float) -> None:
        assert self._slot is not None
        prompt_tokens = events.usage.prompt_tokens if events.usage is not None else 0
        self._gateway.log.progress(
            self._seq,
            self._status,
            self._slot.replica.id,
            prompt_tokens,
            events.completion_tokens,
            self._ttft_s,
            self._held_s,
            self._num_retries,
        )
        self.due_s = min(self._deadline_s, now_s + PROGRESS_EVERY_S)

    def _time_out(self) -> None:
        service = self._service
        is_held = self._slot is None
        report = service.pool.report
        reason = one_line(report.waits_for) if is_held else None
        error = errors.timed_out(
            service.name, service.timeout_s, held=is_held, reason=reason, retry_after_s=report.retry_after_s
        )
        if self._answered:
            self._cut(error, Outcome.TIMED_OUT)
        else:
            self._tell(error, Outcome.TIMED_OUT)

    def _client_gone(self) -> None:
        if self._whole or (self._events is not None and self._events.is_done):
            # Many clients close at `[DONE]`, which can come before the answer's last chunk: they have had all of it.
            self._finish(Outcome.OK, self._status)
            return
        self._finish(Outcome.CLIENT_GONE, self._status if self._answered else 0, _CLIENT_GONE_CODE)

    def _tell(self, error: RequestError, outcome: Outcome) -> None:
        """The client has had nothing of an answer: the error is the answer, or a held stream's last event."""
        exchange = self._exchange
        if exchange.started:
            exchange.write(errors.event(error))
            exchange.end()
        else:
            exchange.refuse(error)
        self._finish(outcome, error.status)

    def _cut(self, error: RequestError, outcome: Outcome) -> None:
        """The answer cannot be finished: a stream ends with an event that says so, another connection is cut."""
        self._service.metrics.num_cut += 1
        if self._events is not None or self._gathered is not None:
            self._exchange.write(errors.event(error))
            self._exchange.end()
        else:
            self._exchange.abort()
        self._finish(outcome, self._status)

    def _finish(self, outcome: Outcome, status: int, code: int = 0, *, now_s: float = 0.0) -> None:
        if self._finished:
            return
        self._finished = True
        gateway, service, slot = self._gateway, self._service, self._slot
        gateway.deadlines.discard(self)
        if not now_s:
            now_s = time.monotonic()
        prompt_tokens = completion_tokens = 0
        if self._events is not None:
            usage = self._events.usage
            prompt_tokens = usage.prompt_tokens if usage is not None else 0
            completion_tokens = self._events.completion_tokens
        elif self._tail and self._status == 200:
            usage = usage_in_tail(self._tail)
            if usage is not None:
                prompt_tokens, completion_tokens = usage.prompt_tokens, usage.completion_tokens or 0
        metrics = service.metrics
        metrics.prompt_tokens += prompt_tokens
        metrics.completion_tokens += completion_tokens
        metrics.by_code[code or status] += 1
        metrics.duration.observe(now_s - self._exchange.request.arrived_s)
        if slot is None and self._held_since_s:
            self._held_s += now_s - self._held_since_s
        if self._held_s:
            metrics.hold.observe(self._held_s)
        gateway.log.end(
            self._seq,
            outcome,
            status,
            slot.replica.id if slot is not None else "",
            prompt_tokens,
            completion_tokens,
            self._ttft_s,
            self._held_s,
            self._num_retries,
            now_s,
        )
        if gateway.on_end is not None:
            gateway.on_end(service.name, completion_tokens)
        if self._connection is not None:
            self._connection.cancel()
            self._connection = None
        if slot is not None:
            service.pool.release(slot, now_s)
        else:
            service.pool.withdraw(self, now_s)
