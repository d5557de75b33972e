"""The errors that the gateway itself gives, each one sentence with its OpenAI-shaped code."""

from __future__ import annotations

import msgspec

from ironloom.errors import RequestError
from ironloom.serve.http import wire
from ironloom.units import format_duration


def unknown_service(name: str) -> RequestError:
    return RequestError(
        404,
        f"there is no service {name[:200]!r} here",
        code="model_not_found",
        param="model",
        hint="GET /v1/models lists the services; a service's name is its model id",
    )


def unknown_path(method: str, path: str) -> RequestError:
    return RequestError(404, f"there is nothing at {method} {path[:200]}", code="not_found")


def wrong_method(path: str, allowed: str) -> RequestError:
    return RequestError(405, f"{path} takes {allowed}", code="method_not_allowed")


def no_key(*, sent: bool) -> RequestError:
    return RequestError(
        401,
        "this key is not valid: it is unknown or was revoked" if sent else "a key is needed and none was sent",
        type="authentication_error",
        code="invalid_api_key" if sent else "missing_api_key",
        hint="send it as `Authorization: Bearer il-…`; `ironloom key create NAME` makes one",
    )


def encoded_body(coding: bytes) -> RequestError:
    return RequestError(
        415,
        f"the body's Content-Encoding is {coding.decode('latin-1')[:40]!r}; send it without one",
        code="unsupported_encoding",
    )


def timed_out(
    service: str, timeout_s: float, *, held: bool, reason: str | None, retry_after_s: float | None = None
) -> RequestError:
    """`reason` is what the backend says that a service without a ready replica waits for, `retry_after_s` how long that
    may go on."""
    what = f"was held for {format_duration(timeout_s)}, as no replica was ready" if held else "was not answered in time"
    return RequestError(
        504,
        f"the request to {service} {what}" + (f" ({reason})" if reason else ""),
        type="server_error",
        code="timeout",
        source="gateway" if held else "engine",
        retry_after_s=(retry_after_s or 5.0) if held else None,
        hint=f"the `timeout` of its manifest gives a request {format_duration(timeout_s)}, waiting included",
    )


def engine_failed(service: str, reason: str, num_tries: int) -> RequestError:
    tries = f" ({num_tries} tries)" if num_tries > 1 else ""
    return RequestError(
        502,
        f"the engine of {service} failed: {reason}{tries}",
        type="server_error",
        code="engine_failed",
        source="engine",
    )


def shutting_down() -> RequestError:
    return RequestError(
        503,
        "the daemon is shutting down",
        type="server_error",
        code="shutting_down",
        source="gateway",
        retry_after_s=5.0,
    )


def deleted(service: str) -> RequestError:
    return RequestError(
        404, f"the service {service} was deleted", code="model_not_found", param="model", source="gateway"
    )


def event(error: RequestError) -> bytes:
    """The error as a server-sent event, for a stream whose head is out."""
    return b"data: " + wire.error_body(error) + b"\n\n"


def event_of_body(body: bytes, status: int) -> bytes:
    """An engine's own error answer as an event, for a stream whose head went out as a heartbeat."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        decoded = None
    if isinstance(decoded, dict) and isinstance(decoded.get("error"), dict):
        decoded["error"].setdefault("source", "engine")
        return b"data: " + msgspec.json.encode(decoded) + b"\n\n"
    text = body[:500].decode("utf-8", "replace")
    error = RequestError(status, f"the engine answered {status}: {text}", type="server_error", source="engine")
    return event(error)
