"""The Starlette app of the daemon: control API, files and batches, the page, the OpenAPI description."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files as package_files

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ironloom.errors import IronloomError
from ironloom.serve.gateway.keys import KeyRing
from ironloom.server.answers import on_crash, on_database_error, on_http_exception, on_ironloom_error
from ironloom.server.api import ControlApi
from ironloom.server.control import Control
from ironloom.server.openapi import description_json
from ironloom.server.security import PAGE_HEADERS, Guard

_PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def build_app(
    control: Control,
    ring: KeyRing,
    guard: Guard,
    *,
    more: Sequence[BaseRoute] = (),
    stream_period_s: float = 1.0,
) -> Starlette:
    """The app; `more` are further routes (files and batches)."""
    return Starlette(
        routes=[
            *ControlApi(control, ring, guard, stream_period_s=stream_period_s).routes(),
            *more,
            Route("/openapi.json", _openapi, methods=["GET"]),
            *(Route(path, _page_file(*file), methods=["GET"]) for path, file in _PAGE_FILES.items()),
        ],
        exception_handlers={
            IronloomError: on_ironloom_error,
            HTTPException: on_http_exception,
            sqlite3.OperationalError: on_database_error,
            Exception: on_crash,
        },
    )


async def _openapi(_request: Request) -> Response:
    return Response(description_json(), media_type="application/json")


def _page_file(name: str, media_type: str) -> Callable[[Request], Response]:
    def answer(_request: Request) -> Response:
        return Response(_read(name), headers={"content-type": media_type, **dict(PAGE_HEADERS)})

    return answer


@cache
def _read(name: str) -> bytes:
    return (package_files("ironloom.server") / "page" / name).read_bytes()
