"""The HTTP/1.1 server: a listening socket, the connections that it has, a synchronous handler. See `connection`."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl

from ironloom.errors import RequestError
from ironloom.serve.http import wire
from ironloom.serve.http.answer import HttpExchange
from ironloom.serve.http.connection import ServerConnection, refusal
from ironloom.serve.http.deadlines import Deadlines
from ironloom.serve.http.exchange import Handler
from ironloom.serve.http.limits import Limits

logger = logging.getLogger(__name__)


class HttpServer:
    """A listening server: made by `serve`."""

    def __init__(self, handler: Handler, limits: Limits, deadlines: Deadlines) -> None:
        self.limits = limits
        self.deadlines = deadlines
        self.connections: set[ServerConnection] = set()
        self.closing = False
        self.num_unread_bytes = 0
        self.num_refused = 0
        """Requests that the HTTP layer itself refused."""
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._empty: asyncio.Future[None] | None = None
        self.date_line = wire.date_line()
        """The Date header."""
        self.idle_due_s = deadlines.now_s + limits.keep_alive_s
        """When a connection that falls idle now is closed."""
        self.due_s = 0.0
        deadlines.add(self)

    async def listen(
        self, host: str, port: int, sock: socket.socket | None, ssl_context: ssl.SSLContext | None
    ) -> None:
        loop = asyncio.get_running_loop()
        if sock is not None:
            self._server = await loop.create_server(self._connection, sock=sock, ssl=ssl_context, backlog=2048)
        else:
            self._server = await loop.create_server(self._connection, host, port, ssl=ssl_context, backlog=2048)
        self.deadlines.start(loop)

    def _connection(self) -> ServerConnection:
        connection = ServerConnection(self)
        self.deadlines.add(connection)
        return connection

    def connection_lost(self, connection: ServerConnection) -> None:
        self.connections.discard(connection)
        self.deadlines.discard(connection)
        if self._empty is not None and not self.connections and not self._empty.done():
            self._empty.set_result(None)

    def handle(self, exchange: HttpExchange) -> None:
        try:
            self._handler(exchange)
        except RequestError as error:
            if exchange.started:
                exchange.abort()
            else:
                exchange.refuse(error)
        except Exception:
            logger.exception("a handler failed at %s %s", exchange.request.method, exchange.request.path)
            if exchange.started:
                exchange.abort()
            else:
                exchange.refuse(refusal(500, "internal error", "internal_error", source="gateway", type="server_error"))

    def on_due(self, now_s: float) -> None:
        """What every answer needs of the clock is made twice a second, not once an answer."""
        self.date_line = wire.date_line()
        self.idle_due_s = now_s + self.limits.keep_alive_s

    @property
    def port(self) -> int:
        """The port it listens on (the first, where a name has several addresses)."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def stop_accepting(self) -> None:
        """Accept nothing more, close idle connections, and each other one after its answer."""
        if self._server is not None:
            self._server.close()
        self.closing = True
        for connection in list(self.connections):
            connection.close_if_idle()

    async def close(self, *, patience_s: float = 0.0) -> None:
        """Stop accepting, wait up to `patience_s` for the answers under way, then cut what is left. Idempotent."""
        self.stop_accepting()
        if self.connections and patience_s > 0:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._empty], timeout=patience_s)
        for connection in list(self.connections):
            connection.transport.abort()
        for _ in range(100):  # connection_lost comes from the loop
            if not self.connections:
                break
            await asyncio.sleep(0)
        self.deadlines.stop()


async def serve(
    handler: Handler,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    limits: Limits | None = None,
    sock: socket.socket | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> HttpServer:
    """Listen on host and port (0: any free one, see `HttpServer.port`), or on a bound socket.

    `handler` is called synchronously with each whole request. A RequestError that it raises becomes the answer; any
    other exception a logged 500. Raises OSError when the address cannot be had.
    """
    server = HttpServer(handler, limits or Limits(), Deadlines())
    await server.listen(host, port, sock, ssl_context)
    return server
