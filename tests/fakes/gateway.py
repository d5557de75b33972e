"""A gateway with everything around it in memory: engines that can misbehave byte by byte, a log, a pool, a client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ironloom.account.events import Outcome
from ironloom.serve.gateway.app import Gateway
from ironloom.serve.gateway.config import GatewayConfig
from ironloom.serve.gateway.keys import Key, Scope
from ironloom.serve.http.server import HttpServer, serve
from ironloom.serve.pool import HoldLimits, ServicePool
from ironloom.serve.replica import Replica, ReplicaState, ServiceReplicas
from ironloom.workload.serving import Scaling, Serving

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}
USAGE_EVENT = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}\n\n'


@dataclass
class EngineRequest:
    """What an engine was asked."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        decoded = json.loads(self.body)
        assert isinstance(decoded, dict)
        return decoded


Behaviour = Callable[[EngineRequest, asyncio.StreamWriter], Awaitable[None]]


def json_answer(body: object, status: int = 200, *, headers: str = "") -> bytes:
    data = json.dumps(body, separators=(",", ":")).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def token_event(text: str) -> bytes:
    delta = {"id": "1", "choices": [{"index": 0, "delta": {"content": text}}]}
    return b"data: " + json.dumps(delta, separators=(",", ":")).encode() + b"\n\n"


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def answer(request: EngineRequest, writer: asyncio.StreamWriter) -> None:
    """The well-behaved engine: JSON, or three tokens as a stream, with usage if asked."""
    if not request.json.get("stream"):
        writer.write(json_answer(ANSWER))
        return
    writer.write(STREAM_HEAD)
    for text in ("a", "b", "c"):
        writer.write(chunk(token_event(text)))
        await writer.drain()
        await asyncio.sleep(0)
    if (request.json.get("stream_options") or {}).get("include_usage"):
        writer.write(chunk(USAGE_EVENT))
    writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


class FakeEngine:
    """An engine's port. `behaviour` may be replaced at any time."""

    def __init__(self, behaviour: Behaviour = answer) -> None:
        self.behaviour = behaviour
        self.requests: list[EngineRequest] = []
        self.num_connections = 0
        self.num_cut = 0
        """Connections that the gateway closed while an answer was under way."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> FakeEngine:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def kill(self) -> None:
        """As kill -9: every connection ends, the port refuses."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            self._server = None
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {
                    name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                request = EngineRequest(head[0].split(" ")[1], headers, body)
                self.requests.append(request)
                if not await self._answer(request, reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, request: EngineRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """False when the connection ended while the answer was under way."""
        work = asyncio.ensure_future(self.behaviour(request, writer))
        hang_up = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({work, hang_up}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            assert hang_up.exception() is not None or hang_up.result() == b"", "one request at a time"
            self.num_cut += 1
            work.cancel()
            return False
        hang_up.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await hang_up
        try:
            work.result()
        except ConnectionError:
            self.num_cut += 1
            return False
        return not writer.is_closing()


@dataclass
class LogEntry:
    """One request in the log."""

    request_id: str
    service: str
    key_id: str
    path: str
    stream: bool
    ends: list[tuple[Outcome, int]] = field(default_factory=list)
    replica: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_s: float | None = None
    held_s: float = 0.0
    num_retries: int = 0
    progress: list[tuple[int, float | None]] = field(default_factory=list)
    """Completion tokens so far, and the TTFT."""


class MemoryLog:
    """The event log's request side."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []

    def begin(
        self, request_id: str, service: str, key_id: str, path: str, stream: bool, now_s: float | None = None
    ) -> int:
        self.entries.append(LogEntry(request_id, service, key_id, path, stream))
        return len(self.entries) - 1

    def end(
        self,
        seq: int,
        outcome: Outcome,
        status: int,
        replica: str = "",
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        ttft_s: float | None = None,
        held_s: float = 0.0,
        num_retries: int = 0,
        now_s: float | None = None,
    ) -> None:
        entry = self.entries[seq]
        entry.ends.append((outcome, status))
        entry.replica = replica
        entry.prompt_tokens = prompt_tokens
        entry.completion_tokens = completion_tokens
        entry.ttft_s = ttft_s
        entry.held_s = held_s
        entry.num_retries = num_retries

    def progress(
        self,
        seq: int,
        status: int,
        replica: str,
        prompt_tokens: int,
        completion_tokens: int,
        ttft_s: float | None,
        held_s: float,
        num_retries: int,
    ) -> None:
        entry = self.entries[seq]
        assert not entry.ends, "what has ended makes no progress"
        entry.progress.append((completion_tokens, ttft_s))

    @property
    def last(self) -> LogEntry:
        return self.entries[-1]

    def outcomes(self) -> list[Outcome]:
        assert all(len(entry.ends) == 1 for entry in self.entries), "each request ends exactly once"
        return [entry.ends[0][0] for entry in self.entries]


class FakeKeys:
    """A key ring of tokens: `good` for all, `scoped` for the service m only."""

    version = 1

    def used(self, key: Key) -> None: ...

    def check(self, token: bytes | None) -> Key | None:
        if token == b"good":
            return Key(id="key-good", name="good", scope=Scope.INFERENCE)
        if token == b"scoped":
            return Key(id="key-scoped", name="scoped", scope=Scope.INFERENCE, services=frozenset({"m"}))
        return None


@dataclass
class Response:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error = self.json["error"]
        assert isinstance(error, dict)
        return error

    @property
    def events(self) -> list[str]:
        """Data lines of a stream, in order."""
        return [line[6:].decode() for line in self.body.split(b"\n") if line.startswith(b"data: ")]


def replica(engine: FakeEngine | int, name: str = "m-aaaaa", state: ReplicaState = ReplicaState.READY) -> Replica:
    port = engine if isinstance(engine, int) else engine.port
    return Replica(id=name, service="m", state=state, generation=1, engine="fake", port=port)


class World:
    """A gateway with the service `m`, listening. Use as `async with World() as world`."""

    def __init__(
        self,
        config: GatewayConfig | None = None,
        *,
        timeout_s: float = 300.0,
        container_concurrency: int = 0,
        hold_limits: HoldLimits | None = None,
        keys: bool = False,
    ) -> None:
        self.log = MemoryLog()
        self.num_holds = 0
        self.serving = Serving(
            name="m",
            kind="InferenceService",
            timeout_s=timeout_s,
            scaling=Scaling(container_concurrency=container_concurrency),
        )
        self.pool = ServicePool(self.serving, on_hold=self._on_hold, hold_limits=hold_limits)
        ring: Any = FakeKeys() if keys else None
        self.gateway = Gateway(log=self.log, keys=ring, config=config)
        self.gateway.declare(self.serving, self.pool, created_s=1.5e9)
        self.engines: list[FakeEngine] = []
        self.server: HttpServer

    def _on_hold(self) -> None:
        self.num_holds += 1

    async def __aenter__(self) -> World:
        self.gateway.start()
        self.server = await serve(self.gateway)
        self.gateway.server = self.server
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gateway.close()
        await self.server.close()
        for engine in self.engines:
            await engine.kill()
        await asyncio.sleep(0.005)

    async def engine(self, behaviour: Behaviour = answer, name: str = "m-aaaaa") -> FakeEngine:
        """Another ready replica."""
        engine = await FakeEngine(behaviour).open()
        self.engines.append(engine)
        known = [known for known in self.pool.report.replicas if known.id != name]
        self.report(*known, replica(engine, name))
        return engine

    def report(self, *replicas: Replica, failure: str | None = None, retry_at_s: float | None = None) -> None:
        self.pool.update(ServiceReplicas(service="m", replicas=replicas, failure=failure, retry_at_s=retry_at_s))

    def sweep(self, seconds_ahead: float) -> None:
        """Look at the deadlines as if so much time had passed."""
        self.gateway.deadlines.sweep(self.gateway.deadlines.now_s + seconds_ahead)

    async def raw(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Raw:
        """Send a request; its answer is read by the result."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode()
        )
        writer.write(body)
        await writer.drain()
        return Raw(reader, writer)

    async def ask(
        self, path: str, payload: object = None, *, method: str = "POST", headers: dict[str, str] | None = None
    ) -> Response:
        body = b"" if payload is None else payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return await (await self.raw(method, path, body, headers)).response()

    async def get(self, path: str, headers: dict[str, str] | None = None) -> Response:
        return await self.ask(path, method="GET", headers=headers)

    async def chat(self, *, stream: bool = False, headers: dict[str, str] | None = None, **more: Any) -> Response:
        return await self.ask("/v1/chat/completions", chat_body(stream=stream, **more), headers=headers)


def chat_body(*, stream: bool = False, **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}
    if stream:
        body["stream"] = True
    return body


class Raw:
    """A connection on which a request was sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        return int(lines[0].split(" ")[1]), headers

    async def chunk(self) -> bytes:
        """The next piece of a chunked body; empty at its end."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def response(self) -> Response:
        try:
            status, headers = await self.head()
            body = b""
            if headers.get("transfer-encoding") == "chunked":
                while piece := await self.chunk():
                    body += piece
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            return Response(status, headers, body)
        finally:
            self.writer.close()

    def hang_up(self) -> None:
        self.writer.transport.abort()


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test's coroutine, with a bound on its time."""

    async def bounded() -> None:
        await asyncio.wait_for(main(), 20)

    asyncio.run(bounded())


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition holds."""
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come to be")
