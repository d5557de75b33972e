"""The answer to one request: its choices put together, whole or as server-sent events."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.choice import Choice, Delta, TokenLogprob
from ironloom.serve.http import wire
from ironloom.serve.http.exchange import Exchange

_ROLE = b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
DONE = b"data: [DONE]\n\n"
_LOWEST = -9999.0
"""Written for a log probability of minus infinity, which JSON cannot say; vLLM's number."""
_encode = msgspec.json.encode

TokenText = Callable[[int], bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Meta:
    """What every chunk of an answer repeats."""

    id: str
    model: str
    created: int
    chat: bool
    token_text: TokenText
    """A token's bytes, for log probabilities."""
    top_logprobs: int = 0
    tokens_as_ids: bool = False
    short_call_ids: bool = False
    """Mistral's templates take ids of nine letters and digits only."""


@dataclass(slots=True)
class _State:
    """One choice as it grows."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    offset: int = 0
    started: bool = False
    prefix: str = ""
    finish: str = ""


class Answer:
    """Shared by both ways: choices under way, the count of tokens, the client that goes, the engine that fails."""

    def __init__(
        self, exchange: Exchange, meta: Meta, *, num_prompt_tokens: int, on_end: Callable[[Answer], None]
    ) -> None:
        """`on_end` is called once, when nothing more will be written."""
        self.exchange = exchange
        self.meta = meta
        self.choices: list[Choice] = []
        self.states: list[_State] = []
        self.num_prompt_tokens = num_prompt_tokens
        self.first_token_s: float | None = None
        self.outcome = ""
        """How it ended: stop, length, tool_calls, abort or error."""
        self._on_end: Callable[[Answer], None] | None = on_end
        self._num_open = 0

    def add(self, choice: Choice, *, prefix: str = "") -> None:
        """Before any token of it comes. `prefix` is text that goes before the model's own (echo)."""
        self.choices.append(choice)
        self.states.append(_State(prefix=prefix, offset=len(prefix)))
        self._num_open += 1

    def client_gone(self) -> None:
        """Drop what is under way."""
        self._end("abort")

    def failed(self, error: RequestError) -> None:
        """The engine gave up: an error, or an error event where the stream has begun."""
        if self.outcome:
            return
        if self.exchange.started:
            self.exchange.write(b"data: " + wire.error_body(error) + b"\n\n" + DONE)
            self.exchange.end()
        else:
            self.exchange.respond(error.status, wire.error_body(error), headers=wire.error_headers(error))
        self._end("error")

    def usage(self) -> dict[str, int]:
        """OpenAI's usage object."""
        completion = sum(choice.num_tokens for choice in self.choices)
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "total_tokens": self.num_prompt_tokens + completion,
            "completion_tokens": completion,
        }

    def _closed(self, finish: str) -> bool:
        """One choice ended; True when it was the last."""
        self._num_open -= 1
        if self._num_open == 0:
            self.outcome = finish
        return self._num_open == 0

    def _end(self, outcome: str) -> None:
        if self._on_end is None:
            return
        self.outcome = self.outcome or outcome
        for choice in self.choices:
            if choice.ticket is not None and not choice.finished:
                choice.ticket.cancel()
        on_end, self._on_end = self._on_end, None
        on_end(self)

    # --- shapes shared by whole answers and streams ---

    def _logprobs(self, state: _State, entries: list[TokenLogprob]) -> dict[str, Any] | None:
        if not entries:
            return None
        if self.meta.chat:
            return {"content": [self._chat_token(entry) for entry in entries]}
        offsets = []
        for entry in entries:
            offsets.append(state.offset)
            state.offset += len(self._bytes(entry.token_id).decode("utf-8", "replace"))
        return {
            "tokens": [self._token_name(entry.token_id) for entry in entries],
            "token_logprobs": [max(entry.logprob, _LOWEST) for entry in entries],
            "top_logprobs": [self._text_likely(entry) for entry in entries] if self.meta.top_logprobs else None,
            "text_offset": offsets,
        }

    def _chat_token(self, entry: TokenLogprob) -> dict[str, Any]:
        def shape(token_id: int, logprob: float) -> dict[str, Any]:
            data = self._bytes(token_id)
            return {"token": self._token_name(token_id), "logprob": max(logprob, _LOWEST), "bytes": list(data)}

        return {**shape(entry.token_id, entry.logprob), "top_logprobs": [shape(*other) for other in entry.likely]}

    def _text_likely(self, entry: TokenLogprob) -> dict[str, float]:
        """By text; of two tokens with one text the more probable. The chosen one is among them, as with OpenAI."""
        told: dict[str, float] = {}
        for token_id, logprob in (*entry.likely, (entry.token_id, entry.logprob)):
            told.setdefault(self._token_name(token_id), max(logprob, _LOWEST))
        return told

    def _token_name(self, token_id: int) -> str:
        if self.meta.tokens_as_ids:
            return f"token_id:{token_id}"
        return self._bytes(token_id).decode("utf-8", "replace")

    def _bytes(self, token_id: int) -> bytes:
        """A token's bytes; none of an id that a model's padded vocabulary has and its tokenizer has not."""
        try:
            return self.meta.token_text(token_id)
        except IndexError:
            return b""

    def _call_id(self) -> str:
        return secrets.token_hex(5)[:9] if self.meta.short_call_ids else f"call_{secrets.token_hex(12)}"


class WholeAnswer(Answer):
    """Answers once, when every choice has ended."""

    def delta(self, choice: Choice, delta: Delta) -> None:
        """Take it up; answer after the last."""
        if self.first_token_s is None:
            self.first_token_s = time.monotonic()
        state = self.states[choice.index]
        state.content.append(delta.content)
        state.reasoning.append(delta.reasoning)
        state.logprobs += delta.logprobs
        for call in delta.calls:
            if call.name is not None:
                function = {"name": call.name, "arguments": ""}
                state.calls.append({"id": self._call_id(), "type": "function", "function": function})
            state.calls[call.index]["function"]["arguments"] += call.arguments
        if delta.finish is not None:
            state.finish = delta.finish
            if self._closed(delta.finish):
                self._respond()

    def _respond(self) -> None:
        meta = self.meta
        shape = self._chat_choice if meta.chat else self._text_choice
        body = {
            "id": meta.id,
            "object": "chat.completion" if meta.chat else "text_completion",
            "created": meta.created,
            "model": meta.model,
            "choices": [shape(choice, state) for choice, state in zip(self.choices, self.states, strict=True)],
            "usage": self.usage(),
        }
        self.exchange.respond(200, _encode(body))
        self._end(self.outcome)

    def _chat_choice(self, choice: Choice, state: _State) -> dict[str, Any]:
        content: str | None = "".join(state.content)
        message: dict[str, Any] = {"role": "assistant"}
        message["content"] = None if state.calls and not content else content
        if reasoning := "".join(state.reasoning):
            message["reasoning_content"] = reasoning
        if state.calls:
            message["tool_calls"] = state.calls
        return {
            "index": choice.index,
            "message": message,
            "logprobs": self._logprobs(state, state.logprobs),
            "finish_reason": state.finish,
            "stop_reason": choice.stop_reason,
        }

    def _text_choice(self, choice: Choice, state: _State) -> dict[str, Any]:
        return {
            "index": choice.index,
            "text": state.prefix + "".join(state.content),
            "logprobs": self._logprobs(state, state.logprobs),
            "finish_reason": state.finish,
            "stop_reason": choice.stop_reason,
        }


class StreamAnswer(Answer):
    """Server-sent events, one a step and choice. Nothing is sent before the first token: until then an error is a
    status, and the gateway may try again."""

    def __init__(
        self,
        exchange: Exchange,
        meta: Meta,
        *,
        num_prompt_tokens: int,
        on_end: Callable[[Answer], None],
        include_usage: bool,
        continuous_usage: bool,
    ) -> None:
        super().__init__(exchange, meta, num_prompt_tokens=num_prompt_tokens, on_end=on_end)
        self._include_usage = include_usage
        self._continuous = include_usage and continuous_usage
        kind = "chat.completion.chunk" if meta.chat else "text_completion"
        head = {"id": meta.id, "object": kind, "created": meta.created, "model": meta.model}
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._text_start = b'{"index":%d,"delta":{"content":' if meta.chat else b'{"index":%d,"text":'
        self._text_end = (b"}" if meta.chat else b"") + b',"logprobs":null,"finish_reason":null}'

    def delta(self, choice: Choice, delta: Delta) -> None:
        """Send it."""
        if self.first_token_s is None:
            self.first_token_s = time.monotonic()
        state = self.states[choice.index]
        out = b""
        if not state.started:
            out = self._begin(choice, state)
            delta.content = state.prefix + delta.content
        if delta.content and not (delta.reasoning or delta.calls or delta.finish or delta.logprobs):
            out += b"%b%b%b%b%b" % (
                self._head,
                self._text_start % choice.index,
                _encode(delta.content),
                self._text_end,
                self._chunk_tail(),
            )
        else:
            out += self._event(choice, state, delta)
        if delta.finish is None or not self._closed(delta.finish):
            self.exchange.write(out)
            return
        if self._include_usage:
            out += self._head + b'],"usage":' + _encode(self.usage()) + b"}\n\n"
        self.exchange.write(out + DONE)
        self.exchange.end()
        self._end(self.outcome)

    def _begin(self, choice: Choice, state: _State) -> bytes:
        state.started = True
        if not self.exchange.started:
            self.exchange.start(200, content_type="text/event-stream", headers=(("Cache-Control", "no-cache"),))
        if not self.meta.chat:
            return b""
        role = (
            b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
            % choice.index
        )
        return self._head + role + self._chunk_tail()

    def _event(self, choice: Choice, state: _State, delta: Delta) -> bytes:
        shown: dict[str, Any] = {"index": choice.index}
        if self.meta.chat:
            inner: dict[str, Any] = {}
            if delta.reasoning:
                inner["reasoning_content"] = delta.reasoning
            if delta.content:
                inner["content"] = delta.content
            if delta.calls:
                inner["tool_calls"] = [self._call(call.index, call.name, call.arguments) for call in delta.calls]
            shown["delta"] = inner
        else:
            shown["text"] = delta.content
        shown["logprobs"] = self._logprobs(state, delta.logprobs)
        shown["finish_reason"] = delta.finish
        if delta.finish is not None:
            shown["stop_reason"] = choice.stop_reason
        return self._head + _encode(shown) + self._chunk_tail()

    def _call(self, index: int, name: str | None, arguments: str) -> dict[str, Any]:
        if name is None:
            return {"index": index, "function": {"arguments": arguments}}
        function = {"name": name, "arguments": arguments}
        return {"index": index, "id": self._call_id(), "type": "function", "function": function}

    def _chunk_tail(self) -> bytes:
        if self._continuous:
            return b'],"usage":' + _encode(self.usage()) + b"}\n\n"
        return self._tail
