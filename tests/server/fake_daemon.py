"""A daemon for tests: the real HTTP server, front door, control API, files, batches and translators, over a fake
Control and a fake gateway whose engine answers by script. It runs in a thread of its own, for blocking clients."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ironloom.account.database import Database
from ironloom.errors import ManifestError, RequestError
from ironloom.serve.gateway import messages, responses
from ironloom.serve.gateway.chat import read_object, text_field
from ironloom.serve.gateway.keys import KeyRing
from ironloom.serve.gateway.translated import TranslatedApi
from ironloom.serve.http.exchange import Exchange, Request
from ironloom.serve.http.server import serve
from ironloom.server.app import build_app
from ironloom.server.asgi import AsgiBridge
from ironloom.server.batches import Batches, BatchLimits
from ironloom.server.control import (
    AppliedService,
    AppliedView,
    AskedProfileView,
    EventView,
    LogLine,
    MachineView,
    ModelView,
    PeerAnswer,
    PeerReport,
    ReplicaView,
    RequestView,
    RunView,
    ScalingView,
    ServiceView,
    SnapshotView,
    StatusView,
    TotalsView,
    service_not_found,
)
from ironloom.server.files import FileStore
from ironloom.server.files_api import FilesApi
from ironloom.server.front import front
from ironloom.server.runs import run_not_found
from ironloom.server.security import Guard


def service_view(name: str = "small", **more: Any) -> ServiceView:
    values: dict[str, Any] = {
        "name": name,
        "namespace": "default",
        "kind": "InferenceService",
        "state": "ready",
        "url": "http://127.0.0.1:11500/v1",
        "engine": "openvino",
        "model": ModelView(uri="hf://HuggingFaceTB/SmolLM2-135M-Instruct", note="holds the Q4_1 form"),
        "replicas": [
            ReplicaView(id=f"{name}-abcde", pid=4242, state="ready", devices=["cpu"], engine="openvino", in_flight=2)
        ],
        "scaling": ScalingView(
            min_replicas=0,
            max_replicas=2,
            metric="concurrency",
            target=None,
            stable_window_s=60.0,
            park_for_s=None,
        ),
        "in_flight": 2,
        "tokens_per_s": 123.4,
        "manifest": {"kind": "InferenceService", "env": "HF_TOKEN=hf_secret"},
    }
    return ServiceView(**values | more)


class FakeControl:
    """Control over a dict of services; what it was asked stands in `asked`."""

    def __init__(self, services: Sequence[ServiceView] = ()) -> None:
        self.by_name = {service.name: service for service in services}
        self.run_by_name: dict[str, RunView] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.event_list: list[EventView] = []
        self.log_lines = [LogLine(replica="small-abcde", line=f"line {number}") for number in range(3)]

    def status(self) -> StatusView:
        machine = MachineView(name="box", num_cpus=2, memory_bytes=2**34, available_memory_bytes=2**33)
        return StatusView(
            version="0",
            pid=1,
            started_s=0.0,
            url="",
            host="127.0.0.1",
            port=0,
            state_dir="",
            machine=machine,
            num_services=len(self.by_name),
        )

    async def apply(
        self, manifests: Sequence[dict[str, Any]], *, pvc: dict[str, str], dry_run: bool = False
    ) -> AppliedView:
        self.asked.append(("apply", list(manifests), pvc))
        applied = []
        for number, manifest in enumerate(manifests):
            name = (manifest.get("metadata") or {}).get("name") if isinstance(manifest.get("metadata"), dict) else None
            if not isinstance(name, str):
                raise ManifestError("metadata.name is missing", file=f"object {number}", path="metadata.name")
            self.by_name[name] = service_view(name, manifest=manifest)
            applied.append(AppliedService(name=name, action="created", generation=1, url=""))
        return AppliedView(services=applied)

    def services(self) -> list[ServiceView]:
        return [self.by_name[name] for name in sorted(self.by_name)]

    def service(self, name: str) -> ServiceView:
        if name not in self.by_name:
            raise service_not_found(name, list(self.by_name))
        return self.by_name[name]

    async def scale(self, name: str, replicas: int | None, *, park: bool) -> ServiceView:
        self.asked.append(("scale", name, replicas, park))
        return self.service(name)

    async def delete(self, name: str) -> None:
        self.service(name)
        self.asked.append(("delete", name))
        del self.by_name[name]

    def runs(self) -> list[RunView]:
        return [self.run_by_name[name] for name in sorted(self.run_by_name)]

    def run(self, name: str) -> RunView:
        if name not in self.run_by_name:
            raise run_not_found(name, sorted(self.run_by_name))
        return self.run_by_name[name]

    async def profile_run(self, name: str, num_steps: int) -> AskedProfileView:
        self.run(name)
        self.asked.append(("profile_run", name, num_steps))
        return AskedProfileView(name=name, steps=num_steps, request="r1")

    async def delete_run(self, name: str) -> None:
        self.run(name)
        self.asked.append(("delete_run", name))
        del self.run_by_name[name]

    def run_logs(self, name: str, *, rank: str | None, follow: bool, tail: int) -> AsyncIterator[LogLine]:
        self.run(name)

        async def lines() -> AsyncIterator[LogLine]:
            for line in self.log_lines[len(self.log_lines) - min(tail, len(self.log_lines)) :]:
                yield line

        return lines()

    async def events(self, *, service: str | None, after: int, limit: int) -> list[EventView]:
        found = [e for e in self.event_list if e.seq > after and service in (None, e.service)]
        return found[-limit:]

    async def requests(self, *, service: str | None, limit: int) -> list[RequestView]:
        return [RequestView(seq=1, request_id="r", wall_time_s=1.0, service="small", path="/v1/models")][:limit]

    def logs(self, name: str, *, replica: str | None, follow: bool, tail: int) -> AsyncIterator[LogLine]:
        self.service(name)

        async def lines() -> AsyncIterator[LogLine]:
            for line in self.log_lines[len(self.log_lines) - min(tail, len(self.log_lines)) :]:
                yield line
            if follow:
                await asyncio.Event().wait()

        return lines()

    def snapshot(self) -> SnapshotView:
        views = self.services()
        totals = TotalsView(num_services=len(views), in_flight=2, tokens_per_s=123.4)
        return SnapshotView(services=views, totals=totals, runs=self.runs())

    def peer(self, report: PeerReport) -> PeerAnswer:
        self.asked.append(("peer", report.gateway))
        return PeerAnswer()

    def shutdown(self, *, stop_replicas: bool) -> None:
        self.asked.append(("shutdown", stop_replicas))


@dataclass
class Answer:
    """What the fake engine answers to one request."""

    status: int
    pieces: list[bytes]


@dataclass
class _Result:
    status: int
    body: AsyncIterator[bytes]
    headers: dict[bytes, bytes] = field(default_factory=dict)


Script = Callable[[str, dict[str, Any]], Answer]


class FakeGateway:
    """`gateway.call` and a handler for clients, over a script of (path, body) → Answer."""

    def __init__(self, control: FakeControl, script: Script) -> None:
        self._control = control
        self.script = script
        self.calls: list[tuple[str, str, dict[str, Any], str, str]] = []
        self.hold_s = 0.0
        self.num_running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.piece_pause_s = 0.0

    async def call(
        self,
        service: str,
        path: str,
        body: bytes,
        headers: Mapping[bytes, bytes],
        *,
        key_id: str,
        request_id: str,
    ) -> _Result:
        fields = json.loads(body)
        self.calls.append((service, path, fields, key_id, request_id))
        if service not in self._control.by_name:
            raise RequestError(404, f"there is no model {service!r}", code="model_not_found", param="model")
        self.num_running += 1
        try:
            await asyncio.sleep(self.hold_s)
        finally:
            self.num_running -= 1
        answer = self.script(path, fields)

        async def pieces() -> AsyncIterator[bytes]:
            for piece in answer.pieces:
                await asyncio.sleep(self.piece_pause_s)
                yield piece

        return _Result(answer.status, pieces())

    def __call__(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.path == "/v1/models":
            data = [{"id": name, "object": "model"} for name in sorted(self._control.by_name)]
            exchange.respond(200, json.dumps({"object": "list", "data": data}).encode())
        elif request.path == "/v1/chat/completions":
            task = asyncio.get_running_loop().create_task(self._chat(exchange))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            exchange.respond(404, b'{"error":{"message":"no such path","type":"invalid_request_error"}}')

    async def _chat(self, exchange: Exchange) -> None:
        body = exchange.request.body
        try:
            fields = read_object(body)
            service = text_field(fields, "model")
            result = await self.call(service, exchange.request.path, body, {}, key_id="", request_id="r")
        except RequestError as error:
            exchange.respond(error.status, json.dumps(error.body()).encode())
            return
        exchange.start(result.status, content_type="text/event-stream" if fields.get("stream") else "application/json")
        async for piece in result.body:
            exchange.write(piece)
            await exchange.drain()
        exchange.end()


def sse(*chunks: dict[str, Any] | str) -> list[bytes]:
    """The pieces of a stream of these chunks."""
    texts = [chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks]
    return [f"data: {text}\n\n".encode() for text in texts]


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def hello(path: str, fields: dict[str, Any]) -> Answer:
    """An engine that says `Hello from MODEL`, calls the first tool when asked about the weather, counts tokens."""
    if path == "/tokenize":
        return Answer(200, [b'{"count": 11, "tokens": [1]}'])
    asked = str((fields.get("messages") or [{"content": ""}])[-1].get("content"))
    if fields.get("tools") and "weather" in asked:
        name = fields["tools"][0]["function"]["name"]
        call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": '{"city": "Oslo"}'}}
        if not fields.get("stream"):
            choice = {"message": {"role": "assistant", "tool_calls": [call]}, "finish_reason": "tool_calls"}
            return Answer(200, [json.dumps({"choices": [choice], "usage": USAGE}).encode()])
        first = {"index": 0, **call, "function": {"name": name, "arguments": ""}}
        deltas = [
            {"tool_calls": [first]},
            {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": ' "Oslo"}'}}]},
        ]
        return Answer(200, _stream(deltas, "tool_calls"))
    words = ["Hello", " from", f" {fields['model']}"]
    if not fields.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "".join(words)}, "finish_reason": "stop"}
        body = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": USAGE}
        return Answer(200, [json.dumps(body).encode()])
    return Answer(200, _stream([{"content": word} for word in words], "stop"))


def _stream(deltas: list[dict[str, Any]], finish_reason: str) -> list[bytes]:
    chunks: list[dict[str, Any] | str] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]})
    return sse(*chunks, {"choices": [], "usage": USAGE}, "[DONE]")


@dataclass
class Running:
    """A fake daemon that runs."""

    port: int
    control: FakeControl
    gateway: FakeGateway
    ring: KeyRing
    database: Database
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, awaitable: Any) -> Any:
        """Run a coroutine on the daemon's loop."""
        return asyncio.run_coroutine_threadsafe(awaitable, self.loop).result(timeout=10)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """(status, body, headers) of a call; a body of bytes goes as it is, another as JSON."""
        sent = dict(headers or {})
        data = body
        if body is not None and not isinstance(body, bytes):
            data = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(self.url + path, data=data, headers=sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                status, raw, got = response.status, response.read(), dict(response.headers)
        except urllib.error.HTTPError as error:
            with error:
                status, raw, got = error.code, error.read(), dict(error.headers)
        lower = {name.lower(): value for name, value in got.items()}
        is_json = lower.get("content-type", "").startswith("application/json")
        return status, json.loads(raw) if is_json else raw, lower


@contextmanager
def running(
    folder: Path,
    *,
    services: Sequence[ServiceView] = (),
    script: Script = hello,
    keys_required: bool = False,
    port: int = 0,
    guard: Guard | None = None,
    heartbeat_s: float = 5.0,
) -> Iterator[Running]:
    """A daemon on a free port of loopback, until the block ends."""
    control = FakeControl(services)
    gateway = FakeGateway(control, script)
    guard = guard or Guard(loopback=not keys_required, keys_required=keys_required)
    started: list[Running] = []
    ready, stop = threading.Event(), threading.Event()
    failure: list[BaseException] = []

    async def main() -> None:
        database = Database.open(folder / "state.db")
        ring = await KeyRing.open(database)
        batches = Batches(
            database,
            gateway.call,
            why_not=lambda _key, name: None if name in control.by_name else f"there is no service {name!r}",
            limits=BatchLimits(first_pause_s=0.01),
        )
        await batches.open()
        api = AsgiBridge(
            build_app(
                control,
                ring,
                guard,
                more=FilesApi(FileStore(database), batches, ring, guard).routes(),
                stream_period_s=0.05,
            )
        )

        def admit(request: Request) -> Any:
            return guard.inference_key(request.headers, ring)

        exact = {
            responses.PATH: TranslatedApi(
                gateway.call,
                admit=admit,
                translate=responses.ResponsesTranslation,
                error_body=responses.error_body,
                heartbeat_s=heartbeat_s,
            ),
            messages.PATH: TranslatedApi(
                gateway.call,
                admit=admit,
                translate=messages.MessagesTranslation,
                error_body=messages.error_body,
                heartbeat_s=heartbeat_s,
            ),
            messages.COUNT_PATH: TranslatedApi(
                gateway.call, admit=admit, translate=messages.CountTranslation, error_body=messages.error_body
            ),
        }
        server = await serve(front(guard=guard, gateway=gateway, app=api, exact=dict(exact)), port=port)
        started.append(Running(server.port, control, gateway, ring, database, asyncio.get_running_loop()))
        ready.set()
        await asyncio.to_thread(stop.wait)
        await server.close()
        for one in exact.values():
            await one.close()
        await api.close()
        await batches.close()
        database.close()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failure.append(error)
            ready.set()

    thread = threading.Thread(target=run, name="fake-daemon")
    thread.start()
    ready.wait()
    try:
        if failure:
            raise failure[0]
        yield started[0]
    finally:
        stop.set()
        thread.join(timeout=15)
    if failure:
        raise failure[0]
