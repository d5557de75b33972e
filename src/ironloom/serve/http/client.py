"""The HTTP/1.1 client of the gateway: connections to one engine, kept and reused.

Callbacks, not coroutines: an answer's head, pieces and end are handed to a Receiver as they are read. The answer's
headers come as bytes ready to be sent on, without those that belong to the hop.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol, cast

import httptools

from ironloom.serve.http.known_heads import KnownHead, split_head

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
MAX_IDLE = 256
"""Idle connections kept to one engine."""
MAX_HEAD_BYTES = 64 * 1024
EVENT_STREAM = b"text/event-stream"

_MAX_SIZE_DIGITS = 7
"""Of a chunk's size that is read without the parser: more than an engine's chunks need."""
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,7}")

_OWN = frozenset(
    b"connection keep-alive proxy-authenticate proxy-connection te trailer transfer-encoding upgrade "
    b"content-length date server x-request-id vary".split()
)
"""Headers of an answer that are not passed on: the hop's own, and those that the gateway writes itself."""


class Receiver(Protocol):
    """Who gets an answer. Called from the loop; after `lost` or `ended` nothing more comes."""

    def answered(self, status: int, content_type: bytes, lines: bytes, body: bytes) -> None:
        """A whole answer at once, not of a stream: in place of `received_head`, `received` and `ended`."""
        ...

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


class KnownAnswer(KnownHead):
    """The head of an earlier answer of the same engine, not of a stream."""

    __slots__ = ("content_type", "lines", "status")

    def __init__(self, before: bytes, after: bytes, status: int, content_type: bytes, lines: bytes) -> None:
        super().__init__(before, after)
        self.status = status
        self.content_type = content_type
        self.lines = lines


@lru_cache(maxsize=4096)
def chunk_begins(num_bytes: int) -> tuple[bytes, ...]:
    """How a chunk begins that is so many bytes with its framing, in the two ways that servers write its size; none
    where no chunk is so long."""
    for num_digits in range(1, _MAX_SIZE_DIGITS + 1):
        size = num_bytes - num_digits - 4
        line = b"%x\r\n" % max(size, 0)
        if size > 0 and len(line) == num_digits + 2:
            return line, line.upper()
    return ()


@lru_cache(maxsize=4096)
def chunk_size(line: bytes) -> int:
    """The size that a chunk's first line tells, where it tells nothing else; 0 for the last chunk, and for whatever the
    parser is to judge."""
    return int(line, 16) if _SIZE.fullmatch(line) else 0


def are_chunks(data: bytes) -> bool:
    """Whether a read is whole chunks and nothing else, the last one not among them."""
    at, end = 0, len(data)
    while at < end:
        line_end = data.find(b"\r\n", at, at + _MAX_SIZE_DIGITS + 2)
        size = chunk_size(data[at:line_end]) if line_end > at else 0
        at = line_end + 4 + size
        if size == 0 or at > end or not data.startswith(b"\r\n", at - 2):
            return False
    return True


class Upstream:
    """One engine's address and the idle connections to it."""

    def __init__(self, host: str, port: int, prefix: str = "") -> None:
        self.host = host
        self.port = port
        self.authority = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
        self.idle: list[Connection] = []
        self.connections: set[Connection] = set()
        self.closed = False
        self.known: KnownAnswer | None = None
        """The head of its last answer that came in one read: see known_heads."""
        self._prefix = prefix
        """Before each path that is posted to."""
        self._posts: dict[str, bytes] = {}

    def post(self, path: str) -> bytes:
        """How the head of a request to a path of it begins."""
        begin = self._posts.get(path)
        if begin is None:
            line = b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\n"
            begin = self._posts[path] = line % (f"{self._prefix}{path}".encode(), self.authority)
        return begin

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
        "_chunk_is_whole",
        "_complete",
        "_content_length",
        "_content_type",
        "_head_bytes",
        "_in_body",
        "_is_between",
        "_is_between_chunks",
        "_keep",
        "_last_piece",
        "_lines",
        "_named_hops",
        "_parser",
        "_paused",
        "_receiver",
        "_reused",
        "_silent",
        "_status",
        "relay",
        "transport",
        "upstream",
    )

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self._parser: Any = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._reused = False
        self._paused = False
        self._silent = True
        """True until the first byte of an answer."""
        self._is_between = True
        """True while the parser has not a byte of an answer that is not whole."""
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
        self._chunk_is_whole = False
        """True from the end of a chunk to the next one's size."""
        self._is_between_chunks = False
        """True while the parser has not a byte of a chunk that is not whole."""
        self._last_piece = 0
        """Bytes of the last piece of a body."""
        self.relay: Callable[[bytes], bool] | None = None
        """Of the answer that is coming: takes reads that are whole chunks, or begin as a chunk of their size does. It
        is to say True, and have taken them, only where they end in CRLF; after False they are `received`, without
        framing."""

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
        if self.upstream.closed or len(self.upstream.idle) >= MAX_IDLE:
            self.transport.close()
        else:
            self.upstream.idle.append(self)

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
        self.upstream.connections.add(self)

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            self.transport.abort()  # nobody asked: whatever it is, it is not the answer to a request to come
            return
        if self._is_between_chunks:
            relay = self.relay
            if (
                relay is not None
                and (data.startswith(chunk_begins(len(data))) or are_chunks(data))  # several, where reading lags
                and relay(data)
            ):
                return
        elif self._is_between and (known := self.upstream.known) is not None:
            body = known.body(data)
            if body is not None:
                self._receiver = None
                self._to_idle()
                receiver.answered(known.status, known.content_type, known.lines, body)
                return
        self._silent = False
        if len(data) > MAX_HEAD_BYTES and not self._in_body and data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES) < 0:
            self._lost("its answer's head is too large")
            return
        was_between, self._is_between = self._is_between, False
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
                self._is_between = self._keep and self._ended_with(data, learn=was_between)
                self._finish(receiver)
        elif not self._in_body:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._lost("its answer's head is too large")
        else:
            self._is_between_chunks = self._chunk_is_whole and data.endswith(b"\r\n")

    def _ended_with(self, data: bytes, *, learn: bool) -> bool:
        """Whether an answer that is whole now ended with this read, not before. With `learn`, when it came in one
        read, its head is known from now on."""
        if self._content_length is None:
            return data.endswith(b"\r\n\r\n")
        if self._last_piece == len(data):
            return True
        end = data.find(b"\r\n\r\n") + 4
        if not learn or end + self._content_length != len(data):
            return False
        parts = split_head(data[:end])
        if parts is not None and not self._content_type.startswith(EVENT_STREAM):
            self.upstream.known = KnownAnswer(*parts, self._status, self._content_type, self._lines)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.upstream.connections.discard(self)
        if self in self.upstream.idle:
            self.upstream.idle.remove(self)
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
        if self._keep:
            self._reset()
            self._to_idle()
        else:
            self.transport.close()
        receiver.ended()

    def _to_idle(self) -> None:
        """An answer is whole, and the connection may be used again."""
        idle = self.upstream.idle
        if len(idle) < MAX_IDLE and not self.upstream.closed:
            self._reused = True
            if self._paused:
                self.resume()
            idle.append(self)
        else:
            self.transport.close()

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
        self._status = status
        self._keep = self._parser.should_keep_alive()
        if self._named_hops is not None and self._named_hops.lower() not in {b"close", b"keep-alive"}:
            named = {token.strip().lower() for token in self._named_hops.split(b",")}
            lines = self._lines.splitlines(keepends=True)
            self._lines = b"".join(line for line in lines if line.partition(b":")[0].lower() not in named)
        if self._receiver is not None:
            self._receiver.received_head(status, self._content_type, self._lines, self._content_length)

    def on_chunk_header(self) -> None:
        self._chunk_is_whole = False

    def on_chunk_complete(self) -> None:
        self._chunk_is_whole = True

    def on_body(self, data: bytes) -> None:
        self._last_piece = len(data)
        if self._receiver is not None:
            self._receiver.received(data)

    def on_message_complete(self) -> None:
        if self._in_body:
            if self._complete:
                self._keep = False  # a second answer to one request
            self._complete = True
