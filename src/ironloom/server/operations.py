"""An operation of the HTTP API as a value: the Starlette routes and the OpenAPI description are made from the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Endpoint = Callable[[Request], Awaitable[Response]]
Schema = dict[str, Any]


class Door(StrEnum):
    """What a request needs where keys are required."""

    OPEN = "open"
    INFERENCE = "inference"
    CONTROL = "control"


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A parameter in the query."""

    name: str
    description: str
    schema: Schema


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    """With {name} for a part of the path."""
    id: str
    summary: str
    tag: str
    door: Door
    query: tuple[Parameter, ...] = ()
    body: Any = None
    """A msgspec type or a JSON schema (dict) of the request's body; None is no body."""
    body_type: str = "application/json"
    answer: Any = None
    """A msgspec type or a JSON schema (dict) of the answer's body."""
    answer_type: str = "application/json"
    errors: tuple[int, ...] = ()
    """Statuses of errors beside those that the door implies."""


def routes(operations: tuple[tuple[Operation, Endpoint], ...], *, prefix: str = "") -> list[Route]:
    """The operations as Starlette routes, under a further prefix where one is given."""
    return [
        Route(prefix + operation.path, endpoint, methods=[operation.method], name=operation.id)
        for operation, endpoint in operations
    ]
