"""Chat completions as read back from an engine, for the translators of other APIs: the whole answer, the chunks of a
stream, and the reader of server-sent events. Fields that no translator needs are passed over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ironloom.errors import RequestError


class PromptDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that a prefix cache held."""
        return (self.prompt_tokens_details and self.prompt_tokens_details.cached_tokens) or 0

    @property
    def reasoning_tokens(self) -> int:
        return (self.completion_tokens_details and self.completion_tokens_details.reasoning_tokens) or 0


class Function(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct, frozen=True):
    """Of an answer, or a piece of one in a stream: then `index` says of which."""

    index: int = 0
    id: str | None = None
    function: Function = Function()


class Message(msgspec.Struct, frozen=True):
    """An answer's message, or a piece of it."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None

    @property
    def thought(self) -> str:
        """The reasoning text, under either name that engines give it."""
        return self.reasoning_content or self.reasoning or ""


class Choice(msgspec.Struct, frozen=True):
    message: Message = Message()
    delta: Message = Message()
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    """vLLM's: the stop string or token id that ended it."""
    logprobs: dict[str, Any] | None = None


class Chat(msgspec.Struct, frozen=True):
    """A whole answer or one chunk of a stream."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: dict[str, Any] | None = None
    """Set in the error event that ends a stream that failed."""


_decode = msgspec.json.Decoder(Chat).decode


def read_chat(data: bytes) -> Chat:
    """A chat completion or a chunk. Raises RequestError 502 when the engine's answer is none."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(
            502,
            f"the engine's answer is not a chat completion: {error}",
            type="server_error",
            code="bad_engine_answer",
            source="engine",
        ) from None


class EventReader:
    """Server-sent events out of pieces of bytes, cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The `data` of each event that is whole now; comments (heartbeats) and `[DONE]` are passed over."""
        *blocks, self._rest = (self._rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in blocks:
            data = b"\n".join(line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:"))
            if data and data != b"[DONE]":
                yield data


def event(name: str, data: dict[str, Any]) -> bytes:
    """One server-sent event with a name."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


def read_object(body: bytes) -> dict[str, Any]:
    """A request's body as a JSON object. Raises RequestError 400."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise RequestError(400, "the body must be a JSON object", code="invalid_type")
    return value


def wrong(param: str, message: str) -> RequestError:
    """The 400 of one parameter."""
    return RequestError(400, f"{param}: {message}", code="invalid_value", param=param)


def unsupported(param: str, why: str) -> RequestError:
    """The 400 of a parameter that is known and not honoured here."""
    return RequestError(400, f"{param}: {why}", code="unsupported_parameter", param=param)


def text_field(fields: dict[str, Any], name: str, where: str = "") -> str:
    """A required string of an object. Raises RequestError 400 by its path."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise wrong(where + name, "it must be a string")
    return value
