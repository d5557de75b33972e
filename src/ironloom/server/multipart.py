"""A strict reader of multipart/form-data, for file uploads. The body is already in memory, bounded by the server.

Source of the grammar: RFC 7578 and RFC 2046, section 5.1.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ironloom.errors import RequestError

MAX_PARTS = 32
MAX_PART_HEAD_BYTES = 8 * 1024

_BOUNDARY = re.compile(r"""(?:^|;)\s*boundary=(?:"([^"]{1,70})"|([^\s";,]{1,70}))""", re.IGNORECASE)
_PARAMETER = re.compile(r"""(?:^|;)\s*([A-Za-z*]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s";]*))""")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One field of a form."""

    name: str
    filename: str | None
    data: bytes


def parse_form(content_type: str, body: bytes) -> list[Part]:
    """The fields of a form, in order. Raises RequestError 415 when it is none, 400 when it is malformed."""
    media_type, _, parameters = content_type.partition(";")
    if media_type.strip().lower() != "multipart/form-data":
        raise RequestError(
            415,
            f"Content-Type is {media_type[:100]!r}; it must be multipart/form-data",
            code="unsupported_media_type",
            hint="curl sends it with `-F purpose=batch -F file=@FILE`",
        )
    match = _BOUNDARY.search(parameters)
    if match is None:
        raise _malformed("its Content-Type names no boundary of 1 to 70 characters")
    delimiter = b"--" + (match[1] or match[2]).encode("latin-1", "replace")
    if not body.startswith(delimiter):
        raise _malformed("it does not begin with its boundary")
    parts: list[Part] = []
    position = len(delimiter)
    while body[position : position + 2] != b"--":
        if body[position : position + 2] != b"\r\n":
            raise _malformed("a boundary is not followed by a line end")
        end = body.find(b"\r\n" + delimiter, position)
        if end < 0:
            raise _malformed("it does not end with its boundary")
        if len(parts) == MAX_PARTS:
            raise _malformed(f"it has more than {MAX_PARTS} parts")
        parts.append(_part(body, position + 2, end))
        position = end + 2 + len(delimiter)
    return parts


def _part(body: bytes, start: int, end: int) -> Part:
    head_end = body.find(b"\r\n\r\n", start, min(end, start + MAX_PART_HEAD_BYTES) + 4)
    if head_end < 0 or head_end > end:
        raise _malformed("a part has no end of its headers")
    for line in body[start:head_end].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            return _named(value.decode("utf-8", "replace").strip(), body[head_end + 4 : end])
    raise _malformed("a part has no Content-Disposition")


def _named(disposition: str, data: bytes) -> Part:
    kind, _, rest = disposition.partition(";")
    found = {
        match[1].lower(): _unquoted(match[2] if match[2] is not None else match[3])
        for match in _PARAMETER.finditer(rest)
    }
    if kind.strip().lower() != "form-data" or not found.get("name"):
        raise _malformed("a part has no name")
    return Part(name=found["name"], filename=found.get("filename"), data=data)


def _unquoted(text: str) -> str:
    """A quoted value: a backslash escapes the next character; browsers and httpx write a quote as %22."""
    return re.sub(r"\\(.)", r"\1", text).replace("%22", '"')


def _malformed(why: str) -> RequestError:
    return RequestError(400, f"the form cannot be read: {why}", code="invalid_multipart")
