"""Heads that were read before, known again by their bytes, so that a message that has one needs no parsing.

A client sends head after head that differ in nothing but the digits of Content-Length; an engine answers so. Such a
head was parsed and checked once, and means the same each time but for that number, which is all that is read of it
again. A message is known only if all of it came in one read; everything else takes the parser's way.
"""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)


class KnownHead:
    """One head, split at the digits of its Content-Length.

    A message of so many bytes has one head, if any: the one whose length says all of the rest. It is written once for
    all messages of a size, and a message is known by beginning with it.
    """

    __slots__ = ("_after", "_before", "_head", "_size")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before = before
        self._after = after
        """To the end of the empty line."""
        self._size = -1
        self._head = b""
        """Of messages of `_size` bytes."""

    def body(self, data: bytes) -> bytes | None:
        """The body of the message that `data` is, the whole of it and nothing else, with this head; None if it is
        none."""
        size = len(data)
        if size != self._size and not self._expect(size):
            return None
        head = self._head
        return data[len(head) :] if data.startswith(head) else None

    def _expect(self, size: int) -> bool:
        """Prepare for messages of `size` bytes; False when there can be none."""
        rest = size - len(self._before) - len(self._after)
        for num_digits in (len(str(rest)), len(str(rest)) - 1):  # a body of 98 bytes leaves 100, of 9 only 10
            length = rest - num_digits
            if num_digits and length >= 0 and len(str(length)) == num_digits:
                self.expect(length)
                self._size = size
                return True
        return False

    def expect(self, length: int) -> None:
        """Prepare for messages whose body has `length` bytes."""
        self._head = b"%b%d%b" % (self._before, length, self._after)


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
