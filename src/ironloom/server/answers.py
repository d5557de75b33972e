"""Answers of the Starlette apps: JSON from the wire types, and every error OpenAI-shaped with its hint."""

from __future__ import annotations

import logging
import re
import sqlite3
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ironloom.errors import (
    CapacityError,
    DiskFull,
    IronloomError,
    ManifestError,
    ModelCorrupt,
    ModelNotFound,
    ModelRefused,
    RequestError,
    UsageError,
)
from ironloom.workload.manifests.problems import each

T = TypeVar("T")

_STATUS: tuple[tuple[type[IronloomError], int], ...] = (
    (ManifestError, 400),
    (UsageError, 400),
    (ModelNotFound, 400),
    (ModelRefused, 400),
    (ModelCorrupt, 400),
    (DiskFull, 507),
    (CapacityError, 409),
)
_logger = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


def json_answer(value: object, status: int = 200) -> Response:
    """A wire type or plain data as JSON."""
    return Response(_encode(value), status_code=status, media_type="application/json")


def error_body(error: RequestError) -> dict[str, Any]:
    """`{"error": {message, type, param, code, source, hint}}`."""
    body: dict[str, Any] = error.body()
    body["error"]["hint"] = error.hint
    return body


def as_request_error(error: IronloomError) -> RequestError:
    """Any of our errors as one that HTTP can tell. The message says where in a manifest each fault is, a line each."""
    if isinstance(error, RequestError):
        return error
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    message = error.message
    param = None
    if isinstance(error, ManifestError):
        message, param = "\n".join(_placed(problem) for problem in each(error)), error.path or None
    return RequestError(
        status,
        message,
        type="invalid_request_error" if status < 500 else "server_error",
        code=error.code,
        param=param,
        source="client" if status < 500 else "gateway",
        hint=error.hint,
    )


def _placed(error: ManifestError) -> str:
    place = f"{error.file}:{error.line}:{error.column}: " if error.line else ""
    return place + error.message


def error_answer(error: IronloomError) -> Response:
    """The answer to a request that failed with one of our errors."""
    told = as_request_error(error)
    response = json_answer(error_body(told), told.status)
    if told.retry_after_s is not None:
        response.headers["retry-after"] = str(max(1, round(told.retry_after_s)))
    if told.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


async def on_ironloom_error(_request: Request, error: Exception) -> Response:
    """Starlette's hook for IronloomError."""
    assert isinstance(error, IronloomError)
    told = as_request_error(error)
    if told.status >= 500:
        _logger.error("%s: %s", error.code, error.message)
    return error_answer(told)


async def on_database_error(request: Request, error: Exception) -> Response:
    """Starlette's hook for what SQLite refuses: its transaction was rolled back."""
    assert isinstance(error, sqlite3.Error)
    _logger.error("%s %s: %s", request.method, request.url.path, error)
    if error.sqlite_errorname == "SQLITE_FULL":
        told = RequestError(
            507,
            "the disk of the state folder is full, so nothing was changed",
            type="server_error",
            code="disk_full",
            source="gateway",
            retry_after_s=5.0,
            hint="free some of it; services that run go on meanwhile",
        )
    else:
        told = RequestError(
            500,
            f"the state file cannot be used ({error}), so nothing was changed",
            type="server_error",
            code="state_error",
            source="gateway",
        )
    return error_answer(told)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's hook for its own 404 and 405."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        message, code = f"there is nothing at {request.url.path}", "not_found"
    elif error.status_code == 405:
        message, code = f"{request.method} is not a method of {request.url.path}", "method_not_allowed"
    else:
        message, code = error.detail, "bad_request"
    response = error_answer(RequestError(error.status_code, message, code=code, hint="GET /openapi.json lists the API"))
    if error.headers and "Allow" in error.headers:
        response.headers["allow"] = error.headers["Allow"]
    return response


async def on_crash(_request: Request, _error: Exception) -> Response:
    """Starlette's hook for our own bugs. The bridge logs the traceback."""
    return error_answer(
        RequestError(
            500,
            "the daemon failed on this request; its log has the reason",
            type="server_error",
            code="internal_error",
            source="gateway",
        )
    )


def bad_value(param: str, message: str) -> RequestError:
    """The 400 of one wrong value; the message starts with the parameter's name."""
    return RequestError(400, message, code="invalid_value", param=param)


async def json_body(request: Request, kind: type[T]) -> T:
    """The request's body as a wire type. Raises RequestError 415 or 400.

    The content type must be JSON: no form of another origin's page can send that without asking first.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise RequestError(
            415,
            f"Content-Type is {media_type[:100]!r}; it must be application/json",
            code="unsupported_media_type",
            hint="curl sends it with `-H 'Content-Type: application/json'`",
        )
    try:
        return msgspec.json.Decoder(kind).decode(await request.body())
    except msgspec.ValidationError as error:
        raise RequestError(
            400, f"the body is not valid: {error}", code="invalid_value", param=_param_of(str(error))
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(400, f"the body is not valid JSON: {error}", code="invalid_json") from None


def _param_of(message: str) -> str | None:
    """The parameter that msgspec's message names: where it is (`$.a[0]`), and which field is missing or unknown."""
    where = re.search(r" - at `\$\.?([^`]*)`", message)
    field = re.search(r"(?:missing required|unknown) field `([^`]*)`", message)
    return ".".join(match[1] for match in (where, field) if match and match[1]) or None


def int_query(request: Request, name: str, default: int, *, low: int, high: int) -> int:
    """A whole number from the query. Raises RequestError 400."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = int(text) if len(text) < 20 and text.isascii() else None
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise bad_value(name, f"{name} is {text[:40]!r}; it must be a whole number from {low} to {high}")
    return value


def bool_query(request: Request, name: str) -> bool:
    """A flag from the query: absent, 0, 1, true or false. Raises RequestError 400."""
    text = request.query_params.get(name, "0").lower()
    if text not in {"0", "1", "true", "false"}:
        raise bad_value(name, f"{name} is {text[:40]!r}; it must be 0, 1, true or false")
    return text in {"1", "true"}
