"""Small requests to an API server, on kept connections of the event loop's own TLS and with the gateway's own parser.

An apply of a thousand services is thousands of writes, and what a general client does around each of them, 2 ms of CPU
on a slow machine, was more than half of what the gateway did. This does a fifth of that, and less: no proxy, no
compression, no redirect, nothing that streams. What it does not do is left to httpx2, and so is every list.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies

import httptools

IDLE_S = 5.0
"""How long a connection without a request is kept, as httpx2 does: what lies between may forget it without a word."""
_PATH = re.compile(r"/[A-Za-z0-9/._~:-]*")
_WORD = re.compile(r"[\x20-\x7e]*")


class NotConnected(TimeoutError):
    """No connection came to be in time."""


class Broken(Exception):
    """A connection that ended before its answer did. The cause is what the transport said, where it said something."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole answer. Names of `headers` are in lower case."""

    status_code: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def may_ask(server: str, proxy_url: str) -> bool:
    """Whether nothing stands between: no proxy of the kubeconfig, and none of the environment."""
    parts = urlsplit(server)
    return not proxy_url and not getproxies() and parts.scheme in {"http", "https"} and bool(parts.hostname)


class Direct:
    """Connections to one API server; for tasks of one event loop."""

    def __init__(
        self,
        server: str,
        *,
        tls: ssl.SSLContext | None,
        server_name: str,
        agent: str,
        connect_within_s: float,
        answer_within_s: float,
        max_connections: int,
    ) -> None:
        """`tls` is None for http://. `server_name` is what the certificate is for; empty for the server's own name."""
        parts = urlsplit(server)
        is_secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if is_secure else 80)
        self._prefix = parts.path.rstrip("/")
        self._tls = tls if is_secure else None
        self._server_name = (server_name or self._host) if is_secure else None
        self._head = f"Host: {parts.netloc.rpartition('@')[2]}\r\nUser-Agent: {agent}\r\n"
        self._connect_within_s, self._answer_within_s = connect_within_s, answer_within_s
        self._turns = asyncio.Semaphore(max_connections)
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._is_closed = False

    def takes(self, path: str, headers: Sequence[tuple[str, str]]) -> bool:
        """Whether a request is one of those that are asked here: its words need no encoding."""
        words = (word for header in headers for word in header)
        return _PATH.fullmatch(self._prefix + path) is not None and all(map(_WORD.fullmatch, words))

    async def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None,
        headers: Sequence[tuple[str, str]],
        content: bytes = b"",
    ) -> Answer:
        """Raises Broken; NotConnected or TimeoutError where no connection or no answer comes in time; OSError where the
        server cannot be reached."""
        target = f"{self._prefix}{path}{'?' + urlencode(params) if params else ''}"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        length = f"Content-Length: {len(content)}\r\n" if content or method != "GET" else ""
        head = f"{method} {target} HTTP/1.1\r\n{self._head}{lines}{length}\r\n"
        async with self._turns:
            connection = self._take() or await self._connect()
            try:
                async with asyncio.timeout(self._answer_within_s):
                    answer = await connection.ask(head.encode("ascii") + content)
            except BaseException:
                connection.transport.abort()
                raise
            if connection.is_kept and not self._is_closed:
                connection.idle_since_s = asyncio.get_running_loop().time()
                self._idle.append(connection)
            else:
                connection.transport.abort()
            return answer

    async def close(self) -> None:
        """Give the connections up; those that wait for an answer once they have it."""
        self._is_closed = True
        for connection in self._idle:
            connection.transport.abort()
        self._idle.clear()
        ending = [one.lost.wait() for one in self._open if one.transport.is_closing()]
        await asyncio.gather(*ending)

    def _take(self) -> _Connection | None:
        """The one that was used last."""
        now_s = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing() and now_s - connection.idle_since_s < IDLE_S:
                return connection
            connection.transport.abort()
        return None

    async def _connect(self) -> _Connection:
        try:
            async with asyncio.timeout(self._connect_within_s):
                _, made = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self._open),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._server_name,
                )
        except TimeoutError as error:
            raise NotConnected from error
        return made


class _Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    transport: asyncio.Transport

    def __init__(self, open_: set[_Connection]) -> None:
        """It is in `open_` until it is lost."""
        self.is_kept = True
        self.lost = asyncio.Event()
        self._open = open_
        self.idle_since_s = 0.0
        self._answer: asyncio.Future[Answer] | None = None
        self._begin()

    def _begin(self) -> None:
        self._parser: Any = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._is_head_whole = False

    async def ask(self, data: bytes) -> Answer:
        self._begin()
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return await self._answer

    # --- transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.transport.abort()  # nobody asked: it is not the answer to what will be asked
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(Broken(f"it answered what is not HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_kept = False
        self._open.discard(self)
        self.lost.set()
        framed = {"content-length", "transfer-encoding"} & self._headers.keys()
        if exc is None and self._is_head_whole and not framed:
            self.on_message_complete()  # its end is that of the connection
            return
        broken = Broken("the connection ended before the answer did")
        broken.__cause__ = exc
        self._fail(broken)

    def _fail(self, error: Broken) -> None:
        self.is_kept = False
        self.transport.abort()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # --- parser ---

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() < 200:
            self._headers.clear()
        else:
            self._is_head_whole = True

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        if not self._is_head_whole or self._answer is None or self._answer.done():
            return
        self.is_kept = self.is_kept and self._parser.should_keep_alive()
        status = self._parser.get_status_code()
        self._answer.set_result(Answer(status_code=status, content=b"".join(self._body), headers=self._headers))
