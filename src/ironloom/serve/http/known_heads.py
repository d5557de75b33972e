"""Heads that were read before, known again by their bytes, so that a message that has one needs no parsing.

A client sends head after head that differ in nothing but the digits of Content-Length; an engine answers so. Such a
head was parsed and checked once, and means the same each time but for that number, which is all that is read of it
again. A message is known only if all of it came in one read; everything else takes the parser's way.
"""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)
_MAX_DIGITS = 8
"""Far more than one read holds, far less than an integer's parsing would be slow for."""


class KnownHead:
    """One head, split at the digits of its Content-Length."""

    __slots__ = ("_after", "_before", "_digits_at", "_digits_end")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before = before
        self._after = after
        """To the end of the empty line."""
        self._digits_at = len(before)
        self._digits_end = len(before) + _MAX_DIGITS + 1

    def body(self, data: bytes) -> bytes | None:
        """The body of the message that `data` is, the whole of it and nothing else, with this head; None if it is
        none."""
        if not data.startswith(self._before):
            return None
        digits_at = self._digits_at
        end = data.find(b"\r", digits_at, self._digits_end)
        after = self._after
        if end < 0 or not data.startswith(after, end):
            return None
        digits = data[digits_at:end]
        if not digits.isdigit():
            return None
        body = data[end + len(after) :]
        return body if len(body) == int(digits) else None


def split_head(head: bytes) -> tuple[bytes, bytes] | None:
    """What stands before and after the digits of a head's Content-Length; None when it has not exactly one, or one
    that is followed by spaces. `head` ends with its empty line."""
    found = _LENGTH.findall(head)
    if len(found) != 1:
        return None
    at = _LENGTH.search(head)
    assert at is not None
    if not head.startswith(b"\r\n", at.end(1)):
        return None
    return head[: at.start(1)], head[at.end(1) :]
