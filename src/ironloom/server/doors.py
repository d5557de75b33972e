"""What the daemon listens with: the gateway, the APIs that are translated to it, the control API, page, files and
batches behind one door, with one guard before them.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ironloom.serve.gateway import messages, responses
from ironloom.serve.gateway.app import Gateway
from ironloom.serve.gateway.keys import KeyRing
from ironloom.serve.gateway.translated import TranslatedApi
from ironloom.serve.http.exchange import Handler, Request
from ironloom.serve.http.limits import Limits
from ironloom.serve.http.server import HttpServer, serve
from ironloom.server.app import build_app
from ironloom.server.asgi import AsgiBridge
from ironloom.server.batches import Batches
from ironloom.server.control import Control
from ironloom.server.descriptors import num_connections
from ironloom.server.files import FileStore
from ironloom.server.files_api import FilesApi
from ironloom.server.front import front
from ironloom.server.ground import Options, cannot_listen
from ironloom.server.security import Guard


@dataclass(frozen=True, kw_only=True, slots=True)
class Rooms:
    """What stands behind the door."""

    control: Control
    gateway: Gateway
    ring: KeyRing
    batches: Batches
    files: FileStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Door:
    """An open one."""

    server: HttpServer
    closers: tuple[Callable[[], Awaitable[None]], ...]
    """To be awaited once no request is in flight."""


async def open_door(
    rooms: Rooms, options: Options, *, guard: Guard, tls: ssl.SSLContext | None, num_descriptors: int
) -> Door:
    """Listen. Raises UsageError when the address cannot be had."""

    def admit(request: Request) -> Any:
        return guard.inference_key(request.headers, rooms.ring)

    files = FilesApi(rooms.files, rooms.batches, rooms.ring, guard)
    app = AsgiBridge(build_app(rooms.control, rooms.ring, guard, more=files.routes()))
    translated: dict[str, Handler] = {}
    closers: list[Callable[[], Awaitable[None]]] = [app.close]
    for path, translate, error_body in (
        (responses.PATH, responses.ResponsesTranslation, responses.error_body),
        (messages.PATH, messages.MessagesTranslation, messages.error_body),
        (messages.COUNT_PATH, messages.CountTranslation, messages.error_body),
    ):
        handler = TranslatedApi(
            rooms.gateway.call,
            admit=admit,
            translate=translate,
            error_body=error_body,
            on_refusal=rooms.gateway.refused,
        )
        translated[path] = handler
        closers.append(handler.close)
    handle = front(guard=guard, gateway=rooms.gateway, app=app, exact=translated)
    try:
        limits = Limits(max_connections=min(Limits().max_connections, num_connections(num_descriptors)))
        server = await serve(handle, host=options.host, port=options.port, ssl_context=tls, limits=limits)
    except OSError as error:
        raise cannot_listen(options, error) from error
    rooms.gateway.server = server
    return Door(server=server, closers=tuple(closers))
