"""A list that is followed goes on after everything that ends a watch: against a server that says what a test has it
say."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import pytest

from ironloom.backends.kubernetes import watch
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.kubeconfig import Target, User
from ironloom.backends.kubernetes.watch import Followed, Object
from ironloom.errors import ClusterError

PODS = "/api/v1/namespaces/ml/pods"
WITHIN_S = 30.0
HANGS = object()
"""The server says nothing more, and keeps the connection."""
ENDS = object()


def pod(name: str, version: int) -> Object:
    return {"metadata": {"name": name, "namespace": "ml", "resourceVersion": str(version)}}


def event(kind: str, one: Object) -> Object:
    return {"type": kind, "object": one}


def gone() -> Object:
    return event("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"})


class Server:
    """Lists and watches by turns, as they are given: `lists` are whole, `watches` are lines, each with what comes after
    the last one. When they have been used up a watch hangs."""

    def __init__(self) -> None:
        self.lists: list[tuple[int, list[Object]]] = []
        self.watches: list[tuple[int, list[Object | object]]] = []
        """(status, events)."""
        self.asked: list[dict[str, str]] = []
        self._ended = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                parts = urlsplit(head.split()[1])
                params = {name: values[0] for name, values in parse_qs(parts.query).items()}
                self.asked.append(params)
                if not (await self._watched(writer) if "watch" in params else await self._listed(writer)):
                    break
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _listed(self, writer: asyncio.StreamWriter) -> bool:
        version, items = self.lists.pop(0)
        body = json.dumps({"kind": "PodList", "metadata": {"resourceVersion": str(version)}, "items": items}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        return True

    async def _watched(self, writer: asyncio.StreamWriter) -> bool:
        status, events = self.watches.pop(0) if self.watches else (200, [HANGS])
        if status != 200:
            body = json.dumps({"kind": "Status", "message": "no", "code": status}).encode()
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
            await writer.drain()
            return True
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for one in events:
            if one is HANGS:
                await writer.drain()
                await self._ended.wait()
                return False
            if one is ENDS:
                writer.write(b"0\r\n\r\n")
                await writer.drain()
                return True
            line = one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n"
            writer.write(b"%x\r\n" % len(line) + line + b"\r\n")
        await writer.drain()
        return False

    async def end(self) -> None:
        """Every connection, once its client is gone."""
        self._ended.set()
        await asyncio.gather(*self._connections)


class Heard:
    """What was told, in order: `+a` and `-a`, `error N` and `over`."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.refuses = ""
        self._changed = asyncio.Event()

    def change(self, key: tuple[str, str], one: Object | None) -> None:
        if key[1] == self.refuses:
            raise KeyError("labels")
        self._tell(f"{'-' if one is None else '+'}{key[1]}")

    def error(self, error: ClusterError | None) -> None:
        self._tell(f"error {error.status}" if error is not None else "over")

    def _tell(self, what: str) -> None:
        self.told.append(what)
        self._changed.set()

    async def until(self, *told: str) -> None:
        async with asyncio.timeout(WITHIN_S):
            while self.told[-len(told) :] != list(told):
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def followed(server: Server) -> AsyncIterator[tuple[Heard, Followed]]:
    loopback = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{loopback.sockets[0].getsockname()[1]}"
    target = Target(context="prod", server=url, user=User(name="ada"), file="config")
    heard = Heard()
    async with Client(target) as client:
        made = Followed(client, PODS, labels="a=b", on_change=heard.change, on_error=heard.error)
        task = asyncio.create_task(made.run())
        yield heard, made
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await server.end()
    loopback.close()
    await loopback.wait_closed()


def tell(story: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await story()

    asyncio.run(run())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FIRST_PAUSE_S", 0.01)


def test_a_list_is_followed_from_its_version_on_and_an_ended_watch_from_the_last_bookmark() -> None:
    async def story() -> None:
        server = Server()
        server.lists = [(7, [pod("a", 3)])]
        changes = [event("ADDED", pod("b", 8)), event("DELETED", pod("a", 9)), event("BOOKMARK", pod("", 20)), ENDS]
        server.watches = [(200, changes), (200, [event("ADDED", pod("c", 21)), HANGS])]
        async with followed(server) as (heard, made):
            await heard.until("+a", "+b", "-a", "+c")
            assert {name for _, name in made.objects} == {"b", "c"}
        assert [one["resourceVersion"] for one in server.asked if "watch" in one] == ["7", "20"]
        assert {one["labelSelector"] for one in server.asked} == {"a=b"}

    tell(story)


def test_an_object_that_cannot_be_taken_is_logged_and_the_others_are_followed_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        server = Server()
        server.lists = [(7, [pod("a", 3), pod("bad", 4), pod("b", 5)])]
        server.watches = [(200, [event("MODIFIED", pod("bad", 8)), event("ADDED", pod("c", 9)), HANGS])]
        async with followed(server) as (heard, _):
            heard.refuses = "bad"
            await heard.until("+a", "+b", "+c")

    tell(story)
    said = [one.getMessage() for one in caplog.records if one.exc_info]
    assert said == ["what changed of pods in namespace ml was not taken: ml/bad"] * 2


@pytest.mark.parametrize("answer", [(200, [gone()]), (410, [])], ids=["within the watch", "to the watch"])
def test_after_410_the_list_is_made_anew_and_what_is_gone_is_told(answer: tuple[int, list[Object | object]]) -> None:
    async def story() -> None:
        server = Server()
        server.lists = [(7, [pod("a", 3), pod("b", 4), pod("c", 5)]), (30, [pod("b", 4), pod("c", 28), pod("d", 29)])]
        server.watches = [answer, (200, [event("ADDED", pod("e", 31)), HANGS])]
        async with followed(server) as (heard, made):
            await heard.until("+a", "+b", "+c", "-a", "+c", "+d", "+e")
            assert {name for _, name in made.objects} == {"b", "c", "d", "e"}
        assert [one.get("resourceVersion") for one in server.asked if "watch" in one] == ["7", "30"]

    tell(story)


def test_a_server_that_says_410_again_and_again_is_not_asked_without_end() -> None:
    async def story() -> None:
        server = Server()
        server.lists = [(number, [pod("a", 3)]) for number in range(1, 20)]
        server.watches = [(410, []), (410, []), (200, [event("ADDED", pod("b", 8)), HANGS])]
        async with followed(server) as (heard, _):
            await heard.until("+a", "error 410", "over", "+b")

    tell(story)


def test_a_failure_is_told_once_and_once_that_it_is_over() -> None:
    async def story() -> None:
        server = Server()
        server.lists = [(7, [pod("a", 3)])]
        server.watches = [(503, []), (503, []), (503, []), (200, [event("ADDED", pod("b", 8)), HANGS])]
        async with followed(server) as (heard, _):
            await heard.until("+b")
            assert heard.told == ["+a", "error 503", "over", "+b"]
        assert len([one for one in server.asked if "watch" not in one]) == 1, "the list is still good"

    tell(story)


def test_a_watch_that_brings_nothing_is_begun_anew_from_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SILENCE_S", 0.2)

    async def story() -> None:
        server = Server()
        server.lists = [(7, [pod("a", 3)])]
        hung = [event("BOOKMARK", pod("", 11)), HANGS]
        server.watches = [(200, hung), (200, [event("ADDED", pod("b", 12)), HANGS])]
        async with followed(server) as (heard, _):
            await heard.until("+a", "+b")
        assert [one["resourceVersion"] for one in server.asked if "watch" in one][:2] == ["7", "11"]

    tell(story)


def test_a_server_that_takes_a_watch_and_never_answers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SILENCE_S", 0.2)

    async def story() -> None:
        server = Server()
        server.lists = [(7, [pod("a", 3)])]

        async def mute(writer: asyncio.StreamWriter) -> bool:
            await server._ended.wait()
            return False

        monkeypatch.setattr(server, "_watched", mute)
        async with followed(server) as (heard, _):
            await heard.until("+a", "error 0")

    tell(story)


@pytest.mark.parametrize(
    "line",
    [b'{"type":"ADDED","obj', b"<html>\n", b"[1]\n", b'{"type":"ADDED"}\n', b'{"type":"ADDED","object":{}}\n'],
    ids=["cut", "a page", "a list", "no object", "no version"],
)
def test_a_line_that_is_no_event_ends_the_watch_and_not_the_following(line: bytes) -> None:
    async def story() -> None:
        server = Server()
        server.lists = [(7, [pod("a", 3)])]
        server.watches = [(200, [line]), (200, [event("ADDED", pod("b", 8)), HANGS])]
        async with followed(server) as (heard, _):
            await heard.until("+b")

    tell(story)
