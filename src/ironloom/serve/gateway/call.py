"""Requests from inside the daemon: an Exchange whose client is a coroutine."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from ironloom.errors import RequestError
from ironloom.serve.http import wire
from ironloom.serve.http.exchange import Request

_HIGH_BYTES = 256 * 1024
"""More than this unread pauses the engine; half of it goes on."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """An engine's answer. Closing the iterator early drops the request; so does letting go of it unread."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: AsyncIterator[bytes]


class MemoryExchange:
    """See `ironloom.serve.http.exchange.Exchange`."""

    def __init__(self, path: str, body: bytes, headers: Mapping[bytes, bytes]) -> None:
        self.request = Request("POST", path, path, "", dict(headers), body, "", time.monotonic())
        self.extra_lines = b""
        self._status = 0
        self._lines = b""
        self._pieces: deque[bytes] = deque()
        self._num_bytes = 0
        self._paused = False
        self._ended = False
        self._aborted = False
        self._gone = False
        self._error: RequestError | None = None
        self._news = asyncio.Event()
        self._gone_callback: Callable[[], None] | None = None
        self._flow: tuple[Callable[[], None], Callable[[], None]] | None = None

    # --- the gateway's side ---

    @property
    def started(self) -> bool:
        return self._status != 0 or self._error is not None

    @property
    def gone(self) -> bool:
        return self._gone

    def respond(
        self,
        status: int,
        body: bytes,
        *,
        content_type: str = "application/json",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.respond_lines(status, wire.header_lines((("Content-Type", content_type), *headers)), body)

    def refuse(self, error: RequestError) -> None:
        self._error = error
        self.end()

    def respond_lines(self, status: int, lines: bytes, body: bytes) -> None:
        self.start_lines(status, lines, len(body))
        self.write(body)
        self.end()

    def start(
        self,
        status: int,
        *,
        content_type: str,
        headers: tuple[tuple[str, str], ...] = (),
        content_length: int | None = None,
    ) -> None:
        self.start_lines(status, wire.header_lines((("Content-Type", content_type), *headers)), content_length)

    def start_lines(self, status: int, lines: bytes, content_length: int | None) -> None:  # noqa: ARG002
        self._status, self._lines = status, lines
        self._news.set()

    def write(self, data: bytes) -> None:
        if self._gone or not data:
            return
        self._pieces.append(data)
        self._num_bytes += len(data)
        self._news.set()
        if self._num_bytes > _HIGH_BYTES and not self._paused:
            self._paused = True
            if self._flow is not None:
                self._flow[0]()

    def relay(self) -> Callable[[bytes], None] | None:
        return None

    async def drain(self) -> None:
        return  # the gateway never waits here: it is paused through on_flow

    def end(self) -> None:
        self._ended = True
        self._gone_callback = None
        self._news.set()

    def abort(self) -> None:
        self._aborted = True
        self.end()

    def on_gone(self, callback: Callable[[], None]) -> None:
        if self._gone:
            callback()
        else:
            self._gone_callback = callback

    def on_flow(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._flow = (pause, resume)
        if self._paused:
            pause()

    # --- the caller's side ---

    async def result(self) -> CallResult:
        """The answer, once its head is there. Cancelling drops the request."""
        try:
            await self._news.wait()
        except asyncio.CancelledError:
            self._leave()
            raise
        if self._error is not None:
            raise self._error
        if self._aborted and not self.started:
            raise _cut()
        pairs = (line.partition(": ") for line in self._lines.decode("latin-1").split("\r\n") if line)
        return CallResult(self._status, {name.lower(): value for name, _, value in pairs}, self._body())

    async def _body(self) -> AsyncIterator[bytes]:
        try:
            while True:
                while self._pieces:
                    piece = self._pieces.popleft()
                    self._num_bytes -= len(piece)
                    if self._paused and self._num_bytes < _HIGH_BYTES // 2:
                        self._paused = False
                        if self._flow is not None:
                            self._flow[1]()
                    yield piece
                if self._aborted:
                    raise _cut()
                if self._ended:
                    return
                self._news.clear()
                await self._news.wait()
        finally:
            self._leave()

    def _leave(self) -> None:
        if not self._ended:
            self._gone = True
            callback, self._gone_callback = self._gone_callback, None
            if callback is not None:
                callback()


def _cut() -> RequestError:
    return RequestError(
        502,
        "the engine's answer ended early",
        type="server_error",
        code="engine_failed",
        source="engine",
    )
