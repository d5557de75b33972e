"""The output of the Messages API: its object, and the events of a stream made from the chunks of a chat. Pure.

Source of the shapes: https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from ironloom.errors import RequestError
from ironloom.serve.gateway.chat import Chat, Choice, ToolCall, Usage, event

Block = dict[str, Any]

PING = event("ping", {"type": "ping"})
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_object(error: RequestError) -> Block:
    """An error in Anthropic's shape; code, param and source stand beside, for those who look."""
    kind = _ERROR_TYPES.get(error.status) or ("invalid_request_error" if error.status < 500 else "api_error")
    told: Block = {"type": kind, "message": error.message, "source": error.source}
    more = {"code": error.error_code, "param": error.param, "hint": error.hint}
    told |= {name: value for name, value in more.items() if value is not None}
    return {"type": "error", "error": told}


def stop_of(choice: Choice, stop_sequences: list[str]) -> tuple[str, str | None]:
    """(stop_reason, stop_sequence). Engines that say which stop string ended it do so in `stop_reason`."""
    reason = _STOP_REASONS.get(choice.finish_reason or "", "end_turn")
    if choice.finish_reason == "stop" and isinstance(choice.stop_reason, str) and choice.stop_reason in stop_sequences:
        return "stop_sequence", choice.stop_reason
    return reason, None


def usage_of(usage: Usage | None) -> Block:
    """Usage as this API names it: input_tokens are those that no cache held."""
    usage = usage or Usage()
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def message(service: str, content: list[Block], stop: tuple[str | None, str | None], usage: Usage | None) -> Block:
    """A Message object."""
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": service,
        "content": content,
        "stop_reason": stop[0],
        "stop_sequence": stop[1],
        "usage": usage_of(usage),
    }


def whole(service: str, chat: Chat, stop_sequences: list[str]) -> Block:
    """The Message of a whole chat completion. Raises RequestError 502 when it has no choice, or a call that is
    no JSON object."""
    if not chat.choices:
        raise RequestError(502, "the engine's answer has no choice", type="server_error", source="engine")
    choice = chat.choices[0]
    content: list[Block] = []
    if choice.message.thought:
        content.append({"type": "thinking", "thinking": choice.message.thought, "signature": ""})
    if choice.message.content:
        content.append({"type": "text", "text": choice.message.content})
    content += [
        {
            "type": "tool_use",
            "id": call.id or _call_id(),
            "name": call.function.name or "",
            "input": _arguments(call.function.arguments),
        }
        for call in choice.message.tool_calls or []
    ]
    return message(service, content, stop_of(choice, stop_sequences), chat.usage)


class MessageEvents:
    """The events of one stream. Blocks are open one at a time: thinking, text, each tool use."""

    def __init__(self, service: str, stop_sequences: list[str]) -> None:
        self._service = service
        self._stop_sequences = stop_sequences
        self._started = False
        self._num_blocks = 0
        self._open: tuple[str, int] | None = None
        """Kind of the open block, and the index of its tool call."""
        self._stop: tuple[str, str | None] | None = None
        self._usage: Usage | None = None

    def begin(self) -> bytes:
        """Nothing: message_start tells the prompt's tokens, which the engine tells with its first chunk."""
        return b""

    def chunk(self, chat: Chat) -> bytes:
        """The events of one chunk."""
        self._usage = chat.usage or self._usage
        out = b""
        if not self._started:
            self._started = True
            start = message(self._service, [], (None, None), self._usage)
            out = event("message_start", {"type": "message_start", "message": start})
        for choice in chat.choices[:1]:
            delta = choice.delta
            if delta.thought:
                out += self._switch("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                out += self._delta({"type": "thinking_delta", "thinking": delta.thought})
            if delta.content:
                out += self._switch("text", {"type": "text", "text": ""})
                out += self._delta({"type": "text_delta", "text": delta.content})
            for call in delta.tool_calls or []:
                out += self._call(call)
            if choice.finish_reason:
                self._stop = stop_of(choice, self._stop_sequences)
        return out

    def end(self) -> bytes:
        """The end of a stream: an engine that stopped without a finish_reason did not finish."""
        if self._stop is None:
            return self.failed(
                RequestError(
                    502, "the engine's answer ended before it was finished", type="server_error", source="engine"
                )
            )
        out = self._close()
        delta = {"stop_reason": self._stop[0], "stop_sequence": self._stop[1]}
        out += event("message_delta", {"type": "message_delta", "delta": delta, "usage": usage_of(self._usage)})
        return out + event("message_stop", {"type": "message_stop"})

    def failed(self, error: RequestError) -> bytes:
        """The error event."""
        return event("error", error_object(error))

    def _call(self, call: ToolCall) -> bytes:
        block = {"type": "tool_use", "id": call.id or _call_id(), "name": call.function.name or "", "input": {}}
        out = self._switch("tool_use", block, call.index)
        if call.function.arguments:
            out += self._delta({"type": "input_json_delta", "partial_json": call.function.arguments})
        return out

    def _switch(self, kind: str, block: Block, index: int = 0) -> bytes:
        """Close what is open and open this block, unless it is open already."""
        if self._open == (kind, index):
            return b""
        out = self._close()
        self._open = (kind, index)
        start = {"type": "content_block_start", "index": self._num_blocks, "content_block": block}
        return out + event("content_block_start", start)

    def _delta(self, delta: Block) -> bytes:
        data = {"type": "content_block_delta", "index": self._num_blocks, "delta": delta}
        return event("content_block_delta", data)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        self._num_blocks += 1
        return event("content_block_stop", {"type": "content_block_stop", "index": self._num_blocks - 1})


def _arguments(text: str | None) -> Block:
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RequestError(
            502,
            "the model's tool call has arguments that are no JSON object",
            type="server_error",
            code="bad_tool_call",
            source="engine",
        )
    return value


def _call_id() -> str:
    return f"toolu_{secrets.token_hex(12)}"
