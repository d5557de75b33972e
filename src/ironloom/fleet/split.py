"""Objects out of a stream of JSON, one at a time, so that a file of gigabytes never stands in memory.

A stream holds objects one after another: single ones, and lists whose `items` are taken out one by one. An object's end
is guessed from how the file is laid out and proven by decoding it: JSON that decodes whole from a known beginning ends
where it ends. Where the guess fails the decoder itself says where the object ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from ironloom.errors import ManifestError
from ironloom.units import KIB, MIB, format_bytes

CHUNK_BYTES = 256 * KIB
"""Small enough that the memory of one read serves the next."""
MAX_OBJECT_BYTES = 64 * MIB
"""etcd keeps no object of more than 1.5 MiB by default; a list that is laid out in no known way is one object here."""
READ_AHEAD_BYTES = 4 * MIB
"""An end that is not guessed within this many bytes is looked for otherwise."""
MAX_WRONG_GUESSES = 3
"""In one list, before no more guesses are made."""
Reader = Callable[[int], bytes]
End = Callable[[bytes, int], int]
"""A guess where the object that begins at a place of these bytes ends; -1 where they do not say."""
T = TypeVar("T")
Decode = Callable[[bytes, "Head"], T]

_TEXT = rb'"(?:[^"\\]|\\.)*+"'
_LIST = re.compile(
    rb'\{\s*+(?:"(?:apiVersion|kind)"\s*:\s*' + _TEXT + rb"\s*,\s*"
    rb'|"metadata"\s*:\s*\{(?:' + _TEXT + rb'|[^{}"]++|\{(?:' + _TEXT + rb'|[^{}"]++)*+\})*+\}\s*,\s*)*+'
    rb'"items"\s*:\s*\[(\s*)'
)
"""How a list begins, up to and with the white space before its first item."""
_AFTER_OBJECT = frozenset(b", \t\r")
_FIRST_KEY = re.compile(rb"\{\s*\"[^\"\\]{1,200}\"\s*:")
_COMMA = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*")
_SPACE = re.compile(rb"[ \t\r\n]*")
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")
_whole = msgspec.json.Decoder(msgspec.Raw)
_list_head = msgspec.json.Decoder(strict=False)


class Head(msgspec.Struct, frozen=True):
    """What a list says of its items before they come. All empty for an object that stands alone."""

    api_version: str = ""
    kind: str = ""
    item_kind: str = ""
    """`Pod` of a `PodList`, whose items do not repeat it; empty for a `List` of anything."""
    metadata: dict[str, object] = msgspec.field(default_factory=dict)


ALONE = Head()


class _Window:
    """The part of a stream that is in memory: from `start` on it has not been taken."""

    def __init__(self, read: Reader) -> None:
        self._read = read
        self.data = b""
        self.start = 0
        self.is_ended = False
        self._num_lines_gone = 0

    @property
    def line(self) -> int:
        """Of what has not been taken, counted from 1."""
        return self._num_lines_gone + self.data.count(b"\n", 0, self.start) + 1

    def more(self) -> bool:
        """Read on, and let go of what has been taken. False at the end of the stream."""
        if self.is_ended:
            return False
        # As much again as is there: an object of many chunks is copied a few times, not once a chunk.
        left = len(self.data) - self.start
        chunk = self._read(max(CHUNK_BYTES, left))
        if not chunk:
            self.is_ended = True
            return False
        self.let_go(b"", chunk)
        return True

    def let_go(self, before: bytes = b"", after: bytes = b"") -> None:
        """Keep what has not been taken alone, between these."""
        self._num_lines_gone += self.data.count(b"\n", 0, self.start)
        self.data = before + self.data[self.start :] + after
        self.start = 0

    def skip_space(self) -> None:
        while True:
            found = _SPACE.match(self.data, self.start)
            assert found is not None  # it matches the empty string
            self.start = found.end()
            if self.start < len(self.data) or not self.more():
                return

    def peek(self) -> bytes:
        """The next byte; empty at the end of the stream."""
        while self.start == len(self.data):
            if not self.more():
                return b""
        return self.data[self.start : self.start + 1]


def split(read: Reader, decode: Decode[T], *, file: str, on_list: Callable[[Head], None] | None = None) -> Iterator[T]:
    """What `decode` makes of each object of a stream of JSON; `on_list` hears of each list as it begins.

    `decode` is given the object's bytes and the head of the list that it stands in, and raises msgspec.DecodeError for
    bytes that are no JSON (no msgspec.ValidationError, which is one). Raises ManifestError where the stream is none; it
    has the line on which the object begins, as has one that `decode` raises.
    """
    window = _Window(read)
    try:
        yield from _split(window, decode, file, on_list)
    except ManifestError as error:
        error.line = error.line or window.line
        raise


def _split(window: _Window, decode: Decode[T], file: str, on_list: Callable[[Head], None] | None) -> Iterator[T]:
    while True:
        window.skip_space()
        if not window.peek():
            return
        head = _list_at(window)
        if head is not None:
            if on_list is not None:
                on_list(head)
            yield from _items(window, head, decode, file)
            _close(window, file)
        elif window.peek() == b"[":
            window.start += 1
            yield from _items(window, ALONE, decode, file)
        else:
            made, _ = _object(window, _ends_alone(window), ALONE, decode, file)
            yield made


def _list_at(window: _Window) -> Head | None:
    """The head of a list that begins here, with its first item next; None where something else stands."""
    while (found := _LIST.match(window.data, window.start)) is None:
        # It may be cut off: but what tells a list from an object stands near its beginning.
        if len(window.data) - window.start >= CHUNK_BYTES or not window.more():
            return None
    while found.end() == len(window.data) and window.more():
        found = _LIST.match(window.data, window.start)
        assert found is not None  # more of what matched matches
    head = window.data[window.start : found.start(1)]
    try:
        decoded = _list_head.decode(head + b"]}")
        kind = decoded.get("kind", "")
        known = msgspec.convert(
            {
                "api_version": decoded.get("apiVersion", ""),
                "kind": kind,
                "item_kind": kind.removesuffix("List") if isinstance(kind, str) else "",
                "metadata": decoded.get("metadata", {}),
            },
            Head,
        )
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    window.start = found.end() - len(found[1])
    return known


def _items(window: _Window, head: Head, decode: Decode[T], file: str) -> Iterator[T]:
    """The items of an array whose bracket has been taken; takes the closing one too."""
    before = window.data[window.start : window.start + 200]
    window.skip_space()
    indent = _indent(before)
    end: End | None = None
    num_wrong = 0
    while window.peek() != b"]":
        if end is None:
            end = _ends_in_list(window, indent)
        if end is _line_end and num_wrong < MAX_WRONG_GUESSES:
            yield from _lines(window, head, decode)
        made, was_right = _object(window, end if num_wrong < MAX_WRONG_GUESSES else None, head, decode, file)
        num_wrong += not was_right
        yield made
        comma = _COMMA.match(window.data, window.start)
        if comma is not None and comma.end() < len(window.data):
            window.start = comma.end()
            continue
        # The end of what is in memory, or of the list.
        window.skip_space()
        following = window.peek()
        if following == b",":
            window.start += 1
            window.skip_space()
        elif following != b"]":
            raise _broken(file, "it ends in the middle of a list" if not following else _odd(window))
    window.start += 1


def _lines(window: _Window, head: Head, decode: Decode[T]) -> Iterator[T]:
    """Take items that are a line each, with a comma at its end, as long as that is so and another follows in what is in
    memory. It is what _object does of a snapshot's hundred thousand lines, without a call for each step."""
    data, start = window.data, window.start
    # One byte is searched for many times faster than two.
    while (place := data.find(b"\n", start)) > start and data[place - 1 : place + 2] == b",\n{":
        try:
            made = decode(data[start : place - 1], head)
        except msgspec.DecodeError:
            return  # a wrong guess, or no JSON: _object tells which
        window.start = start = place + 1
        yield made


def _indent(before: bytes) -> bytes | None:
    """The white space that begins the lines of items; None where they stand on one line."""
    space = _SPACE.match(before)
    assert space is not None
    return space[0].rpartition(b"\n")[2] if b"\n" in space[0] else None


def _ends_in_list(window: _Window, indent: bytes | None) -> End:
    """How the items of this list end, by how the first one is laid out."""
    first = window.data[window.start : window.start + 300]
    key = _FIRST_KEY.match(first)
    is_spread = key is not None and b"\n" in key[0]
    if indent is not None and is_spread:
        closing = b"\n" + indent + b"}"
        return lambda data, start: _after(data.find(closing, start), len(closing))
    if indent is not None:
        return _line_end
    if key is None:
        return lambda _data, _start: -1
    # The next item begins as this one does. A quote inside a string is escaped: this cannot stand in one.
    following = b"," + key[0]
    spaced = b", " + key[0]

    def end(data: bytes, start: int) -> int:
        place = data.find(following, start)
        return place if place >= 0 else data.find(spaced, start)

    return end


def _ends_alone(window: _Window) -> End:
    """The same for an object that stands in no list."""
    key = _FIRST_KEY.match(window.data, window.start)
    if key is not None and b"\n" in key[0]:
        return lambda data, start: _after(data.find(b"\n}", start), 2)
    return _line_end


def _line_end(data: bytes, start: int) -> int:
    """The end of an object that is one line, without the comma after it."""
    # One byte is searched for many times faster than two.
    end = data.find(b"\n", start)
    while end > start and data[end - 1] in _AFTER_OBJECT:
        end -= 1
    return end


def _after(place: int, length: int) -> int:
    return place + length if place >= 0 else -1


def _object(window: _Window, end: End | None, head: Head, decode: Decode[T], file: str) -> tuple[T, bool]:
    """Decode the object that begins here, and take it: (what it is, whether the guess was right)."""
    place = end(window.data, window.start) if end is not None else -1
    if end is not None:
        while place < 0 and len(window.data) - window.start < READ_AHEAD_BYTES and window.more():
            place = end(window.data, window.start)
    if place >= 0:
        try:
            made = decode(window.data[window.start : place], head)
        except msgspec.DecodeError:
            pass  # a wrong guess, or no JSON: told apart below
        else:
            window.start = place
            return made, True
    place = _true_end(window, file)
    try:
        made = decode(window.data[window.start : place], head)
    except msgspec.DecodeError as error:
        raise _broken(file, str(error)) from error
    window.start = place
    return made, False


def _true_end(window: _Window, file: str) -> int:
    """Where the JSON value that begins here ends, by the decoder's own word. Raises ManifestError where it does not."""
    size = 16_384
    while True:
        piece = memoryview(window.data)[window.start : window.start + size]
        try:
            _whole.decode(piece)
        except msgspec.DecodeError as error:
            trailing = _TRAILING.search(str(error))
            if trailing is not None:
                # The number is of the byte after the odd one; white space before that decodes as well.
                return window.start + int(trailing[1]) - 1
            if "truncated" not in str(error):
                raise _broken(file, str(error)) from error
        except RecursionError as error:
            raise _broken(file, "it is nested too deep") from error
        else:
            if window.start + len(piece) == len(window.data):
                return len(window.data)
        if size > MAX_OBJECT_BYTES:
            raise _broken(file, f"one object of it has more than {format_bytes(MAX_OBJECT_BYTES)}")
        if window.start + size >= len(window.data) and not window.more() and window.start + size >= len(window.data):
            raise _broken(file, "it ends in the middle of an object")
        size *= 2


def _close(window: _Window, file: str) -> None:
    """Take what stands in a list after its items: `, "kind": "List", … }`."""
    window.skip_space()
    following = window.peek()
    if following == b",":
        window.start += 1
        # The rest is an object without its brace.
        window.let_go(before=b"{")
        window.start = _true_end(window, file)
    elif following == b"}":
        window.start += 1
    else:
        raise _broken(file, "it ends in the middle of a list" if not following else _odd(window))


def _odd(window: _Window) -> str:
    seen = window.data[window.start : window.start + 20].decode(errors="replace")
    return f"{seen!r} stands in a list, after an item"


def _broken(file: str, why: str) -> ManifestError:
    return ManifestError(
        f"it is no JSON of Kubernetes objects: {why}",
        hint="Take the objects with `kubectl get nodes,pods,… -A -o json`, or with `ironloom snapshot`",
        file=file,
    )
