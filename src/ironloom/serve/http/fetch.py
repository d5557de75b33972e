"""One request, one answer, as a coroutine: health probes, park and wake, small calls to an engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ironloom.serve.http.client import Connection, Upstream
from ironloom.units import MIB


class FetchError(OSError):
    """The peer could not be reached, or its answer ended early."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    content_type: str
    body: bytes


async def fetch(
    host: str,
    port: int,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    content_type: str = "application/json",
    timeout_s: float = 5.0,
    max_body_bytes: int = 64 * MIB,
) -> Answer:
    """Ask on a connection of its own. Raises FetchError, and TimeoutError after `timeout_s` for all of it.

    `path` is sent as it is and must be encoded; cancelling the coroutine cuts the connection.
    """
    if not path.startswith("/") or not path.isascii() or any(c <= " " for c in path):
        raise ValueError(f"{path!r} is not an encoded path")
    upstream = Upstream(host, port)
    receiver = _Whole(max_body_bytes)
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
    if body or method in {"POST", "PUT"}:
        head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    try:
        async with asyncio.timeout(timeout_s):
            try:
                receiver.connection = await upstream.connect()
            except TimeoutError:
                raise
            except OSError as error:
                raise FetchError(f"{host}:{port} cannot be reached: {error}") from error
            receiver.connection.send(head.encode() + b"\r\n" + body, receiver)
            return await receiver.answer
    finally:
        upstream.abort()


class _Whole:
    """A Receiver that gathers the answer."""

    def __init__(self, max_body_bytes: int) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.connection: Connection | None = None
        self._left = max_body_bytes
        self._status = 0
        self._content_type = ""
        self._body: list[bytes] = []

    def answered(self, status: int, content_type: bytes, lines: bytes, body: bytes) -> None:
        self.received_head(status, content_type, lines, len(body))
        self.received(body)
        self.ended()

    def received_head(self, status: int, content_type: bytes, _lines: bytes, _content_length: int | None) -> None:
        self._status, self._content_type = status, content_type.decode("latin-1")

    def received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left >= 0:
            self._body.append(data)
        elif self.connection is not None:
            self.connection.cancel()
            self._fail("its answer is too large")

    def ended(self) -> None:
        if not self.answer.done():
            body = b"".join(self._body)
            self.answer.set_result(Answer(status=self._status, content_type=self._content_type, body=body))

    def lost(self, reason: str, *, stale: bool) -> None:  # noqa: ARG002 (a fresh connection is never stale)
        self._fail(reason)

    def _fail(self, reason: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(FetchError(reason))
