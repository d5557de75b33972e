"""A small bridge: one Exchange as one ASGI call, so that an ASGI app can stand behind our own HTTP server.

Covers what an HTTP app needs: the request (whole, as our server reads it), a streamed answer with backpressure,
`http.disconnect`. No lifespan and no websockets.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ironloom.serve.http.exchange import Exchange

Message = MutableMapping[str, Any]
App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_FAILED = (
    b'{"error":{"message":"the daemon failed on this request; its log has the reason","type":"server_error",'
    b'"param":null,"code":"internal_error","source":"gateway"}}'
)
_HOP_BY_HOP = frozenset({b"content-type", b"content-length", b"transfer-encoding", b"connection"})
_logger = logging.getLogger(__name__)


class AsgiBridge:
    """A handler that gives each exchange to an ASGI app, in a task of its own."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, exchange: Exchange) -> None:
        """Answer this exchange. Returns at once."""
        task = asyncio.get_running_loop().create_task(self._answer(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End the calls that are still running (streams that would go on for ever)."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, exchange: Exchange) -> None:
        call = _Call(exchange)
        try:
            await self._app(_scope(exchange), call.receive, call.send)
        except asyncio.CancelledError:
            _cut(exchange)
            raise
        except Exception:
            _logger.exception("%s %s failed", exchange.request.method, exchange.request.path)
            _cut(exchange)
        else:
            if not call.ended:
                _cut(exchange)


class _Call:
    """The two channels of one ASGI call."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._gone = asyncio.Event()
        self._body_given = False
        self._head: tuple[int, str, tuple[tuple[str, str], ...]] | None = None
        self.ended = False
        exchange.on_gone(self._gone.set)

    async def receive(self) -> Message:
        if not self._body_given:
            self._body_given = True
            return {"type": "http.request", "body": self._exchange.request.body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        exchange = self._exchange
        if message["type"] == "http.response.start":
            status, content_type, headers = _head(message)
            if any(name.lower() == b"content-length" for name, _ in message.get("headers", ())):
                self._head = (status, content_type, headers)  # a body of known length: sent in one piece with its head
            else:
                exchange.start(status, content_type=content_type, headers=headers)
            return
        body: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        if self._head is not None:
            status, content_type, headers = self._head
            self._head = None
            if not more:
                exchange.respond(status, body, content_type=content_type, headers=headers)
                self.ended = True
                return
            exchange.start(status, content_type=content_type, headers=headers)
        if body:
            exchange.write(body)
            await exchange.drain()
        if not more:
            exchange.end()
            self.ended = True


def _cut(exchange: Exchange) -> None:
    """End an answer that will not be finished: told where nothing was said yet, else the connection is cut."""
    if exchange.started:
        exchange.abort()
    else:
        exchange.respond(500, _FAILED)


def _head(message: Message) -> tuple[int, str, tuple[tuple[str, str], ...]]:
    raw: list[tuple[bytes, bytes]] = list(message.get("headers", ()))
    content_type = next((value for name, value in raw if name.lower() == b"content-type"), b"")
    headers = tuple(
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in raw if name.lower() not in _HOP_BY_HOP
    )
    return message["status"], content_type.decode("latin-1"), headers


def _scope(exchange: Exchange) -> dict[str, Any]:
    request = exchange.request
    host, _, port = request.headers.get(b"host", b"localhost").decode("latin-1").rpartition(":")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},  # 2.3: apps watch receive() for the disconnect
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.target.partition("?")[0].encode("latin-1", "replace"),
        "query_string": request.query.encode("latin-1", "replace"),
        "root_path": "",
        "headers": list(request.headers.items()),
        "client": (request.peer, 0),
        "server": (host or "localhost", int(port) if port.isdigit() else 0),
    }
