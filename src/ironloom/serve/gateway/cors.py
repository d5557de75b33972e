"""Cross-origin requests of web pages: refused by saying nothing, unless an origin is allowed by name."""

from __future__ import annotations

import re

from ironloom.serve.http.exchange import Exchange

_HEADER_LIST = re.compile(rb"[A-Za-z0-9, _-]{0,500}")


def cors_lines(headers: dict[bytes, bytes], allow_origins: frozenset[str]) -> bytes:
    """The headers that let this request's page read the answer; nothing for others."""
    origin = headers.get(b"origin")
    if origin is None or origin.decode("latin-1") not in allow_origins:
        return b""
    return (
        b"Access-Control-Allow-Origin: " + origin + b"\r\nAccess-Control-Expose-Headers: X-Request-Id, Retry-After\r\n"
        b"Vary: Origin\r\n"
    )


def answer_preflight(exchange: Exchange, allow_origins: frozenset[str]) -> None:
    """Answer an OPTIONS request: what an allowed page may send, nothing for others."""
    headers = exchange.request.headers
    lines = cors_lines(headers, allow_origins)
    if lines:
        wanted = headers.get(b"access-control-request-headers", b"")
        if _HEADER_LIST.fullmatch(wanted) is None:
            wanted = b"authorization, content-type"
        lines = b"Access-Control-Allow-Methods: GET, POST\r\nAccess-Control-Max-Age: 600\r\n"
        if wanted:
            lines += b"Access-Control-Allow-Headers: " + wanted + b"\r\n"
    exchange.respond_lines(204, b"Allow: GET, HEAD, POST, OPTIONS\r\n" + lines, b"")
