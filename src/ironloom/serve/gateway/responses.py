"""OpenAI's Responses API over chat completions: its stateless subset.

Nothing is kept between calls, so what would need that (previous_response_id, conversation, store, background) is
refused with 400 and its name. Reasoning items among the input are passed over, as chat templates drop earlier
thoughts.
"""

from __future__ import annotations

import time

import msgspec

from ironloom.errors import RequestError
from ironloom.serve.gateway.chat import Chat, read_chat, read_object
from ironloom.serve.gateway.responses_events import ResponseEvents, new_id, whole
from ironloom.serve.gateway.responses_request import chat_request, template
from ironloom.serve.gateway.translated import StreamTranslation

PATH = "/v1/responses"


class ResponsesTranslation(StreamTranslation):
    """One request of /v1/responses. Raises RequestError 400 for a body that is wrong."""

    def __init__(self, body: bytes) -> None:
        fields = {name: value for name, value in read_object(body).items() if value is not None}
        chat = chat_request(fields)
        self.service = chat["model"]
        self.stream = chat["stream"]
        self.body = msgspec.json.encode(chat)
        self._template = {"id": new_id("resp"), "created_at": int(time.time()), **template(fields)}
        self._events = ResponseEvents(self._template)

    def whole(self, data: bytes) -> bytes:
        return msgspec.json.encode(whole(self._template, read_chat(data)))

    def begin(self) -> bytes:
        return self._events.begin()

    def chunk(self, chat: Chat) -> bytes:
        return self._events.chunk(chat)

    def end(self) -> bytes:
        return self._events.end()

    def failed(self, error: RequestError) -> bytes:
        return self._events.failed(error)


def error_body(error: RequestError) -> bytes:
    """An error in OpenAI's shape."""
    return msgspec.json.encode(error.body())
