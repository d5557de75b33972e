"""One request, one answer: `fetch` against peers that behave and peers that do not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from ironloom.serve.http.exchange import Exchange
from ironloom.serve.http.fetch import Answer, FetchError, fetch
from ironloom.serve.http.server import serve


def with_peer(answer: bytes, use: Callable[[int], Awaitable[None]], *, close: bool = True) -> None:
    async def main() -> None:
        async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            if not close:
                await reader.read()
            writer.close()

        server = await asyncio.start_server(peer, "127.0.0.1", 0)
        await use(server.sockets[0].getsockname()[1])
        server.close()
        await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_whole_answer_comes_back() -> None:
    def handler(exchange: Exchange) -> None:
        request = exchange.request
        exchange.respond(201, request.method.encode() + b" " + request.target.encode() + b" " + request.body)

    async def main() -> None:
        server = await serve(handler)
        answer = await fetch("127.0.0.1", server.port, "POST", "/sleep?level=1", body=b"{}")
        assert answer == Answer(status=201, content_type="application/json", body=b"POST /sleep?level=1 {}")
        assert (await fetch("localhost", server.port, "GET", "/health")).body == b"GET /health "
        await server.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-"],
)
def test_an_answer_that_is_none_is_an_error(answer: bytes) -> None:
    async def use(port: int) -> None:
        with pytest.raises(FetchError):
            await fetch("127.0.0.1", port, "GET", "/")

    with_peer(answer, use)


def test_an_answer_that_is_too_large_is_an_error() -> None:
    async def use(port: int) -> None:
        with pytest.raises(FetchError, match="too large"):
            await fetch("127.0.0.1", port, "GET", "/", max_body_bytes=10)

    with_peer(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n" + b"a" * 30, use)


def test_a_silent_peer_is_given_up_after_the_timeout() -> None:
    async def use(port: int) -> None:
        with pytest.raises(TimeoutError):
            await fetch("127.0.0.1", port, "GET", "/", timeout_s=0.02)

    with_peer(b"HTTP/1.1 200 OK\r\n", use, close=False)


def test_nobody_there_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(FetchError, match="cannot be reached"):
            asyncio.run(fetch("127.0.0.1", port, "GET", "/"))


@pytest.mark.parametrize("path", ["", "health", "/a b", "/a\r\nX: y", "/ä"])
def test_a_path_that_is_not_encoded_is_a_bug(path: str) -> None:
    with pytest.raises(ValueError, match="encoded path"):
        asyncio.run(fetch("127.0.0.1", 1, "GET", path))
