"""One request's answer on a connection: the Exchange that handlers see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from ironloom.errors import RequestError
from ironloom.serve.http import wire
from ironloom.serve.http.exchange import Request

if TYPE_CHECKING:
    from ironloom.serve.http.connection import ServerConnection

_OPEN, _STARTED, _ENDED, _GONE = range(4)
_BODILESS = frozenset({204, 304})


class HttpExchange:
    """See `ironloom.serve.http.exchange.Exchange`."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_flow",
        "_gone_callback",
        "_http_1_0",
        "_left",
        "_state",
        "_waiter",
        "extra_lines",
        "keep_alive",
        "request",
    )

    def __init__(self, connection: ServerConnection, request: Request, keep_alive: bool, http_1_0: bool) -> None:
        self.request = request
        self.extra_lines = b""
        self.keep_alive = keep_alive
        self._connection = connection
        self._http_1_0 = http_1_0
        self._state = _OPEN
        self._chunked = False
        self._left = 0
        """Bytes still owed of an answer whose length was told."""
        self._gone_callback: Callable[[], None] | None = None
        self._flow: tuple[Callable[[], None], Callable[[], None]] | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_plain(self) -> bool:
        """True for a request of HTTP/1.1 that asks nothing of its connection: another may follow it as it is."""
        headers = self.request.headers
        return self.keep_alive and not self._http_1_0 and b"upgrade" not in headers and b"expect" not in headers

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
        connection = self._connection
        server = connection.server
        length = len(body)
        if self.request.method == "HEAD" or status in _BODILESS:
            body = b""
        if status != 200 or self._http_1_0 or server.closing or not self.keep_alive:
            data = self._head(status, lines, length, body)
        else:
            data = b"HTTP/1.1 200 OK\r\n%b%b%bContent-Length: %d\r\n\r\n%b" % (
                server.date_line,
                lines,
                self.extra_lines,
                length,
                body,
            )
        connection.transport.write(data)
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

    def relay(self) -> Callable[[bytes], None] | None:
        is_chunked = self._state == _STARTED and self._chunked and self.request.method != "HEAD"
        return self._connection.transport.write if is_chunked else None

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
        if self._http_1_0 or server.closing or not self.keep_alive:
            self.keep_alive = self.keep_alive and not server.closing
            lines += b"Connection: keep-alive\r\n" if self.keep_alive else b"Connection: close\r\n"
        start = (wire.STATUS_LINES.get(status) or wire.status_line(status), server.date_line, lines, self.extra_lines)
        if content_length is not None and status != 204:
            return b"%b%b%b%bContent-Length: %d\r\n\r\n%b" % (*start, content_length, body)
        return b"%b%b%b%b%b\r\n" % (*start, b"Transfer-Encoding: chunked\r\n" if self._chunked else b"")

    def _finish(self) -> None:
        self._state = _ENDED
        if self._waiter is not None:
            self._wake()
        self._gone_callback = self._flow = None
        self._connection.finished(self)
