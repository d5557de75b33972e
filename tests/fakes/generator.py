"""A generator that says what it is told, and an exchange that keeps what was answered: for tests of the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.detokenize import ByteDetokenizer
from ironloom.serve.engines.programs.generation import Detokenizer, Finish, Grammar, Sampling, Sink, Stats
from ironloom.serve.http import wire
from ironloom.serve.http.exchange import Request

EOS = 256
"""Token ids are bytes; this one ends a text."""


@dataclass
class ScriptedSequence:
    """A sequence under way."""

    prompt: bytes
    sampling: Sampling
    sink: Sink
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True

    def say(self, text: str | bytes, finish: Finish | None = None) -> None:
        """One token a byte, each by itself; at STOP the end token follows."""
        data = text.encode() if isinstance(text, str) else text
        for at, byte in enumerate(data):
            if self.cancelled:
                return
            last = at == len(data) - 1
            self.sink.tokens([byte], [-0.5], finish if last and finish is Finish.LENGTH else None)
        if finish is Finish.STOP and not self.cancelled:
            self.sink.tokens([EOS], [-0.1], Finish.STOP)


class ScriptedGenerator:
    """Tokens are bytes."""

    max_model_len = 100
    max_logprobs = 0
    max_token_bytes = 1

    def __init__(self) -> None:
        self.num_aside = 0
        """Texts that were long."""
        self.sequences: list[ScriptedSequence] = []
        self.bad_grammars: set[str] = set()
        self.asleep = False

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return list(text.encode("utf-8", "replace"))

    async def encode_aside(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.num_aside += 1
        return self.encode(text, add_special_tokens=add_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        if token_id > EOS:
            raise IndexError(token_id)
        return b"<eos>" if token_id == EOS else bytes([token_id])

    def detokenizer(self, prompt_ids: Sequence[int], *, skip_special_tokens: bool) -> Detokenizer:
        def piece(token_id: int) -> bytes:
            return b"" if token_id == EOS and skip_special_tokens else self.token_bytes(token_id)

        return ByteDetokenizer(piece)

    def refuses(self, sampling: Sampling) -> tuple[str, str] | None:
        return ("min_p", "it is not there") if sampling.min_p else None

    async def check_grammar(self, grammar: Grammar) -> None:
        if grammar.text in self.bad_grammars:
            raise RequestError(400, f"{grammar.param} cannot be enforced", param=grammar.param)

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, sink: Sink) -> ScriptedSequence:
        sequence = ScriptedSequence(bytes(prompt_ids), sampling, sink)
        self.sequences.append(sequence)
        return sequence

    def stats(self) -> Stats:
        return Stats(num_requests_running=sum(not s.cancelled for s in self.sequences))

    def park(self) -> None:
        self.asleep = True

    def wake(self) -> None:
        self.asleep = False


@dataclass
class FakeExchange:
    """What a handler sees; keeps the answer."""

    request: Request
    status: int = 0
    body: bytes = b""
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    writes: list[bytes] = field(default_factory=list)
    ended: bool = False
    started: bool = False
    gone: bool = False
    _callback: Callable[[], None] | None = None

    def respond(
        self,
        status: int,
        body: bytes,
        *,
        content_type: str = "application/json",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        assert not self.status, "answered twice"
        self.status, self.body, self.content_type, self.headers = status, body, content_type, headers
        self.ended = True

    def start(self, status: int, *, content_type: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        assert not self.status, "answered twice"
        self.status, self.content_type, self.started = status, content_type, True

    def write(self, data: bytes) -> None:
        if not self.gone:
            assert self.started
            assert not self.ended
            self.writes.append(data)

    async def drain(self) -> None:
        return None

    def end(self) -> None:
        assert not self.ended
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def on_gone(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def leave(self) -> None:
        """The client goes."""
        self.gone = True
        if self._callback is not None:
            self._callback()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The events of a stream that ended in [DONE]."""
        lines = [line[6:] for line in b"".join(self.writes).decode().split("\n") if line.startswith("data: ")]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]


def send(handle: Callable[[Any], None], path: str, body: Any = None, **headers: str) -> FakeExchange:
    """One request, as the HTTP server would hand it over; a RequestError becomes the answer."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    path, _, query = path.partition("?")
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    method = "GET" if body is None else "POST"
    exchange = FakeExchange(Request(method, path, path, query, named, data, "127.0.0.1", 0.0))
    try:
        handle(exchange)
    except RequestError as error:
        exchange.respond(error.status, wire.error_body(error), headers=wire.error_headers(error))
    return exchange
