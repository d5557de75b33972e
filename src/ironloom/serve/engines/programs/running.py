"""What every engine's process does around its model: take the port first, serve, end at SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys

from ironloom.serve.engines.programs.server_base import BaseServer

logger = logging.getLogger("ironloom.engine")


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, before the model is loaded: a taken port is told at once. Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def log_to_stderr() -> None:
    """The engine's log is its stderr."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


def serve_until_signal(server: BaseServer, sock: socket.socket, loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish those under way for five seconds."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop is None else lambda: loop) as runner:
        runner.run(_serve(server, sock))


async def _serve(server: BaseServer, sock: socket.socket) -> None:
    from ironloom.serve.http.server import serve

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listening = await serve(server.handle, sock=sock)
    logger.info("ready: %s on port %d", server.options.served_name, sock.getsockname()[1])
    await stop.wait()
    await listening.close(patience_s=5.0)
