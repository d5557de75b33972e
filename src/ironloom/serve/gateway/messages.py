"""Anthropic's Messages API over chat completions: text, images where the model sees them, tools, streaming, and the
counting of tokens. Errors are in Anthropic's shape."""

from __future__ import annotations

import msgspec

from ironloom.errors import RequestError
from ironloom.serve.gateway.chat import Chat, read_chat, read_object
from ironloom.serve.gateway.messages_events import PING, MessageEvents, error_object, whole
from ironloom.serve.gateway.messages_request import Fields, chat_request, prompt_request
from ironloom.serve.gateway.translated import StreamTranslation, Translation

PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"


class _Tokenized(msgspec.Struct, frozen=True):
    count: int


_decode_tokenized = msgspec.json.Decoder(_Tokenized).decode


class MessagesTranslation(StreamTranslation):
    """One request of /v1/messages. Raises RequestError 400 for a body that is wrong."""

    heartbeat = PING

    def __init__(self, body: bytes) -> None:
        chat = chat_request(_fields(body))
        self.service = chat["model"]
        self.stream = chat["stream"]
        self.body = msgspec.json.encode(chat)
        stop = chat.get("stop")
        self._stop_sequences = stop if isinstance(stop, list) else []
        self._events = MessageEvents(self.service, self._stop_sequences)

    def whole(self, data: bytes) -> bytes:
        return msgspec.json.encode(whole(self.service, read_chat(data), self._stop_sequences))

    def begin(self) -> bytes:
        return self._events.begin()

    def chunk(self, chat: Chat) -> bytes:
        return self._events.chunk(chat)

    def end(self) -> bytes:
        return self._events.end()

    def failed(self, error: RequestError) -> bytes:
        return self._events.failed(error)


class CountTranslation(Translation):
    """One request of /v1/messages/count_tokens: the engine's own tokenizer and chat template count."""

    path = "/tokenize"

    def __init__(self, body: bytes) -> None:
        chat = prompt_request(_fields(body))
        self.service = chat["model"]
        self.body = msgspec.json.encode(chat)

    def whole(self, data: bytes) -> bytes:
        try:
            count = _decode_tokenized(data).count
        except msgspec.DecodeError as error:
            raise RequestError(
                502, f"the engine's answer has no count: {error}", type="server_error", source="engine"
            ) from None
        return msgspec.json.encode({"input_tokens": count})


def error_body(error: RequestError) -> bytes:
    """An error in Anthropic's shape."""
    return msgspec.json.encode(error_object(error))


def _fields(body: bytes) -> Fields:
    return {name: value for name, value in read_object(body).items() if value is not None}
