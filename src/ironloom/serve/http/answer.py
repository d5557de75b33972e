"""One request's answer on a connection: the Exchange that handlers see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from ironloom.errors import RequestError
from ironloom.serve.http import wire
from ironloom.serve.http.exchange import Request

if TYPE_CHECKING:
    from ironloom.serve.http.server import _Connection

_OPEN, _STARTED, _ENDED, _GONE = range(4)
_BODILESS = frozenset({204, 304})


class HttpExchange:
    """See `ironloom.serve.http.exchange.Exchange`."""

    # Defaults stand here, so that a request costs no more than what it sets.
    extra_lines = b""
    _state = _OPEN
    _chunked = False
    _left = 0
    """Bytes still owed of an answer whose length was told."""
    _gone_callback: Callable[[], None] | None = None
    _flow: tuple[Callable[[], None], Callable[[], None]] | None = None
    _waiter: asyncio.Future[None] | None = None

    def __init__(self, connection: _Connection, request: Request, keep_alive: bool, http_1_0: bool) -> None:
        self.request = request
        self.keep_alive = keep_alive
        self._connection = connection
        self._http_1_0 = http_1_0

    @property
    def started(self) -> bool:
        return self._state in {_STARTED, _ENDED}

    @property
    def gone(self) -> bool:
        return self._state == _GONE

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
        self.respond(error.status, wire.error_body(error), headers=wire.error_headers(error))

    def respond_lines(self, status: int, lines: bytes, body: bytes) -> None:
        if self._state == _GONE:
            return
        assert self._state == _OPEN, "answered twice"
        bodiless = status in _BODILESS or self.request.method == "HEAD"
        self._connection.transport.write(self._head(status, lines, len(body), b"" if bodiless else body))
        self._finish()

    def start(
        self,
        status: int,
        *,
        content_type: str,
        headers: tuple[tuple[str, str], ...] = (),
        content_length: int | None = None,
    ) -> None:
        self.start_lines(status, wire.header_lines((("Content-Type", content_type), *headers)), content_length)

    def start_lines(self, status: int, lines: bytes, content_length: int | None) -> None:
        if self._state == _GONE:
            return
        assert self._state == _OPEN, "answered twice"
        self._state = _STARTED
        if content_length is None:
            if self._http_1_0:
                self.keep_alive = False  # its end is the connection's end
            else:
                self._chunked = True
        else:
            self._left = content_length
        self._connection.transport.write(self._head(status, lines, content_length))

    def write(self, data: bytes) -> None:
        if self._state == _GONE or not data:
            return
        assert self._state == _STARTED, "written before the start or after the end"
        if self.request.method == "HEAD":
            return
        if self._chunked:
            self._connection.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._left -= len(data)
            self._connection.transport.write(data)

    def end(self) -> None:
        if self._state == _GONE:
            return
        assert self._state == _STARTED, "ended before the start or twice"
        if self.request.method != "HEAD":
            if self._chunked:
                self._connection.transport.write(wire.LAST_CHUNK)
            elif self._left != 0 and not self._http_1_0:
                self.abort()  # what was told and what was written differ: the framing is broken
                return
        self._finish()

    def abort(self) -> None:
        if self._state != _GONE:
            self._connection.transport.abort()

    def on_gone(self, callback: Callable[[], None]) -> None:
        if self._state == _GONE:
            callback()
        else:
            self._gone_callback = callback

    def on_flow(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._flow = (pause, resume)
        if self._connection.write_paused:
            pause()

    async def drain(self) -> None:
        if self._connection.write_paused and self._state == _STARTED:
            if self._waiter is None:
                self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiter)

    # --- what the connection calls ---

    def client_gone(self) -> None:
        if self._state == _ENDED:
            return
        self._state = _GONE
        self._wake()
        callback, self._gone_callback = self._gone_callback, None
        self._flow = None
        if callback is not None:
            callback()

    def pause(self) -> None:
        if self._flow is not None:
            self._flow[0]()

    def resume(self) -> None:
        self._wake()
        if self._flow is not None:
            self._flow[1]()

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.set_result(None)
            self._waiter = None

    def _head(self, status: int, lines: bytes, content_length: int | None, body: bytes = b"") -> bytes:
        server = self._connection.server
        if server.closing:
            self.keep_alive = False
        framing = b""
        if content_length is not None:
            if status != 204:
                framing = b"Content-Length: %d\r\n" % content_length
        elif self._chunked:
            framing = b"Transfer-Encoding: chunked\r\n"
        if not self.keep_alive:
            framing += b"Connection: close\r\n"
        elif self._http_1_0:
            framing += b"Connection: keep-alive\r\n"
        status_line = wire.status_line(status)
        return b"%b%b%b%b%b\r\n%b" % (status_line, server.date_line, lines, self.extra_lines, framing, body)

    def _finish(self) -> None:
        self._state = _ENDED
        if self._waiter is not None:
            self._wake()
        self._gone_callback = None
        self._flow = None
        self._connection.finished(self)
