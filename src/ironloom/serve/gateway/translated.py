"""A handler for another API's requests, over chat completions: translate, call, translate back.

The translator is pure (bytes in, bytes out); this is the edge around it: the key, the call through the gateway with
its holding, retries and accounting, heartbeats while a stream is held, backpressure, and errors in the API's shape.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from ironloom.errors import RequestError
from ironloom.serve.gateway.chat import Chat, EventReader, read_chat
from ironloom.serve.gateway.errors import unknown_service
from ironloom.serve.gateway.internal import Caller, CallResult, read_whole
from ironloom.serve.gateway.keys import Key
from ironloom.serve.http.exchange import Exchange, Request

CHAT_PATH = "/v1/chat/completions"
HEARTBEAT_S = 5.0
_REQUEST_ID = re.compile(rb"[\w.:-]{1,128}")
_HEADERS = {b"content-type": b"application/json"}
_logger = logging.getLogger(__name__)


class Translation(ABC):
    """One request, translated: what to send, and how to tell what comes back."""

    service: str
    body: bytes
    """To send to `path`."""
    path: str = CHAT_PATH

    @abstractmethod
    def whole(self, data: bytes) -> bytes:
        """The answer's body, of the engine's whole answer. Raises RequestError 502 when that is garbage."""


class StreamTranslation(Translation):
    """One that can be answered as a stream of events."""

    stream: bool
    heartbeat: bytes = b": held\n\n"
    """Sent while a stream waits for its replica."""

    @abstractmethod
    def begin(self) -> bytes:
        """The events before the first chunk."""

    @abstractmethod
    def chunk(self, chat: Chat) -> bytes:
        """The events of one chunk."""

    @abstractmethod
    def end(self) -> bytes:
        """The events after the last chunk."""

    @abstractmethod
    def failed(self, error: RequestError) -> bytes:
        """The events that end a stream which failed."""


class TranslatedApi:
    """The handler of one path.

    `translate` makes a Translation of a request's body, `error_body` an error's body in this API's shape, `admit` the
    key of a request (None where none is needed); all raise RequestError. `on_refusal` hears of (request id, key id,
    path, status) of a request that is refused before `call` has it: what `call` has, it accounts for.
    """

    def __init__(
        self,
        call: Caller,
        *,
        admit: Callable[[Request], Key | None],
        translate: Callable[[bytes], Translation],
        error_body: Callable[[RequestError], bytes],
        on_refusal: Callable[[str, str, str, int], None] = lambda *_: None,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._on_refusal = on_refusal
        self._call = call
        self._admit = admit
        self._translate = translate
        self._error_body = error_body
        self._heartbeat_s = heartbeat_s
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, exchange: Exchange) -> None:
        """Answer this exchange. Returns at once."""
        task = asyncio.get_running_loop().create_task(self._answer(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        exchange.on_gone(lambda: _cancel(task))

    async def close(self) -> None:
        """End the requests that are still running."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, exchange: Exchange) -> None:
        request = exchange.request
        request_id = request_id_of(request)
        try:
            key, translation = self._accept(request, request_id)
            calling = asyncio.ensure_future(
                self._call(
                    translation.service,
                    translation.path,
                    translation.body,
                    _HEADERS,
                    key_id=key.id if key else "",
                    request_id=request_id,
                )
            )
            try:
                if isinstance(translation, StreamTranslation) and translation.stream:
                    await self._stream(exchange, translation, calling, request_id)
                else:
                    data = await _checked(await calling)
                    exchange.respond(200, translation.whole(data), headers=_ids(request_id))
            finally:
                calling.cancel()
        except RequestError as error:
            self._refuse(exchange, error, request_id)
        except asyncio.CancelledError:
            if not exchange.gone and exchange.started:
                exchange.abort()
            raise
        except Exception:
            _logger.exception("%s %s failed", request.method, request.path)
            message = "the gateway failed on this request; the daemon's log has the reason"
            bug = RequestError(500, message, type="server_error", code="internal_error", source="gateway")
            self._refuse(exchange, bug, request_id)

    def _accept(self, request: Request, request_id: str) -> tuple[Key | None, Translation]:
        """The key and the translation of a request that may be sent on. Raises RequestError, accounted for."""
        key: Key | None = None
        try:
            if request.method != "POST":
                raise RequestError(
                    405, f"{request.method} is not a method of {request.path}", code="method_not_allowed"
                )
            key = self._admit(request)
            translation = self._translate(request.body)
            if key is not None and not key.allows(translation.service):
                raise unknown_service(translation.service)  # as the gateway has it: not told that it is there
        except RequestError as error:
            self._on_refusal(request_id, key.id if key else "", request.path, error.status)
            raise
        return key, translation

    def _refuse(self, exchange: Exchange, error: RequestError, request_id: str) -> None:
        if exchange.started:
            exchange.abort()
            return
        headers = _ids(request_id)
        if error.retry_after_s is not None:
            headers += (("retry-after", str(max(1, round(error.retry_after_s)))),)
        exchange.respond(error.status, self._error_body(error), headers=headers)

    async def _stream(
        self, exchange: Exchange, translation: StreamTranslation, calling: asyncio.Future[CallResult], request_id: str
    ) -> None:
        """The events of a stream. An error before the first byte is an answer of its own; later, an event."""

        def start() -> None:
            if not exchange.started:
                headers = (("cache-control", "no-cache"), *_ids(request_id))
                exchange.start(200, content_type="text/event-stream", headers=headers)

        while not (await asyncio.wait({calling}, timeout=self._heartbeat_s))[0]:
            start()
            exchange.write(translation.heartbeat)
        try:
            result = calling.result()
            if result.status != 200:
                await _checked(result)
            start()
            exchange.write(translation.begin())
            async for piece in _pieces(result, translation):
                exchange.write(piece)
                await exchange.drain()
            exchange.write(translation.end())
        except RequestError as error:
            if not exchange.started:
                raise
            exchange.write(translation.failed(error))
        exchange.end()


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


async def _pieces(result: CallResult, translation: StreamTranslation) -> AsyncIterator[bytes]:
    reader = EventReader()
    body = result.body
    try:
        async for piece in body:
            events = b"".join([translation.chunk(_read(data)) for data in reader.feed(piece)])
            if events:
                yield events
            elif piece.startswith(b":"):  # the gateway's own heartbeat, while it holds the request or tries again
                yield translation.heartbeat
    finally:
        if hasattr(body, "aclose"):
            with suppress(RuntimeError):  # it is being read while the task is cancelled
                await body.aclose()


def _read(data: bytes) -> Chat:
    chat = read_chat(data)
    if chat.error is not None:
        raise _told(chat.error, 502)
    return chat


async def _checked(result: CallResult) -> bytes:
    """The body of a good answer. Raises what the engine or the gateway said otherwise."""
    data = await read_whole(result)
    if result.status == 200:
        return data
    try:
        error = read_chat(data).error
    except RequestError:
        error = None
    raise _told(error or {}, result.status)


def _told(error: dict[str, object], status: int) -> RequestError:
    """An error body as an exception again."""

    def text(name: str) -> str | None:
        value = error.get(name)
        return value if isinstance(value, str) else None

    return RequestError(
        status,
        text("message") or f"the engine answered with status {status}",
        type=text("type") or ("invalid_request_error" if status < 500 else "server_error"),
        code=text("code"),
        param=text("param"),
        source=text("source") or "engine",
    )


def request_id_of(request: Request) -> str:
    """The client's X-Request-Id where it is a sane one, else a new one."""
    given = request.headers.get(b"x-request-id", b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"


def _ids(request_id: str) -> tuple[tuple[str, str], ...]:
    return (("x-request-id", request_id), ("request-id", request_id))
