"""The gateway's own lines, without sockets: request bytes in, engine bytes out, answer bytes in, client bytes out.

    python bench/gateway/chain.py [--num N] [--profile] [--calls] [--only json,stream,import]

A fake transport stands for each socket, so what is timed is the user-space work of one request: both parsers, the
handler chain, the choice of a replica, metrics and the event log's journal. The import of records into SQLite, which
another thread does, is timed by itself. `--calls` counts function calls instead of time: that number is the same in
every run.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from ironloom.account.database import Database
from ironloom.account.log import EventLog
from ironloom.serve.gateway.app import Gateway
from ironloom.serve.gateway.config import GatewayConfig
from ironloom.serve.gateway.keys import KeyRing
from ironloom.serve.http import client
from ironloom.serve.http.server import serve
from ironloom.serve.pool import ServicePool
from ironloom.serve.replica import Replica, ReplicaState, ServiceReplicas
from ironloom.workload.serving import Serving

NUM_REPLICAS = 4
NUM_CHUNKS = 128
_MESSAGES: list[dict[str, str]] = [
    {"role": "system", "content": "You are a helpful assistant. Answer in one short sentence."},
    {"role": "user", "content": "Tell me about the history of looms and weaving in the north of England. " * 3},
]
_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "word " * 60}, "finish_reason": "stop"}
_USAGE = {"prompt_tokens": 77, "completion_tokens": 60, "total_tokens": 137}
_ANSWER = {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [_CHOICE], "usage": _USAGE}


class FakeTransport(asyncio.Transport):
    """Takes what is written and keeps its length."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 50000)})
        self.num_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.num_bytes += len(data)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


def request_bytes(token: str, *, stream: bool) -> bytes:
    """A request as wrk sends it in the race."""
    body: dict[str, Any] = {"model": "m", "messages": _MESSAGES, "temperature": 0.7, "max_tokens": 128}
    data = json.dumps(body | ({"stream": True} if stream else {}), separators=(",", ":")).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:18481\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (token.encode(), len(data), data)
    )


def json_answer() -> bytes:
    body = json.dumps(_ANSWER, separators=(",", ":")).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def stream_answer() -> list[bytes]:
    """Head, chunks, last chunk; one read each."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = {"index": 0, "delta": {"content": "word"}, "finish_reason": None}
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [piece]}
    data = b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
    done = b"data: [DONE]\n\n"
    chunk = b"%x\r\n%b\r\n" % (len(data), data)
    return [head, *[chunk] * NUM_CHUNKS, b"%x\r\n%b\r\n" % (len(done), done), b"0\r\n\r\n"]


class Chain:
    """A gateway with all duties on, one client connection, and one idle connection to each replica."""

    def __init__(self, gateway: Gateway, log: EventLog, token: str, front: Any, backs: list[client.Connection]) -> None:
        self.gateway = gateway
        self.log = log
        self._front = front
        self._backs = backs
        self._requests = {kind: request_bytes(token, stream=kind == "stream") for kind in ("json", "stream")}
        self._answers = {"json": [json_answer()], "stream": stream_answer()}

    @classmethod
    async def open(cls, state: Path) -> Chain:
        database = Database.open(state / "state.db")
        log = await EventLog.open(database, state / "journal")
        keys = await KeyRing.open(database)
        _, token = await keys.create("chain", "inference")
        serving = Serving(name="m", kind="InferenceService")
        pool = ServicePool(serving)
        replicas = tuple(
            Replica(id=f"m-{i:05d}", service="m", state=ReplicaState.READY, generation=1, engine="fake", port=20000 + i)
            for i in range(NUM_REPLICAS)
        )
        pool.update(ServiceReplicas(service="m", replicas=replicas))
        gateway = Gateway(log=log, keys=keys, config=GatewayConfig(keys_required=True))
        gateway.declare(serving, pool, created_s=0.0)
        gateway.start()
        server = await serve(gateway)
        front = server._connection()
        front.connection_made(FakeTransport())
        backs = []
        for slot in pool._slots.values():
            connection = client.Connection(slot.upstream)
            connection.connection_made(FakeTransport())
            connection.keep()
            backs.append(connection)
        return cls(gateway, log, token, front, backs)

    def one(self, kind: str) -> None:
        """One whole request and its answer."""
        self._front.data_received(self._requests[kind])
        back = next(back for back in self._backs if back._receiver is not None)
        feed = back.data_received
        for piece in self._answers[kind]:
            feed(piece)

    def check(self, kind: str) -> None:
        """One request, and raise AssertionError unless it was answered and logged."""
        sent, logged = self._front.transport.num_bytes, len(self.log._batch.whole)
        self.one(kind)
        assert self._front.transport.num_bytes - sent > sum(map(len, self._answers[kind])) // 2
        assert len(self.log._batch.whole) > logged
        assert not self.log._batch.begun

    def forget(self) -> None:
        """Drop the records that wait for their import."""
        self.log._batch.whole.clear()


def count_calls(function: Callable[[], None]) -> int:
    """Calls of Python and C functions that `function` makes."""
    num = 0

    def hook(_frame: Any, event: str, _arg: Any) -> None:
        nonlocal num
        num += event in {"call", "c_call"}

    sys.setprofile(hook)
    try:
        function()
    finally:
        sys.setprofile(None)
    return num - 1


def timed(function: Callable[[], None], num: int, forget: Callable[[], None]) -> float:
    """Microseconds of the process' CPU a call: the best of five runs."""
    best = float("inf")
    for _ in range(5):
        forget()
        gc.collect()
        start = time.process_time_ns()
        for _ in range(num):
            function()
        best = min(best, (time.process_time_ns() - start) / num / 1000)
    return best


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=5000)
    parser.add_argument("--only", default="json,stream,import")
    parser.add_argument("--profile", action="store_true", help="cProfile's table in place of times")
    parser.add_argument("--calls", action="store_true", help="function calls in place of times")
    options = parser.parse_args()
    kinds = options.only.split(",")
    with tempfile.TemporaryDirectory(prefix="chain-") as folder:
        chain = await Chain.open(Path(folder))
        for kind in ("json", "stream"):
            if kind not in kinds:
                continue
            for _ in range(20):
                chain.check(kind)
            num = options.num if kind == "json" else max(1, options.num // 20)
            if options.calls:
                print(f"{kind}: {count_calls(lambda kind=kind: chain.one(kind))} calls a request")  # type: ignore[misc]
            elif options.profile:
                profile = cProfile.Profile()
                profile.enable()
                for _ in range(num):
                    chain.one(kind)
                profile.disable()
                pstats.Stats(profile).sort_stats("tottime").print_stats(45)
            else:
                us = timed(lambda kind=kind: chain.one(kind), num, chain.forget)  # type: ignore[misc]
                each = f" ({us / NUM_CHUNKS:.2f} a chunk)" if kind == "stream" else ""
                print(f"{kind}: {us:.2f} us a request{each}")
        if "import" in kinds:
            chain.forget()
            for _ in range(options.num):
                chain.one("json")
            start = time.process_time_ns()
            await chain.log.flush()
            print(f"import: {(time.process_time_ns() - start) / options.num / 1000:.2f} us a request")
        await chain.log.close()
        chain.gateway.close()


if __name__ == "__main__":
    uvloop.run(main())
