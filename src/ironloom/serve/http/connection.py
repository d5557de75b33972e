"""One client's connection to the HTTP/1.1 server: an asyncio Protocol, with llhttp for the parsing.

Strictness is llhttp's strict mode (bare LF, folded headers, NUL, a second Content-Length, Content-Length beside
Transfer-Encoding, bad chunk sizes are errors) plus what it leaves to its caller: see `on_headers_complete`. Pipelined
requests are answered in order, one at a time. A client that closes its sending side counts as gone, as it does for
nginx and for Go's server: nothing else tells early that nobody waits for the answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import httptools
from msgspec.structs import force_setattr

from ironloom.errors import RequestError
from ironloom.serve.http import wire
from ironloom.serve.http.answer import HttpExchange
from ironloom.serve.http.deadlines import NEVER_S
from ironloom.serve.http.exchange import KnownRequest, Request
from ironloom.serve.http.known_heads import split_head
from ironloom.serve.http.limits import Limits
from ironloom.serve.http.target import host_is_valid, split_target

if TYPE_CHECKING:
    from ironloom.serve.http.server import HttpServer

_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")}
_SINGLE = frozenset({b"host", b"content-length", b"transfer-encoding", b"authorization", b"content-type", b"origin"})
_LINGER_S = 2.0
"""After a refusal the peer may still be sending: it is read this long, so that a reset does not eat the answer."""


class ServerConnection(asyncio.Protocol):
    """One client's connection. Its parser's callbacks are the methods named `on_…`."""

    __slots__ = (
        "_body",
        "_body_since_s",
        "_completed",
        "_continue_owed",
        "_current",
        "_ended",
        "_headers",
        "_is_between",
        "_known",
        "_num_unread",
        "_parser",
        "_peer",
        "_queue",
        "_reading",
        "_received",
        "_refused",
        "_url",
        "due_s",
        "server",
        "transport",
        "write_paused",
    )

    transport: asyncio.Transport

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.due_s = NEVER_S
        self.write_paused = False
        """True while the client is too slow for what was written."""
        self._parser: Any = httptools.HttpRequestParser(self)
        self._peer = ""
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._reading: HttpExchange | None = None
        """From the end of a head to the end of its body."""
        self._body_since_s = 0.0
        """From when the time for a body counts."""
        self._body: list[bytes] = []
        self._received = 0
        """Bytes so far of the head that is not whole, or of the body that is not."""
        self._num_unread = 0
        """Of these, the bytes that count among all connections' unread ones."""
        self._continue_owed = False
        self._is_between = True
        """True while the parser has not a byte of a message that is not whole."""
        self._completed: HttpExchange | None = None
        """The last request that became whole in this read."""
        self._known: KnownRequest | None = None
        """The head of the last request that came in one read: see known_heads."""
        self._current: HttpExchange | None = None
        """The request that is being answered."""
        self._queue: deque[HttpExchange] = deque()
        """Requests behind it."""
        self._refused: RequestError | None = None
        """Set once nothing more of this peer is parsed."""
        self._ended = False
        """The last answer was written; what still comes is thrown away."""

    # --- transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        peername = transport.get_extra_info("peername")
        self._peer = str(peername[0]) if isinstance(peername, tuple) else ""
        self.server.connections.add(self)
        self.due_s = time.monotonic() + self.server.limits.head_timeout_s
        if len(self.server.connections) > self.server.limits.max_connections:
            self.refuse(refusal(503, "too many connections", "overloaded", retry_after_s=1.0))

    def data_received(self, data: bytes) -> None:
        if self._ended or self._refused is not None:
            return
        if self._is_between and self._known is not None and self._take_known(self._known, data):
            return
        max_head_bytes = self.server.limits.max_head_bytes
        # A head's size is bounded without counting each header: by what came before, and by this read up to its end.
        if len(data) > max_head_bytes and self._reading is None and data.find(b"\r\n\r\n", 0, max_head_bytes) < 0:
            self.refuse(_head_too_large(self.server.limits))
            return
        was_between, self._is_between = self._is_between, False
        missing = self._num_missing()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # An upgrade is ignored, as a server may; llhttp stops there, so this request is the connection's last.
            self._last_request()
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, RequestError):
                raise
            self.refuse(cause)
        except httptools.HttpParserError as error:
            if not self._is_last_request():
                self.refuse(refusal(400, f"not a valid HTTP request: {error}", "bad_http"))
        completed, self._completed = self._completed, None
        if completed is not None:
            self._is_between = len(data) == missing or (was_between and self._learn(data, completed))
        if self._reading is not None:
            if self._count_unread() and self._current is None:
                self._await_body()
        elif self._url:
            self._received += len(data)
            if self._received > max_head_bytes:
                self.refuse(_head_too_large(self.server.limits))
            elif self._current is None and self._received == len(data):
                self.due_s = self.server.deadlines.now_s + self.server.limits.head_timeout_s

    def _take_known(self, known: KnownRequest, data: bytes) -> bool:
        """Take a request whose head is known, all of which came in this read; False when it is none, or its turn has
        not come."""
        if self._current is not None or self._queue or self.write_paused:
            return False
        body = known.body(data)
        server = self.server
        if body is None or len(body) > server.limits.max_body_bytes:
            return False
        self.due_s = NEVER_S
        like = known.request
        request = Request(
            like.method, like.target, like.path, like.query, known.headers, body, self._peer, time.monotonic(), known
        )
        exchange = self._current = HttpExchange(self, request, True, False)
        server.handle(exchange)
        return True

    def _learn(self, data: bytes, exchange: HttpExchange) -> bool:
        """Whether a read was one request and nothing else. The head of such a one is known from now on."""
        request = exchange.request
        end = data.find(b"\r\n\r\n") + 4
        if end + len(request.body) != len(data) or b"transfer-encoding" in request.headers:
            return False
        parts = split_head(data[:end]) if exchange.is_plain else None
        self._known = KnownRequest(*parts, request) if parts is not None else None
        return True

    def _num_missing(self) -> int:
        """Bytes that the body being read still lacks; -1 where that is not known, or there is none."""
        if self._reading is None:
            return -1
        length = self._reading.request.headers.get(b"content-length")
        return int(length) - self._received if length is not None else -1

    def connection_lost(self, _exc: Exception | None) -> None:
        self.due_s = NEVER_S
        self.server.connection_lost(self)
        self._drop_body()
        self._parser = None
        exchanges = [self._current, *self._queue]
        self._current = None
        self._queue.clear()
        for exchange in exchanges:
            if exchange is not None:
                exchange.client_gone()

    def pause_writing(self) -> None:
        self.write_paused = True
        self.due_s = time.monotonic() + self.server.limits.send_timeout_s
        if self._current is not None:
            self._current.pause()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._current is not None:
            self.due_s = NEVER_S
            self._current.resume()
        else:
            self._idle()

    def on_due(self, _now_s: float) -> None:
        """A deadline passed: of the head, the body, an idle connection, a client that takes nothing, a linger."""
        self.due_s = NEVER_S
        if self._ended or self._current is not None or self.transport.get_write_buffer_size():
            self.transport.abort()
        elif self._reading is not None:
            self.refuse(refusal(408, "the request's body did not come in time", "request_timeout"))
        elif self._url:
            self.refuse(refusal(408, "the request's head did not come in time", "request_timeout"))
        else:
            self.transport.close()

    # --- parser ---

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is not None:
            return  # a trailer: read, and of no use to anybody here
        name = name.lower()
        headers = self._headers
        if name in headers:
            if name in _SINGLE:
                raise refusal(400, f"the header {name.decode()} is repeated", "bad_http")
            value = headers[name] + b", " + value
        headers[name] = value

    def on_headers_complete(self) -> None:
        headers = self._headers
        limits = self.server.limits
        method = self._parser.get_method()
        version = self._parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise refusal(505, f"HTTP {version} is not spoken here; HTTP/1.1 is", "bad_http")
        if method not in _METHODS:
            raise refusal(501, f"the method {method.decode()} is not known here", "bad_http")
        if len(headers) > limits.max_headers:
            raise refusal(431, f"more than {limits.max_headers} headers", "head_too_large")
        path, query, authority = split_target(self._url)
        if authority is not None:
            headers[b"host"] = authority
        host = headers.get(b"host")
        if host is None:
            if version == "1.1":
                raise refusal(400, "the header host is missing", "bad_http")
        elif not host_is_valid(host):
            raise refusal(400, "the header host is not a host", "bad_http")
        if b"transfer-encoding" in headers:
            if version == "1.0":
                raise refusal(400, "Transfer-Encoding in an HTTP/1.0 request", "bad_http")
            if headers[b"transfer-encoding"].lower() != b"chunked":
                raise refusal(501, "the only transfer coding known here is chunked", "bad_http")
        elif b"content-length" in headers and int(headers[b"content-length"]) > limits.max_body_bytes:
            raise _body_too_large(limits)
        self._continue_owed = b"expect" in headers and version == "1.1"
        if self._continue_owed and headers[b"expect"].lower() != b"100-continue":
            raise refusal(417, "the only expectation known here is 100-continue", "bad_http")
        self._received = 0
        self._body_since_s = now_s = time.monotonic()
        request = Request(_METHODS[method], self._url.decode("ascii"), path, query, headers, b"", self._peer, now_s)
        self._reading = HttpExchange(self, request, self._parser.should_keep_alive(), version == "1.0")

    def on_body(self, data: bytes) -> None:
        self._received += len(data)
        self._body.append(data)
        if self._received > self.server.limits.max_body_bytes:
            raise _body_too_large(self.server.limits)

    def on_message_complete(self) -> None:
        exchange = self._reading
        assert exchange is not None
        self._completed = exchange
        parts = self._body
        if parts:
            force_setattr(exchange.request, "body", parts[0] if len(parts) == 1 else b"".join(parts))
        self._url = b""
        self._headers = {}
        self._drop_body()
        if self._current is None and not self._queue and not self.write_paused:
            self.due_s = NEVER_S
            self._current = exchange
            self.server.handle(exchange)
            return
        self._queue.append(exchange)
        if len(self._queue) == self.server.limits.max_pipelined:
            self.transport.pause_reading()
        elif len(self._queue) > 4 * self.server.limits.max_pipelined:
            raise refusal(400, "too many pipelined requests", "bad_http")

    # --- what an exchange calls ---

    def finished(self, exchange: HttpExchange) -> None:
        """The exchange's answer is written whole: go on with the next request, or close."""
        self._current = None
        if not exchange.keep_alive:
            self._end()
        elif self._queue:
            # From the loop: a handler that answers at once would recurse here once for each waiting request.
            asyncio.get_running_loop().call_soon(self._next)
        elif self._refused is not None:
            self._tell_refusal()
        elif self._url or self.write_paused:
            self._idle()
        else:
            self.due_s = self.server.idle_due_s

    def _idle(self) -> None:
        """Nothing is being answered: wait for a request, for the rest of one, or take the next that waits."""
        if self.write_paused:
            return
        if self._queue:
            self._next()
        elif self._reading is not None:
            # The body's time runs from now: while another request was being answered nobody asked for it.
            self._body_since_s = time.monotonic()
            self._await_body()
        elif self._url:
            self.due_s = self.server.deadlines.now_s + self.server.limits.head_timeout_s
        elif not self._ended:
            self.due_s = self.server.idle_due_s

    def _await_body(self) -> None:
        if self._continue_owed:
            self._continue_owed = False
            if self._received == 0:
                self.transport.write(wire.CONTINUE)
        limits = self.server.limits
        grace_s = limits.body_timeout_s + self._received / limits.min_body_bytes_per_s
        self.due_s = self._body_since_s + grace_s

    def _next(self) -> None:
        if self._current is not None or not self._queue or self.write_paused:
            return
        exchange = self._queue.popleft()
        if len(self._queue) == self.server.limits.max_pipelined - 1 and not self.transport.is_closing():
            self.transport.resume_reading()
        self._current = exchange
        self.due_s = NEVER_S
        self.server.handle(exchange)

    def refuse(self, error: RequestError) -> None:
        """Parse nothing more of this peer; answer what came before, then this error, then close."""
        if self._refused is not None:
            return
        self._refused = error
        self._drop_body()
        if self._current is None and not self._queue:
            self._tell_refusal()

    def _tell_refusal(self) -> None:
        error = self._refused
        assert error is not None
        self.server.num_refused += 1
        body = wire.error_body(error)
        lines = wire.header_lines(
            (
                ("Content-Type", "application/json"),
                *wire.error_headers(error),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            )
        )
        self.transport.write(wire.status_line(error.status) + self.server.date_line + lines + b"\r\n" + body)
        self._end()

    def _end(self) -> None:
        """The last answer is written: close, and so that the peer can read it though it may still be sending."""
        self._ended = True
        if self.transport.is_closing():
            return
        if self._refused is not None and self.transport.can_write_eof():
            self.transport.write_eof()
            self.due_s = time.monotonic() + _LINGER_S
        else:
            self.transport.close()

    def close_if_idle(self) -> None:
        """At shutdown: a connection without a request in it is closed, the others end after their answer."""
        if self._current is None and self._reading is None and not self._queue:
            self._ended = True
            self.transport.close()

    def _newest(self) -> HttpExchange | None:
        return self._queue[-1] if self._queue else self._current

    def _is_last_request(self) -> bool:
        """True while the last request of this connection is being answered: more bytes are then ignored."""
        newest = self._newest()
        return self._ended or (newest is not None and not newest.keep_alive)

    def _last_request(self) -> None:
        newest = self._newest()
        if newest is None:
            self._end()  # it was answered before llhttp spoke up
        else:
            newest.keep_alive = False

    def _count_unread(self) -> bool:
        """Count what is there of a body that is not whole; False when that is too much for the server."""
        self.server.num_unread_bytes += self._received - self._num_unread
        self._num_unread = self._received
        if self.server.num_unread_bytes > self.server.limits.max_unread_bytes:
            self.refuse(refusal(503, "too many large requests at once", "overloaded", retry_after_s=1.0))
            return False
        return True

    def _drop_body(self) -> None:
        self._reading = None
        self._received = 0
        self._body = []
        if self._num_unread:
            self.server.num_unread_bytes -= self._num_unread
            self._num_unread = 0


def refusal(
    status: int,
    message: str,
    code: str,
    *,
    source: str = "client",
    type: str = "invalid_request_error",  # noqa: A002 (OpenAI's own name)
    retry_after_s: float | None = None,
) -> RequestError:
    """What the HTTP layer itself refuses with; `source` says whose fault it is."""
    return RequestError(status, message, code=code, source=source, type=type, retry_after_s=retry_after_s)


def _head_too_large(limits: Limits) -> RequestError:
    return refusal(431, f"the head is larger than {limits.max_head_bytes} bytes", "head_too_large")


def _body_too_large(limits: Limits) -> RequestError:
    return refusal(413, f"the body is larger than {limits.max_body_bytes} bytes", "body_too_large")
