"""The HTTP/1.1 client of the gateway: connections to one engine, kept and reused.

Callbacks, not coroutines: an answer's head, pieces and end are handed to a Receiver as they are read. The answer's
headers come as bytes ready to be sent on, without those that belong to the hop.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol, cast

import httptools

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
MAX_IDLE = 256
"""Idle connections kept to one engine."""
MAX_HEAD_BYTES = 64 * 1024

_OWN = frozenset(
    b"connection keep-alive proxy-authenticate proxy-connection te trailer transfer-encoding upgrade "
    b"content-length date server x-request-id vary".split()
)
"""Headers of an answer that are not passed on: the hop's own, and those that the gateway writes itself."""


class Receiver(Protocol):
    """Who gets an answer. Called from the loop; after `lost` or `ended` nothing more comes."""

    def received_head(self, status: int, content_type: bytes, lines: bytes, content_length: int | None) -> None:
        """The final head. `lines` has Content-Type and what else is passed on, each line with its CRLF."""
        ...

    def received(self, data: bytes) -> None:
        """A piece of the body, without framing."""
        ...

    def ended(self) -> None:
        """The answer is whole, and its connection is free again."""
        ...

    def lost(self, reason: str, *, stale: bool) -> None:
        """The connection ended before the answer did, or what came is not HTTP.

        `stale` is True when it was a kept connection and not a byte came: the engine most likely closed it as the
        request was on its way, which says nothing of the engine's health.
        """
        ...


class Upstream:
    """One engine's address and the idle connections to it."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.authority = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
        self.idle: list[Connection] = []
        self.connections: set[Connection] = set()
        self.closed = False

    def take(self) -> Connection | None:
        """An idle connection, the one used last (the warmest, and the least likely to be stale), or None."""
        while self.idle:
            connection = self.idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    async def connect(self) -> Connection:
        """A new connection. Raises OSError, TimeoutError included."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await loop.create_connection(lambda: Connection(self), self.host, self.port)
        return connection

    def close(self) -> None:
        """Close what is idle now, and the rest as it comes back."""
        self.closed = True
        for connection in self.idle:
            connection.transport.close()
        self.idle.clear()

    def abort(self) -> None:
        """Cut every connection: each Receiver hears `lost`."""
        self.close()
        for connection in list(self.connections):
            connection.transport.abort()


class Connection(asyncio.Protocol):
    """One connection to an engine; at most one request at a time is on it."""

    __slots__ = (
        "_complete",
        "_content_length",
        "_content_type",
        "_head_bytes",
        "_in_body",
        "_keep",
        "_lines",
        "_named_hops",
        "_parser",
        "_paused",
        "_receiver",
        "_reused",
        "_silent",
        "_upstream",
        "authority",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self.authority = upstream.authority
        """What Host must say."""
        self._parser: Any = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._reused = False
        self._paused = False
        self._silent = True
        """True until the first byte of an answer."""
        self._reset()

    def _reset(self) -> None:
        self._lines = b""
        self._content_type = b""
        self._content_length: int | None = None
        self._named_hops: bytes | None = None
        """The headers that belong to the hop by the answer's own Connection header."""
        self._head_bytes = 0
        self._in_body = False
        self._keep = False
        self._complete = False

    def send(self, data: bytes, receiver: Receiver) -> None:
        """Send a whole request; its answer goes to the receiver."""
        assert self._receiver is None, "one request at a time"
        self._receiver = receiver
        self._silent = True
        self.transport.write(data)

    def cancel(self) -> None:
        """The receiver wants nothing more: the connection is cut, which is how an engine learns of it."""
        self._receiver = None
        self.transport.abort()

    def keep(self) -> None:
        """Nobody wants this fresh connection any more: keep it for the next request."""
        if self._upstream.closed or len(self._upstream.idle) >= MAX_IDLE:
            self.transport.close()
        else:
            self._upstream.idle.append(self)

    def pause(self) -> None:
        """Read nothing more for now: who the answer is for is slow."""
        if not self._paused and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()

    # --- transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._upstream.connections.add(self)

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            self.transport.abort()  # nobody asked: whatever it is, it is not the answer to a request to come
            return
        self._silent = False
        if len(data) > MAX_HEAD_BYTES and not self._in_body and data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES) < 0:
            self._lost("its answer's head is too large")
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if isinstance(error, httptools.HttpParserCallbackError):
                logger.error("an answer could not be passed on", exc_info=error.__context__)
            if not self._complete:
                self._lost(f"it answered what is not HTTP: {error}")
                return
            self._keep = False  # bytes after the answer
        if self._complete:
            if self._receiver is not None:
                self._finish(receiver)
        elif not self._in_body:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._lost("its answer's head is too large")

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.connections.discard(self)
        if self in self._upstream.idle:
            self._upstream.idle.remove(self)
        receiver = self._receiver
        if receiver is not None:
            if self._in_body and self._content_length is None and not self._keep and exc is None:
                self._receiver = None
                receiver.ended()  # an answer without a length ends with its connection
            else:
                self._lost(f"its connection ended{f': {exc}' if exc else ''}")
        self._parser = None

    def _finish(self, receiver: Receiver) -> None:
        self._receiver = None
        idle = self._upstream.idle
        if self._keep and len(idle) < MAX_IDLE and not self._upstream.closed:
            self._reused = True
            if self._paused:
                self.resume()
            self._reset()
            idle.append(self)
        else:
            self.transport.close()
        receiver.ended()

    def _lost(self, reason: str) -> None:
        receiver, self._receiver = self._receiver, None
        self.transport.abort()
        if receiver is not None:
            receiver.lost(reason, stale=self._reused and self._silent)

    # --- parser ---

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            return  # a trailer
        lower = name.lower()
        if lower in _OWN:
            if lower == b"content-length":
                self._content_length = int(value)
            elif lower == b"connection":
                self._named_hops = value
            return
        if lower == b"content-type":
            self._content_type = value
        self._lines += b"%b: %b\r\n" % (name, value)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            if status == 101:
                raise httptools.HttpParserError("it switched protocols unasked")
            self._lines = b""
            return
        self._in_body = True
        self._keep = self._parser.should_keep_alive()
        if self._named_hops is not None and self._named_hops.lower() not in {b"close", b"keep-alive"}:
            named = {token.strip().lower() for token in self._named_hops.split(b",")}
            lines = self._lines.splitlines(keepends=True)
            self._lines = b"".join(line for line in lines if line.partition(b":")[0].lower() not in named)
        if self._receiver is not None:
            self._receiver.received_head(status, self._content_type, self._lines, self._content_length)

    def on_body(self, data: bytes) -> None:
        if self._receiver is not None:
            self._receiver.received(data)

    def on_message_complete(self) -> None:
        if self._in_body:
            if self._complete:
                self._keep = False  # a second answer to one request
            self._complete = True
