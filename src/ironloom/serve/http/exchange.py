"""One request and its answer: what a handler sees of the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from ironloom.errors import RequestError
from ironloom.serve.http.known_heads import KnownHead


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request, read whole (its body is bounded by the server's limits)."""

    method: str
    target: str
    """As sent: path and query."""
    path: str
    """Percent-decoded, without query."""
    query: str
    headers: dict[bytes, bytes]
    """Names in lower case; repeated headers are joined by a comma (a repeated Host or Content-Length is refused)."""
    body: bytes
    peer: str
    """Address of the peer, without port."""
    arrived_s: float
    """Monotonic time of the head's arrival."""
    known: KnownRequest | None = None
    """Set when its head is one that the connection has had before."""


class KnownRequest(KnownHead):
    """The head of an earlier request on the same connection."""

    __slots__ = ("facts", "headers", "request")

    def __init__(self, before: bytes, after: bytes, request: Request) -> None:
        super().__init__(before, after)
        self.request = Request(
            request.method, request.target, request.path, request.query, request.headers, b"", "", 0.0
        )
        self.headers = request.headers
        """With the Content-Length of the message that was known last."""
        self.facts: Any = None
        """A place for what a handler has found out from the head alone."""

    def expect(self, length: int) -> None:
        super().expect(length)
        self.headers = {**self.headers, b"content-length": b"%d" % length}


class Exchange(Protocol):
    """A handler is called with one of these, synchronously, once the request is whole.

    It answers now or later (from a task it starts), exactly once: `respond`, or `start`, `write`…, `end`.
    After the client has gone every call is a no-op, so a handler need not ask first.
    """

    request: Request
    extra_lines: bytes
    """Headers that the answer gets whoever writes it (`Name: value`, CRLF, …): X-Request-Id, CORS. Set before it."""

    def respond(
        self,
        status: int,
        body: bytes,
        *,
        content_type: str = "application/json",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """The whole answer at once."""
        ...

    def refuse(self, error: RequestError) -> None:
        """The whole answer: this error, OpenAI-shaped, with the headers that go with it."""
        ...

    def respond_lines(self, status: int, lines: bytes, body: bytes) -> None:
        """As `respond`, with the headers as bytes already: see `start_lines`."""
        ...

    def start(
        self,
        status: int,
        *,
        content_type: str,
        headers: tuple[tuple[str, str], ...] = (),
        content_length: int | None = None,
    ) -> None:
        """The head of an answer that follows in pieces: chunked, unless its length is known."""
        ...

    def start_lines(self, status: int, lines: bytes, content_length: int | None) -> None:
        """As `start`, with the headers as bytes already (`Name: value`, CRLF, …): for a proxy's hot path.

        The caller vouches for the lines; they hold neither length, framing, date nor connection headers.
        """
        ...

    def write(self, data: bytes) -> None:
        """A piece of the body. Never waits: see `drain` and `on_flow`."""
        ...

    def relay(self) -> Callable[[bytes], None] | None:
        """Of a started answer: what writes a chunk that is framed already. None where `write` alone will do."""
        ...

    def on_flow(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Call `pause` when the client is too slow for what was written, `resume` when it has caught up."""
        ...

    async def drain(self) -> None:
        """Wait until the client has taken enough for more to be written."""
        ...

    def end(self) -> None:
        """The end of a started answer."""
        ...

    def abort(self) -> None:
        """Cut the connection: the only honest end of a started answer that cannot be finished."""
        ...

    @property
    def started(self) -> bool:
        """True once a head was written."""
        ...

    @property
    def gone(self) -> bool:
        """True once the client has gone."""
        ...

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Call this once if the client goes before the answer's end (at once if it has gone already)."""
        ...


Handler = Callable[[Exchange], None]
