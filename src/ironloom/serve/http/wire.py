"""The bytes of HTTP/1.1 heads and chunks that this package writes."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

import msgspec

from ironloom.errors import RequestError

LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


def status_line(status: int) -> bytes:
    """`HTTP/1.1 404 Not Found` with its line end; a status without a known phrase has an empty one."""
    line = STATUS_LINES.get(status)
    return line if line is not None else b"HTTP/1.1 %d \r\n" % status


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body. `data` must not be empty: an empty chunk is the end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def header_lines(headers: tuple[tuple[str, str], ...]) -> bytes:
    """Headers as bytes. Raises ValueError for a name or value that would break out of its line."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
        raise ValueError(f"a header has a line break in it: {headers!r}")
    return text.encode("latin-1")


def date_line() -> bytes:
    return f"Date: {formatdate(usegmt=True)}\r\n".encode()


def error_body(error: RequestError) -> bytes:
    """The error as OpenAI's clients read it, with our `hint` where there is one."""
    body = error.body()
    if error.hint:
        detail = body["error"]
        assert isinstance(detail, dict)
        detail["hint"] = error.hint
    return msgspec.json.encode(body)


def error_headers(error: RequestError) -> tuple[tuple[str, str], ...]:
    """The headers that go with an error: Retry-After in whole seconds, WWW-Authenticate for a missing key."""
    headers: tuple[tuple[str, str], ...] = ()
    if error.retry_after_s is not None:
        headers += (("Retry-After", str(max(1, round(error.retry_after_s)))),)
    if error.status == 401:
        headers += (("WWW-Authenticate", "Bearer"),)
    return headers
