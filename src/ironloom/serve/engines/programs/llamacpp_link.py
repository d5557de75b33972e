"""Talking to the llama.cpp server inside this process, on a loopback port of its own with a key that only we know.

Its native /completion is used, not its OpenAI paths: prompts and answers are token ids there, so that chat templates,
stop strings, tool calls and the rest are the same code for every engine. What its stream leaves out is put back: it
sends nothing while a character is not whole, and then the last token's id only.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import httptools
import msgspec

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.generation import Finish, Likely, Sink
from ironloom.serve.engines.programs.gguf_vocabulary import Vocabulary, split_bytes

UNKNOWN_LOGPROB = -9999.0
"""OpenAI's value for a log probability that is not told."""


class _Prob(msgspec.Struct):
    id: int = 0
    logprob: float = UNKNOWN_LOGPROB
    top_logprobs: list[_Prob] = []


class _Error(msgspec.Struct):
    message: str = ""
    code: int = 500
    type: str = ""


class _Event(msgspec.Struct):
    """One event of llama.cpp's stream."""

    tokens: list[int] = []
    content: str = ""
    stop: bool = False
    stop_type: str = ""
    tokens_predicted: int = 0
    completion_probabilities: list[_Prob] = []
    error: _Error | None = None


class _Token(NamedTuple):
    id: int
    logprob: float = UNKNOWN_LOGPROB
    likely: Likely = ()


_decode_event = msgspec.json.Decoder(_Event).decode


class Link:
    """Where the inner server listens, and how to ask it."""

    def __init__(self, address: str, key: str) -> None:
        self._made_of = address, key
        self.host, _, port = address.removeprefix("http://").rpartition(":")
        self.port = int(port)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._http = http.client.HTTPConnection(self.host, self.port, timeout=60)

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """A short question (0.5 ms), answered before this returns. Raises RequestError."""
        data = json.dumps(body).encode()
        for is_last in (False, True):  # a kept connection may have been closed meanwhile
            try:
                self._http.request("POST", path, data, self._headers)
                response = self._http.getresponse()
                answer = response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self._http.close()
                if is_last:
                    message = f"llama.cpp does not answer: {error}"
                    raise RequestError(500, message, type="server_error", source="engine") from error
        if response.status != 200:
            raise refused(response.status, answer)
        return msgspec.json.decode(answer)

    def request(self, body: dict[str, Any]) -> bytes:
        """A streaming /completion, as sent."""
        data = msgspec.json.encode(body)
        headers = "".join(f"{name}: {value}\r\n" for name, value in self._headers.items())
        head = f"POST /completion HTTP/1.1\r\nHost: {self.host}\r\n{headers}Content-Length: {len(data)}\r\n\r\n"
        return head.encode() + data

    def again(self) -> Link:
        """Another connection to the same."""
        return Link(*self._made_of)

    def close(self) -> None:
        self._http.close()


class TokenStream(asyncio.Protocol):
    """One sequence's stream: tokens go to its sink, its end is told once."""

    def __init__(
        self,
        request: bytes,
        sink: Sink,
        vocabulary: Vocabulary,
        stop_token_ids: frozenset[int],
        on_end: Callable[[TokenStream], None],
        *,
        tells_likely: bool = False,
    ) -> None:
        self.num_tokens = 0
        self._request = request
        self._sink = sink
        self._vocabulary = vocabulary
        self._stop_token_ids = stop_token_ids
        self._on_end = on_end
        self._tells_likely = tells_likely
        self._parser: Any = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._held: list[_Token] = []
        """Tokens without text: the next event tells whether they ended the sequence."""
        self._over = False

    def cancel(self) -> None:
        """Drop it: llama.cpp frees its slot when the connection closes."""
        self._finish()

    # --- asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._over:
            self._transport.abort()
        else:
            self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"llama.cpp sent what is not HTTP: {error}")

    def connection_lost(self, _: Exception | None) -> None:
        self._fail("llama.cpp closed the stream in the middle")

    # --- httptools ---

    def on_body(self, data: bytes) -> None:
        if self._parser.get_status_code() != 200:
            self._buffer += data
            return
        *events, self._buffer = (self._buffer + data).split(b"\n\n")
        for event in events:
            if not self._over and (at := event.find(b"{")) >= 0:
                self._take(_decode_event(event[at:]))

    def on_message_complete(self) -> None:
        if self._over:
            return
        status = self._parser.get_status_code()
        error = refused(status, self._buffer) if status != 200 else None
        self._fail("llama.cpp ended the stream without an end", error)

    # --- events ---

    def _take(self, event: _Event) -> None:
        if event.error is not None:
            self._fail("", RequestError(event.error.code, event.error.message, type=event.error.type, source="engine"))
            return
        tokens = self._held + self._complete(event)
        self._held = []
        finish: Finish | None = None
        if event.stop:
            finish = Finish.LENGTH if event.stop_type == "limit" else Finish.STOP
        at = next((at for at, token in enumerate(tokens) if token.id in self._stop_token_ids), None)
        if at is not None:
            tokens, finish = tokens[: at + 1], Finish.STOP
        if finish is None and not event.content:
            self._held = tokens
            return
        self.num_tokens += len(tokens)
        if finish is not None:
            self._finish()
        if tokens or finish is not None:
            likely = [token.likely for token in tokens] if self._tells_likely else ()
            self._sink.tokens([token.id for token in tokens], [token.logprob for token in tokens], finish, likely)

    def _complete(self, event: _Event) -> list[_Token]:
        """The event's tokens, with those before a whole character, which llama.cpp counts and does not send."""
        num_missing = event.tokens_predicted - self.num_tokens - len(self._held) - len(event.tokens)
        probs = event.completion_probabilities
        told = [
            _Token(token_id, prob.logprob, [(other.id, other.logprob) for other in prob.top_logprobs])
            for token_id, prob in zip(event.tokens, probs, strict=False)
        ]
        told += map(_Token, event.tokens[len(probs) :])
        if num_missing <= 0:
            return told
        pieces = self._vocabulary.pieces
        last = b"".join(pieces[i] for i in event.tokens if i not in self._vocabulary.control and i < len(pieces))
        before = event.content.encode().removesuffix(last)
        ids = split_bytes(before, num_missing, self._vocabulary.ids)
        if ids is None:  # half a character at the end: what it was to be is not told
            ids = [self._vocabulary.ids.get(b"\xf0", 0)] * num_missing
        return [*map(_Token, ids), *told]

    # --- the end ---

    def _fail(self, why: str, error: RequestError | None = None) -> None:
        if not self._over:
            self._finish()
            self._sink.failed(error or RequestError(500, why, type="server_error", source="engine"))

    def _finish(self) -> None:
        if self._over:
            return
        self._over = True
        if self._transport is not None:
            self._transport.abort()
        self._on_end(self)


_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


def refused(status: int, body: bytes) -> RequestError:
    """llama.cpp's error as ours."""
    message, kind = f"llama.cpp answered with status {status}", ""
    with contextlib.suppress(msgspec.DecodeError, AttributeError):
        error = _decode_object(body).get("error") or {}
        message, kind = str(error.get("message") or message), str(error.get("type") or "")
    return RequestError(status, message, type=kind or "server_error", source="engine")


def ids_of(answer: Any) -> list[int]:
    """The ids of /tokenize's answer."""
    tokens: Sequence[int] = answer["tokens"]
    return list(tokens)
