"""Small requests on kept connections: how answers end, which connections are used again, and what is left to others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from ironloom.backends.kubernetes import client, direct
from ironloom.backends.kubernetes.direct import Answer, Broken, Direct, may_ask
from ironloom.backends.kubernetes.kubeconfig import Target
from ironloom.errors import ClusterError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: today\r\n\r\n{}"
Story = Callable[[Direct, list[bytes]], Awaitable[None]]


def play(answers: Sequence[bytes], story: Story, *, ends: bool = False, **options: Any) -> int:
    """Run a story against a server that answers so, in turn over all connections; how many connections it saw. With
    `ends` it ends each after an answer."""
    num_connections = 0
    asked: list[bytes] = []
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_connections
        num_connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")), 0)
                asked.append(head + await reader.readexactly(length))
                writer.write(left.pop(0))
                await writer.drain()
                if ends:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        timeouts = {"connect_within_s": 30.0, "answer_within_s": 30.0, "max_connections": 4, **options}
        asks = Direct(f"http://127.0.0.1:{port}/k8s", tls=None, server_name="", agent="test/1", **timeouts)
        try:
            await story(asks, asked)
        finally:
            await asks.close()
            server.close()
            await server.wait_closed()

    asyncio.run(run())
    return num_connections


async def get(asks: Direct) -> Answer:
    return await asks.ask("GET", "/version", params=None, headers=[("Accept", "a")])


def test_a_request_is_written_with_its_words_and_its_body() -> None:
    async def story(asks: Direct, asked: list[bytes]) -> None:
        headers = [("Accept", "application/json"), ("Content-Type", "b")]
        answer = await asks.ask(
            "PATCH", "/api/v1/a", params={"force": "true", "x": "a b"}, headers=headers, content=b"{}"
        )
        assert (answer.status_code, answer.content, answer.headers["date"]) == (200, b"{}", "today")
        line, *lines = asked[0].decode().split("\r\n")
        assert line == "PATCH /k8s/api/v1/a?force=true&x=a+b HTTP/1.1"
        assert lines[1:] == [
            "User-Agent: test/1", "Accept: application/json", "Content-Type: b", "Content-Length: 2", "", "{}"
        ]  # fmt: skip

    assert play([OK], story) == 1


CHUNKED = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (CHUNKED, (201, b"abcd")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 100 Continue\r\nContent-Length: 9\r\n\r\n" + OK, (200, b"{}")),
        (b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", (429, b"")),
    ],
    ids=["in chunks", "without a body", "after one that is not the last", "of a server that is busy"],
)
def test_answers_are_read_whole_and_their_connection_is_used_again(given: bytes, expected: tuple[int, bytes]) -> None:
    async def story(asks: Direct, _asked: list[bytes]) -> None:
        for _ in range(2):
            answer = await get(asks)
            assert (answer.status_code, answer.content) == expected

    assert play([given, given], story) == 1


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async def story(asks: Direct, _asked: list[bytes]) -> None:
        assert (await get(asks)).content == b"whole"
        assert (await get(asks)).content == b"{}"

    given = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwhole"
    assert play([given, OK], story, ends=True) == 2


@pytest.mark.parametrize(
    "given",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}", b"SSH-2.0-OpenSSH_9.2\r\n"],
    ids=["none", "half of one", "no HTTP"],
)
def test_what_is_no_whole_answer_is_a_broken_connection_and_the_next_request_takes_another(given: bytes) -> None:
    async def story(asks: Direct, _asked: list[bytes]) -> None:
        with pytest.raises(Broken):
            await get(asks)
        assert (await get(asks)).content == b"{}"

    assert play([given, OK], story, ends=True) == 2


def test_a_connection_that_the_server_ended_meanwhile_is_not_used_again() -> None:
    async def story(asks: Direct, _asked: list[bytes]) -> None:
        for _ in range(3):
            assert (await get(asks)).content == b"{}"
            await asyncio.gather(*(one.lost.wait() for one in asks._open))

    assert play([OK] * 3, story, ends=True) == 3


def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "IDLE_S", 0.0)

    async def story(asks: Direct, _asked: list[bytes]) -> None:
        for _ in range(2):
            await get(asks)

    assert play([OK] * 2, story) == 2


def test_an_answer_that_does_not_come_is_a_timeout_and_no_more_connections_than_allowed_are_made() -> None:
    async def story(asks: Direct, _asked: list[bytes]) -> None:
        found = await asyncio.gather(*(get(asks) for _ in range(4)), return_exceptions=True)
        assert {type(one) for one in found} == {TimeoutError}

    half = b"HTTP/1.1 200 OK\r\n"
    assert play([half] * 4, story, answer_within_s=0.05, max_connections=1) == 4

    async def many(asks: Direct, _asked: list[bytes]) -> None:
        await asyncio.gather(*(get(asks) for _ in range(20)))

    assert play([OK] * 20, many, max_connections=3) <= 3


@pytest.mark.parametrize(
    ("path", "header", "is_taken"),
    [
        ("/api/v1/namespaces/a/pods/b-0.c", "Bearer abc", True),
        ("/api/v1/pods/a b", "x", False),
        ("/api/v1/pods/a%20b", "x", False),
        ("/api/v1/pods/a\r\nHost: b", "x", False),
        ("/version", "Bearer a\r\nX: b", False),
        ("/version", "Bearer é", False),
    ],
)
def test_what_would_have_to_be_encoded_is_left_to_others(path: str, header: str, is_taken: bool) -> None:
    asks = Direct(
        "https://a", tls=None, server_name="", agent="", connect_within_s=1, answer_within_s=1, max_connections=1
    )
    assert asks.takes(path, [("Authorization", header)]) == is_taken


def test_nothing_is_asked_directly_where_a_proxy_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    assert may_ask("https://a:6443", "")
    assert not may_ask("https://a:6443", "http://proxy:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert not may_ask("https://a:6443", "")


def test_a_connection_that_does_not_come_to_be_is_told_with_the_time_that_was_waited_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hangs(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(client, "CONNECT_TIMEOUT_S", 0.01)

    async def run() -> None:
        async with client.Client(Target(context="prod", server="http://127.0.0.1:1", namespace="models")) as asks:
            monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", hangs)
            with pytest.raises(ClusterError, match="gave no answer within 10ms"):
                await asks.get("/version")

    asyncio.run(run())
