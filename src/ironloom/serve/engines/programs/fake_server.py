"""The fake engine's program. See ironloom/serve/engines/fake_knobs.py for what it can be told to do.

An answer is `num_tokens` words; word n is "w<n>" with a checksum of the prompt first, so that a test can tell whose
answer it got: the same prompt gives the same text, whichever replica made it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import zlib
from typing import Any

from ironloom.serve.engines.fake_knobs import Knobs, from_mapping
from ironloom.serve.http.exchange import Exchange
from ironloom.serve.http.server import serve

COMPLETIONS = ("/v1/chat/completions", "/v1/completions")
EVENT_STREAM = "text/event-stream"


class FakeServer:
    """All state of one fake engine."""

    def __init__(self, name: str, knobs: Knobs) -> None:
        self.name = name
        self.knobs = knobs
        self.begin_s = time.monotonic()
        self.asleep = False
        self.num_requests = 0
        self.num_running = 0
        self.num_tokens = 0
        self.num_cancelled = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def handle(self, exchange: Exchange) -> None:
        request = exchange.request
        path = request.path
        if path in COMPLETIONS:
            self._complete(exchange)
        elif path == "/health":
            self._health(exchange)
        elif path == "/v1/models":
            model = {"id": self.name, "object": "model", "created": 0, "owned_by": "ironloom"}
            _answer(exchange, 200, {"object": "list", "data": [model]})
        elif path == "/sleep" and request.method == "POST":
            self._spawn(self._sleep(exchange, asleep=True))
        elif path == "/wake_up" and request.method == "POST":
            self._spawn(self._sleep(exchange, asleep=False))
        elif path == "/is_sleeping":
            _answer(exchange, 200, {"is_sleeping": self.asleep})
        elif path == "/metrics":
            text = "".join(
                f"fake_{name}_total {value}\n"
                for name, value in (
                    ("requests", self.num_requests),
                    ("tokens", self.num_tokens),
                    ("cancelled", self.num_cancelled),
                )
            )
            exchange.respond(200, text.encode(), content_type="text/plain; version=0.0.4")
        elif path in ("/tokenize", "/detokenize"):
            self._tokenize(exchange)
        elif path == "/v1/embeddings":
            self._embed(exchange)
        else:
            _error(exchange, 404, f"there is no {request.method} {path}")

    def _health(self, exchange: Exchange) -> None:
        if self.knobs.hang_before_ready:
            return  # the exchange stays open: a caller must have patience of its own
        loading = time.monotonic() - self.begin_s < self.knobs.health_delay_s
        exchange.respond(503 if loading else 200, b"")

    async def _sleep(self, exchange: Exchange, *, asleep: bool) -> None:
        knobs = self.knobs
        await asyncio.sleep(knobs.park_delay_s if asleep else knobs.wake_delay_s)
        if knobs.fail_park if asleep else knobs.fail_wake:
            _error(exchange, 500, "this fake engine was told to fail")
            return
        self.asleep = asleep
        exchange.respond(200, b"")

    def _complete(self, exchange: Exchange) -> None:
        knobs = self.knobs
        self.num_requests += 1
        if self.asleep:
            _error(exchange, 503, "the engine sleeps")
        elif knobs.hang_in_request and self.num_requests >= knobs.hang_in_request:
            return
        elif knobs.status:
            _error(exchange, knobs.status, "this fake engine was told to answer so")
        elif knobs.bad_json:
            exchange.respond(200, b'{"choices": [')
        else:
            try:
                body = json.loads(exchange.request.body)
                prompt, asked = _prompt(body), _max_tokens(body, self.knobs.num_tokens)
            except (ValueError, KeyError, TypeError, AttributeError):
                _error(exchange, 400, "the body is no request")
                return
            self._spawn(self._generate(exchange, body, prompt, asked))

    async def _generate(self, exchange: Exchange, body: dict[str, Any], prompt: str, asked: int) -> None:
        chat = exchange.request.path == COMPLETIONS[0]
        words = [f"{zlib.crc32(prompt.encode()):08x}"] + [f" w{n}" for n in range(1, min(asked, self.knobs.num_tokens))]
        finish = "length" if asked < self.knobs.num_tokens else "stop"
        usage = {
            "prompt_tokens": len(prompt.split()),
            "completion_tokens": len(words),
            "total_tokens": len(prompt.split()) + len(words),
        }
        head = {"id": f"fake-{self.num_requests}", "created": int(time.time()), "model": body.get("model", self.name)}
        self.num_running += 1
        try:
            if body.get("stream"):
                await self._stream(exchange, body, words, finish, usage, head, chat=chat)
            else:
                for _ in words:
                    await self._token()
                text = "".join(words)
                choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
                choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
                kind = "chat.completion" if chat else "text_completion"
                _answer(exchange, 200, {**head, "object": kind, "choices": [choice], "usage": usage})
        finally:
            self.num_running -= 1
            if exchange.gone:
                self.num_cancelled += 1
        if self.knobs.crash_after_requests and self.num_requests >= self.knobs.crash_after_requests:
            await asyncio.sleep(0.01)  # the answer is on its way
            _crash(70)

    async def _stream(
        self,
        exchange: Exchange,
        body: dict[str, Any],
        words: list[str],
        finish: str,
        usage: dict[str, int],
        head: dict[str, Any],
        *,
        chat: bool,
    ) -> None:
        head = {**head, "object": "chat.completion.chunk" if chat else "text_completion"}
        exchange.start(200, content_type=EVENT_STREAM)
        for position, word in enumerate(words):
            await self._token()
            if exchange.gone:
                return
            choice: dict[str, Any] = {"index": 0, "finish_reason": None}
            delta = {"content": word} if position else {"role": "assistant", "content": word}
            choice |= {"delta": delta} if chat else {"text": word}
            _event(exchange, {**head, "choices": [choice]})
            await exchange.drain()
        last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        _event(exchange, {**head, "choices": [{"index": 0, "finish_reason": finish, **last}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            _event(exchange, {**head, "choices": [], "usage": usage})
        exchange.write(b"data: [DONE]\n\n")
        exchange.end()

    async def _token(self) -> None:
        if self.knobs.token_delay_s:
            await asyncio.sleep(self.knobs.token_delay_s)
        self.num_tokens += 1
        if self.knobs.crash_after_tokens and self.num_tokens >= self.knobs.crash_after_tokens:
            _crash(71)
        if self.knobs.signal_after_tokens and self.num_tokens >= self.knobs.signal_after_tokens:
            os.kill(os.getpid(), signal.SIGSEGV)
            await asyncio.sleep(3600)

    def _tokenize(self, exchange: Exchange) -> None:
        try:
            body = json.loads(exchange.request.body or b"{}")
            if exchange.request.path == "/tokenize":
                words = _prompt(body).split()
                answer = {"tokens": [zlib.crc32(word.encode()) for word in words], "count": len(words)}
            else:
                answer = {"prompt": " ".join(f"w{token}" for token in body.get("tokens", []))}
        except (ValueError, KeyError, TypeError, AttributeError):
            _error(exchange, 400, "the body is no request")
        else:
            _answer(exchange, 200, answer)

    def _embed(self, exchange: Exchange) -> None:
        try:
            given = json.loads(exchange.request.body)["input"]
            texts = [given] if isinstance(given, str) else list(given)
        except (ValueError, KeyError, TypeError):
            _error(exchange, 400, "the body has no input")
            return
        rows = [
            {
                "object": "embedding",
                "index": n,
                "embedding": [(zlib.crc32(f"{i}{text}".encode()) % 1000) / 1000 for i in range(8)],
            }
            for n, text in enumerate(texts)
        ]
        num_tokens = sum(len(str(text).split()) for text in texts)
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        _answer(exchange, 200, {"object": "list", "model": self.name, "data": rows, "usage": usage})

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _max_tokens(body: dict[str, Any], default: int) -> int:
    """Tokens asked for. Raises ValueError for what is no count."""
    asked = body.get("max_completion_tokens") or body.get("max_tokens") or default
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise ValueError(f"max_tokens is {asked!r}")
    return asked


def _prompt(body: dict[str, Any]) -> str:
    """All the text of a request, chat or completion."""
    if "messages" not in body:
        return str(body.get("prompt", ""))
    parts = []
    for message in body["messages"]:
        content = message.get("content") or ""
        parts.append(content if isinstance(content, str) else " ".join(str(p.get("text", "")) for p in content))
    return "\n".join(parts)


def _answer(exchange: Exchange, status: int, body: dict[str, Any]) -> None:
    exchange.respond(status, json.dumps(body).encode())


def _error(exchange: Exchange, status: int, message: str) -> None:
    kind = "invalid_request_error" if status < 500 else "server_error"
    _answer(exchange, status, {"error": {"message": message, "type": kind, "param": None, "code": None}})


def _event(exchange: Exchange, data: dict[str, Any]) -> None:
    exchange.write(b"data: " + json.dumps(data).encode() + b"\n\n")


def _crash(status: int) -> None:
    print(f"fake engine: crashing with status {status}", file=sys.stderr, flush=True)
    os._exit(status)


def _leak(*, own_session: bool) -> None:
    """A child that nothing but SIGKILL ends."""
    if os.fork() == 0:
        if own_session:
            os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            os.closerange(3, 256)
        # A new program, as a real engine's workers are: its environment is what it inherited.
        os.execvp(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"])


async def _serve_garbage(host: str, port: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"\x00\xff garbage, not HTTP\r\n")
        writer.close()

    await asyncio.start_server(answer, host, port)


def _options(arguments: list[str]) -> dict[str, str]:
    return dict(zip((name.removeprefix("--") for name in arguments[::2]), arguments[1::2], strict=True))


async def run(name: str, host: str, port: int, knobs: Knobs) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    if knobs.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    if knobs.leak_child or knobs.leak_session:
        _leak(own_session=knobs.leak_session)
    await asyncio.sleep(knobs.start_delay_s)
    engine = FakeServer(name, knobs)
    if knobs.garbage:
        await _serve_garbage(host, port)
        await stop.wait()
        return
    server = await serve(engine.handle, host=host, port=port)
    print(f"fake engine: {name} listens on {port}", file=sys.stderr, flush=True)
    await stop.wait()
    await server.close()


def main() -> None:
    options = _options(sys.argv[1:])
    knobs = from_mapping(Knobs(), json.loads(options.get("knobs", "{}")), "--knobs")
    if knobs.crash_at_start:
        for line in range(knobs.crash_lines):
            print(f"fake engine: line {line + 1} before the crash", file=sys.stderr)
        sys.exit(knobs.crash_at_start)
    asyncio.run(run(options["name"], options.get("host", "127.0.0.1"), int(options["port"]), knobs))


if __name__ == "__main__":
    main()
