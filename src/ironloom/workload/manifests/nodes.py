"""YAML or JSON text into nodes: plain values that know where they stand in the text.

The text is parsed by libyaml into events, and the tree is built from them in a loop: no recursion, so depth is a
number that is checked and not a stack that overflows (libyaml's own composer dies of 200,000 nested lists). Bounded
against depth, size, and aliases that multiply ("billion laughs"). A key that stands twice is an error with both places;
who passes `doubles` takes those below the top that have one value both times, as kubectl and Helm do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import yaml

from ironloom.errors import ManifestError
from ironloom.workload.manifests.bounds import (
    MAX_ENTRIES,
    MAX_OBJECT_VALUES,
    MAX_VALUES,
    OBJECT_HINT,
    SPLIT,
    TOO_LARGE_OBJECT,
    bounded,
    is_too_large,
)
from ironloom.workload.manifests.scalars import Scalar, resolve

MAX_DEPTH = 100
"""Nested lists and mappings. The deepest field of a KServe manifest stands 20 deep."""
MAX_ALIASED_NODES = 100_000
"""Nodes of a document with its aliases written out."""
MAX_DOUBLES = 100
"""Keys of a file that stand twice and are read on after."""
MERGE_KEY = "<<"
_STRING_TAG = "tag:yaml.org,2002:str"
_TAG_PREFIX = "tag:yaml.org,2002:"


class Place(msgspec.Struct):
    """Where something stands: line and column count from 1, `start` and `end` are character offsets."""

    line: int = 0
    column: int = 0
    start: int = 0
    end: int = 0


NOWHERE = Place()


class Node(msgspec.Struct):
    """A value and its place. `children` of a mapping are by key, of a list by index; None for a scalar."""

    value: Any
    place: Place
    mapping: dict[str, Node] | None = None
    items: list[Node] | None = None
    keys: dict[str, Place] = msgspec.field(default_factory=dict)
    """Of a mapping: where each key stands."""
    size: int = 1
    """Nodes in it, aliases written out."""
    quoted: bool = False


class _Open(msgspec.Struct):
    """A list or mapping whose end has not come."""

    node: Node
    anchor: str | None
    key: str | None = None
    key_place: Place = msgspec.field(default_factory=Place)
    double: tuple[Node, ManifestError] | None = None
    """The key stood there before: with what value, and what is said of it."""
    merging: bool = False
    """The key is `<<`: what comes next is merged in."""
    merges: list[Node] = msgspec.field(default_factory=list)


def parse(text: str, file: str, *, doubles: list[ManifestError] | None = None, begin: int = 0) -> Iterator[Node]:
    """The documents of a text, one node each; empty documents are left out. Raises ManifestError.

    Documents before an error have been given out by then. A key below the top that stands twice with the same value
    is put into `doubles` where that is given. What stands before `begin`, the start of a line, is not looked at;
    places are those of the whole text.
    """
    bounded(text, file)
    above = _num_line_ends(text, begin)
    rest = text[begin:] if begin else text
    try:
        yield from _Builder(file, doubles, above, begin).documents(rest)
    except yaml.MarkedYAMLError as error:
        if (json_node := _escaped_json(rest)) is not None:
            yield json_node
            return
        line, column = _mark(error, rest)
        context = error.context
        if context and error.context_mark and error.context_mark.line + 1 < line:
            context += f" from line {above + error.context_mark.line + 1} on"
        what = ", ".join(part for part in (context, error.problem) if part)
        raise ManifestError(f"not YAML: {what}", file=file, line=line and above + line, column=column) from None
    except yaml.reader.ReaderError as error:
        before = rest.encode(errors="surrogatepass")[: error.position].decode(errors="replace")
        line, column = above + before.count("\n") + 1, len(before) - before.rfind("\n")
        raise ManifestError(f"not YAML: {error.reason}", file=file, line=line, column=column) from None
    except UnicodeEncodeError as error:
        line = above + rest.count("\n", 0, error.start) + 1
        raise ManifestError("not YAML: half a surrogate pair", file=file, line=line, column=1) from None
    except yaml.YAMLError as error:
        raise ManifestError(f"not YAML: {error}", file=file) from None


def from_object(value: object, *, depth: int = 0) -> Node:
    """The node of a plain object that came without text; it stands nowhere. Raises ManifestError."""
    if depth > MAX_DEPTH:
        raise ManifestError(f"nested more than {MAX_DEPTH} deep", file="<object>")
    if isinstance(value, dict):
        mapping: dict[str, Node] = {}
        for key, child in value.items():
            if not isinstance(key, str):
                raise ManifestError(f"the key {key!r} must be a string", file="<object>")
            mapping[key] = from_object(child, depth=depth + 1)
        return Node(value, NOWHERE, mapping=mapping)
    if isinstance(value, list | tuple):
        return Node(value, NOWHERE, items=[from_object(child, depth=depth + 1) for child in value])
    if value is None or isinstance(value, str | int | float | bool):
        return Node(value, NOWHERE)
    raise ManifestError(f"{value!r} is a {type(value).__name__}, which JSON does not have", file="<object>")


class _Builder:
    """Builds nodes from libyaml's events."""

    def __init__(self, file: str, doubles: list[ManifestError] | None, above: int, begin: int) -> None:
        self._file = file
        self._doubles = doubles
        self._above = above
        """Lines before what is parsed."""
        self._begin = begin
        """Characters before it."""
        self._num_values = 0
        self._num_object_values = 0
        self._num_documents = 0
        self._is_too_large = False
        """The document that has begun."""
        self._anchors: dict[str, Node] = {}
        self._open: list[_Open] = []
        self._root: Node | None = None

    def documents(self, text: str) -> Iterator[Node]:
        next_event = yaml.CSafeLoader(text).get_event
        handlers: dict[type, Callable[[Any], None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._start_mapping,
            yaml.MappingEndEvent: self._end,
            yaml.SequenceStartEvent: self._start_sequence,
            yaml.SequenceEndEvent: self._end,
            yaml.AliasEvent: self._alias,
        }
        while (event := next_event()) is not None:
            kind = type(event)
            handler = handlers.get(kind)
            if handler is not None:
                handler(event)
            elif kind is yaml.DocumentStartEvent:
                self._start_document(event, text)
            elif kind is yaml.DocumentEndEvent:
                root = self._root
                if root is not None and not (root.value is None and not root.quoted):
                    yield root

    def _start_document(self, event: Any, text: str) -> None:
        self._anchors, self._root, self._num_object_values = {}, None, 0
        self._num_documents += 1
        if self._num_documents > MAX_ENTRIES:
            raise self._too_many(f"{MAX_ENTRIES:,} documents")
        self._is_too_large = is_too_large(text, event.start_mark.index)

    def _scalar(self, event: Any) -> None:
        quoted = not event.implicit[0]
        value: Scalar
        if event.tag is None or event.tag == "!":
            value = event.value if quoted else resolve(event.value)
        else:
            value = self._tagged(event)
        start, begin = event.start_mark, self._begin
        # As _place, written out: it is asked for each of a text's words.
        place = Place(self._above + start.line + 1, start.column + 1, begin + start.index, begin + event.end_mark.index)
        parent = self._open[-1] if self._open else None
        if parent is not None and parent.key is None and parent.node.mapping is not None:
            if not quoted and value is None:
                raise self._error("a key must not be empty", start)
            self._key(parent, event.value, place, quoted=quoted)
            return
        node = Node(value, place, quoted=quoted)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        self._add(node, start)

    def _tagged(self, event: yaml.ScalarEvent) -> Scalar:
        tag = (event.tag or "").removeprefix(_TAG_PREFIX)
        if tag in ("str", "binary"):
            return str(event.value)
        value = resolve(event.value)
        types: dict[str, type | tuple[type, ...]] = {
            "int": int,
            "float": (int, float),
            "bool": bool,
            "null": type(None),
        }
        if tag not in types:
            raise self._error(f"the tag {event.tag} is not one that Kubernetes reads", event.start_mark)
        if not isinstance(value, types[tag]) or (isinstance(value, bool) and tag != "bool"):
            raise self._error(f"{event.value!r} is not a {tag}", event.start_mark)
        return value

    def _key(self, parent: _Open, key: str, place: Place, *, quoted: bool) -> None:
        mapping = parent.node.mapping
        assert mapping is not None
        if key == MERGE_KEY and not quoted:
            parent.key, parent.merging = key, True
            return
        if key in mapping:
            first = parent.node.keys[key]
            error = ManifestError(
                f"the key {key!r} stands twice: first in line {first.line}, column {first.column}",
                file=self._file,
                line=place.line,
                column=place.column,
                path=key,
            )
            if self._doubles is None or len(self._open) == 1:
                raise error
            parent.double = mapping[key], error
        parent.key, parent.key_place = key, place

    def _start_mapping(self, event: Any) -> None:
        self._start(event, Node({}, self._place(event), mapping={}))

    def _start_sequence(self, event: Any) -> None:
        self._start(event, Node([], self._place(event), items=[]))

    def _start(self, event: Any, node: Node) -> None:
        if event.tag not in (None, "!", _TAG_PREFIX + "map", _TAG_PREFIX + "seq"):
            raise self._error(f"the tag {event.tag} is not one that Kubernetes reads", event.start_mark)
        if self._is_too_large:
            raise self._error(TOO_LARGE_OBJECT, event.start_mark, OBJECT_HINT)
        if len(self._open) >= MAX_DEPTH:
            raise self._error(f"nested more than {MAX_DEPTH} deep", event.start_mark)
        if self._open and self._open[-1].node.mapping is not None and self._open[-1].key is None:
            hint = "a template's {{ … }} must be filled in first" if isinstance(node.value, dict) else None
            raise self._error("a key must be a word, not a list or a mapping", event.start_mark, hint)
        self._open.append(_Open(node, event.anchor))

    def _end(self, event: Any) -> None:
        done = self._open.pop()
        done.node.place.end = self._begin + event.end_mark.index
        for merged in done.merges:
            self._merge(done.node, merged)
        self._anchor(done.anchor, done.node)
        self._add(done.node, event.start_mark)

    def _alias(self, event: yaml.AliasEvent) -> None:
        node = self._anchors.get(event.anchor or "")
        if node is None:
            is_open = any(waiting.anchor == event.anchor for waiting in self._open)
            what = "stands inside of what it names" if is_open else "names no anchor before it"
            raise self._error(f"the alias *{event.anchor} {what}", event.start_mark)
        parent = self._open[-1] if self._open else None
        if parent is not None and parent.node.mapping is not None and parent.key is None:
            if not isinstance(node.value, str):
                raise self._error("a key must be a word", event.start_mark)
            self._key(parent, node.value, self._place(event), quoted=False)
            return
        self._add(node, event.start_mark)

    def _anchor(self, anchor: str | None, node: Node) -> None:
        if anchor is not None:
            self._anchors[anchor] = node

    def _add(self, node: Node, mark: Any) -> None:
        """Put a finished node into the list or mapping that is open, or make it the document."""
        self._num_values += 1
        self._num_object_values += 1
        if self._num_values > MAX_VALUES:
            raise self._too_many(f"{MAX_VALUES:,} values")
        if self._num_object_values > MAX_OBJECT_VALUES:
            raise self._error(f"the object has over {MAX_OBJECT_VALUES:,} values, and no more are read", mark)
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        into = parent.node
        into.size += node.size
        if self._anchors and into.size > MAX_ALIASED_NODES:
            raise self._error(f"with its aliases written out the document has over {MAX_ALIASED_NODES} nodes", mark)
        if into.items is not None:
            into.items.append(node)
            into.value.append(node.value)
            if len(into.items) > MAX_ENTRIES:
                raise self._error(f"the list has over {MAX_ENTRIES:,} entries, and no more are read", mark, SPLIT)
            if len(self._open) == 2 and self._open[0].key == "items":
                self._num_object_values = 0  # an object of a List, and the next one begins
            return
        assert parent.key is not None
        assert into.mapping is not None
        if parent.merging:
            parent.merging = False
            sources = node.items if node.items is not None else [node]
            if any(source.mapping is None for source in sources):
                raise self._error("<<: merges mappings, and this is none", mark)
            parent.merges += sources
        else:
            if parent.double is not None:
                self._twice(parent.double, node)
                parent.double = None
            into.mapping[parent.key] = node
            into.keys[parent.key] = parent.key_place
            into.value[parent.key] = node.value
            if len(into.mapping) > MAX_ENTRIES:
                raise self._error(f"the mapping has over {MAX_ENTRIES:,} keys, and no more are read", mark, SPLIT)
        parent.key = None

    def _twice(self, double: tuple[Node, ManifestError], node: Node) -> None:
        first, error = double
        if first.value != node.value or self._doubles is None or len(self._doubles) >= MAX_DOUBLES:
            raise error
        self._doubles.append(error)

    def _merge(self, into: Node, source: Node) -> None:
        assert into.mapping is not None
        for key, child in (source.mapping or {}).items():
            if key not in into.mapping:
                into.mapping[key] = child
                into.keys[key] = source.keys[key]
                into.value[key] = child.value

    def _error(self, message: str, mark: Any, hint: str | None = None) -> ManifestError:
        line = self._above + mark.line + 1
        return ManifestError(message, hint=hint, file=self._file, line=line, column=mark.column + 1)

    def _too_many(self, what: str) -> ManifestError:
        """No fault of a place: whoever goes on after one at the next document would not go on after this."""
        return ManifestError(f"it has over {what}, and no more are read", hint=SPLIT, file=self._file)

    def _place(self, event: Any) -> Place:
        start, begin = event.start_mark, self._begin
        return Place(self._above + start.line + 1, start.column + 1, begin + start.index, begin + event.end_mark.index)


def _num_line_ends(text: str, end: int) -> int:
    """Ends of lines before an offset."""
    return text.count("\n", 0, end) + text.count("\r", 0, end) - text.count("\r\n", 0, end)


def _mark(error: yaml.MarkedYAMLError, text: str) -> tuple[int, int]:
    """Line and column of a fault. What ends too early is placed where it begins, or at the text's last character:
    libyaml's own place is on a line below the last."""
    whole = text.rstrip()
    marks = [mark for mark in (error.problem_mark, error.context_mark) if mark is not None]
    for mark in marks:
        if mark.index < len(whole):
            return mark.line + 1, mark.column + 1
    return (whole.count("\n") + 1, len(whole) - whole.rfind("\n") - 1) if marks else (0, 0)


def _escaped_json(text: str) -> Node | None:
    """JSON that writes 😀 as two escapes, which YAML does not read; it stands at its beginning as a whole."""
    if not text.lstrip().startswith(("{", "[")) or "\\u" not in text:
        return None
    try:
        return from_object(json.loads(text))
    except (ValueError, RecursionError, ManifestError):
        return None
