"""Which fields each kind has, and whether a manifest keeps to them.

The tables are data, made by scripts/make_manifest_schema from Kubernetes' OpenAPI description and custom resource
definitions; what their entries look like stands in openapi.py. The checks know no kind by name. schema.json has the
kinds that are run, of one version; schemas.json.z has every kind that is known, of several versions of Kubernetes.
"""

from __future__ import annotations

import pkgutil
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from functools import cache
from typing import Any

import msgspec

from ironloom.errors import ManifestError
from ironloom.units import parse_quantity
from ironloom.workload.manifests.nodes import Node, Place
from ironloom.workload.manifests.suggest import nearest

Path = tuple[str | int, ...]
Fault = tuple[Path, ManifestError]
"""What is wrong, and the field that it is wrong with."""
MAX_PROBLEMS = 50
"""More problems than this in one document say no more."""


class Schema(msgspec.Struct, frozen=True, kw_only=True):
    """A table as loaded."""

    sources: dict[str, str]
    """API group, or group and version, to what its types were taken from; "" stands for Kubernetes' own groups."""
    kinds: dict[str, int]
    """`group/version/Kind` (or `v1/Kind`) to the place of its type."""
    known: frozenset[str]
    """Kinds that exist, whether their types are in the table or not."""
    types: list[Any]
    since: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Kind to the first minor version of Kubernetes that has it, where that is not the oldest in the table."""
    until: Mapping[str, int] = msgspec.field(default_factory=dict)
    """Kind to the last one, where that is not the newest."""

    def source(self, kind: str) -> str:
        """What the types of a `group/version/Kind`, or of a `group/version`, were taken from."""
        group, version, *_ = *kind.split("/"), ""
        return self.sources.get(f"{group}/{version}") or self.sources.get(group) or self.sources[""]


class Wrong(StrEnum):
    """In what way a field is not what its kind has."""

    UNKNOWN = "unknown"
    TYPE = "type"
    MISSING = "missing"
    VALUE = "value"
    """Of the right type, and not one of those that are allowed."""
    DOUBLE = "double"
    """A list has two entries of one key."""
    VERSION = "version"
    """The field is in another version of Kubernetes."""


class Mistake(msgspec.Struct, frozen=True, kw_only=True):
    """One field that is wrong, and where."""

    wrong: Wrong
    path: Path
    place: Place
    message: str
    hint: str | None = None
    meant: str = ""
    """Of an unknown field: the one that it was meant to be, where that is not there yet."""
    wants: str = ""
    """Of a scalar of the wrong type: the right one."""
    is_taken: bool = False
    """Of a double: the API server takes it all the same, and one of the two is lost."""


@cache
def load() -> Schema:
    """The table of the kinds that are run; read once."""
    return decode(_data("schema.json"))


@cache
def load_all() -> Schema:
    """The table of every kind that is known, of all the versions; read once, in some milliseconds."""
    return decode(zlib.decompress(_data("schemas.json.z")))


def minors() -> tuple[int, int]:
    """The oldest and the newest minor version of Kubernetes 1 that the tables hold."""
    table = load_all()
    return min(table.since.values()) - 1, int(table.sources[""].rpartition(".")[2])


def _data(name: str) -> bytes:
    # importlib.resources takes longer to import than a table to read.
    text = pkgutil.get_data(__package__, name)
    assert text is not None, "files beside a module are read by every loader of the standard library"
    return text


def decode(text: bytes) -> Schema:
    """A table from its JSON."""
    raw = msgspec.json.decode(text)
    return Schema(
        sources=raw["sources"],
        kinds=raw["kinds"],
        known=frozenset(raw["known"]),
        types=raw["types"],
        since=raw.get("since", {}),
        until=raw.get("until", {}),
    )


def path_text(path: Path) -> str:
    """`spec.containers[0].image`; a key with dots in it stands in brackets, as in kubectl's jsonpath."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif "." in step or "/" in step:
            text += f"['{step}']"
        else:
            text += f".{step}" if text else step
    return text


def faults(root: Node, kind: str, file: str, schema: Schema) -> list[Fault]:
    """What in the document its kind does not have, in the order of the text. Empty when all is well.

    `kind` is `group/version/Kind` and must be in the table.
    """
    return [
        (
            mistake.path,
            ManifestError(
                mistake.message,
                hint=mistake.hint,
                file=file,
                line=mistake.place.line,
                column=mistake.place.column,
                path=path_text(mistake.path),
            ),
        )
        for mistake in mistakes(root, kind, schema)
        if mistake.wrong is not Wrong.DOUBLE
    ]


def mistakes(root: Node, kind: str, schema: Schema, *, minor: int | None = None) -> list[Mistake]:
    """As `faults`, each with what it is, at most MAX_PROBLEMS, and lists that have an entry twice.

    `minor` is the minor version of Kubernetes 1 that the document is for; None takes the fields of any version.
    """
    found = []
    for mistake in _Checker(schema, kind, minor).check(root, schema.kinds[kind], ()):
        found.append(mistake)
        if len(found) == MAX_PROBLEMS:
            break
    return found


class _Checker:
    def __init__(self, schema: Schema, kind: str, minor: int | None) -> None:
        self._schema = schema
        self._types = schema.types
        self._kind = kind
        self._minor = minor

    def check(self, node: Node, index: int, path: Path) -> Iterator[Mistake]:
        if node.value is None and path and not isinstance(path[-1], int):
            return  # Kubernetes reads null as not there; in a list it is an element without a value.
        made = self._types[index]
        if isinstance(made, str):
            message = _scalar_problem(node, made)
            if message:
                said = f"{_said(path)} = {_shown(node)}, {message}"
                yield self._mistake(Wrong.TYPE, said, node.place, path, wants=made)
        elif "object" in made:
            yield from self._object(node, made, path)
        elif "map" in made:
            if node.mapping is None:
                yield self._mistake(Wrong.TYPE, f"{_said(path)} = {_shown(node)}, must be a mapping", node.place, path)
                return
            for key, child in node.mapping.items():
                yield from self.check(child, made["map"], (*path, key))
        elif "list" in made:
            yield from self._list(node, made, path)
        else:
            wrong, message = _value_problem(node, made)
            if message:
                said, wants = f"{_said(path)} = {_shown(node)}, {message}", "integer" if "integer" in made else "string"
                yield self._mistake(wrong, said, node.place, path, wants=wants if wrong is Wrong.TYPE else "")

    def _list(self, node: Node, made: dict[str, Any], path: Path) -> Iterator[Mistake]:
        if node.items is None:
            yield self._mistake(Wrong.TYPE, f"{_said(path)} = {_shown(node)}, must be a list", node.place, path)
            return
        for number, child in enumerate(node.items):
            yield from self.check(child, made["list"], (*path, number))
        for word, is_out in (("min", len(node.items).__lt__), ("max", len(node.items).__gt__)):
            if word in made and is_out(made[word]):
                least = "at least" if word == "min" else "at most"
                message = f"{_said(path)} has {len(node.items)} entries, must have {least} {made[word]}"
                yield self._mistake(Wrong.VALUE, message, node.place, path)
        if "keys" in made and len(node.items) > 1:
            yield from self._doubles(node.items, made, path)

    def _doubles(self, items: list[Node], made: dict[str, Any], path: Path) -> Iterator[Mistake]:
        seen: dict[tuple[Any, ...], Node] = {}
        for number, child in enumerate(items):
            if child.mapping is None:
                continue
            key = tuple(
                child.mapping[name].value if name in child.mapping else default
                for name, default in made["keys"].items()
            )
            if any(part is None or isinstance(part, dict | list) for part in key):
                continue
            first = seen.setdefault(key, child)
            if first is not child:
                said = ", ".join(f"{name} {part}" for name, part in zip(made["keys"], key, strict=True))
                yield Mistake(
                    wrong=Wrong.DOUBLE,
                    path=(*path, number),
                    place=child.place,
                    message=f"{_said(path)} has {said} twice: first in line {first.place.line}",
                    is_taken=bool(made.get("soft")),
                )

    def _object(self, node: Node, made: dict[str, Any], path: Path) -> Iterator[Mistake]:
        fields = made["object"]
        if node.mapping is None:
            yield self._mistake(Wrong.TYPE, f"{_said(path)} = {_shown(node)}, must be a mapping", node.place, path)
            return
        meant = set()
        for key, child in node.mapping.items():
            index = fields.get(key)
            if index is None:
                near = nearest(key, fields)
                meant.add(near)
                yield self._unknown(key, near, node, fields, path)
                continue
            other = self._other_version(made, key)
            if other:
                message = f"{_said((*path, key))} is a field of Kubernetes {other}, not of 1.{self._minor}"
                yield self._mistake(Wrong.VERSION, message, node.keys.get(key, node.place), (*path, key))
            yield from self.check(child, index, (*path, key))
        for key in self._required(made):
            child_or_none = node.mapping.get(key)
            if key in meant:
                continue  # it is there, misspelt, and that was told
            if child_or_none is None or (child_or_none.value is None):
                where = _said(path) if path else self._kind.rpartition("/")[2]
                yield self._mistake(Wrong.MISSING, f"{where} must have the field {key!r}", node.place, path)

    def _required(self, made: dict[str, Any]) -> list[str]:
        required: list[str] = made.get("required", [])
        if self._minor is None or "required-since" not in made:
            return required
        return [*required, *(key for key, minor in made["required-since"].items() if self._minor >= minor)]

    def _other_version(self, made: dict[str, Any], key: str) -> str:
        """The versions that have the field, where the one that is asked for is none of them."""
        if self._minor is None:
            return ""
        first, last = made.get("since", {}).get(key), made.get("until", {}).get(key)
        if first is not None and self._minor < first:
            return f"1.{first} and newer"
        return f"1.{last} and older" if last is not None and self._minor > last else ""

    def _unknown(self, key: str, near: str | None, node: Node, fields: dict[str, int], path: Path) -> Mistake:
        where = _said(path) if path else self._kind.rpartition("/")[2]
        return Mistake(
            wrong=Wrong.UNKNOWN,
            path=(*path, key),
            place=node.keys.get(key, node.place),
            message=f"{where} has no field {key!r}" + (f"; did you mean {near!r}?" if near else ""),
            hint=None
            if near
            else f"{self._schema.source(self._kind)} has here: {', '.join(sorted(fields)[:40])}"
            + (" …" if len(fields) > 40 else ""),
            meant=near if near and near not in (node.mapping or ()) else "",
        )

    @staticmethod
    def _mistake(wrong: Wrong, message: str, place: Place, path: Path, *, wants: str = "") -> Mistake:
        return Mistake(wrong=wrong, path=path, place=place, message=message, wants=wants)


def _said(path: Path) -> str:
    return path_text(path) or "the document"


def _shown(node: Node) -> str:
    """The value in a message: short, and with the quotes that tell text from number."""
    if node.mapping is not None:
        return "{…}" if node.mapping else "{}"
    if node.items is not None:
        return "[…]" if node.items else "[]"
    if node.value is None or isinstance(node.value, bool):
        return {None: "null", True: "true", False: "false"}[node.value]
    text = repr(node.value)
    return text if len(text) <= 60 else text[:59] + "…"


def _scalar_problem(node: Node, made: str) -> str | None:
    value = node.value
    if made == "any":
        return None
    if node.mapping is not None or node.items is not None:
        return f"must be {_ARTICLES[made]}"
    match made:
        case "string":
            return None if isinstance(value, str) else "must be a string: write it in quotes"
        case "boolean":
            return None if isinstance(value, bool) else "must be true or false"
        case "integer":
            return _integer_problem(value)
        case "number":
            return None if isinstance(value, int | float) and not isinstance(value, bool) else "must be a number"
        case "int-or-string":
            return (
                None if isinstance(value, int | str) and not isinstance(value, bool) else "must be an integer or text"
            )
        case _:
            try:
                parse_quantity(value)
            except ValueError:
                return "must be a quantity such as 500m, 2 or 16Gi"
            return None


_ARTICLES = {
    "string": "a string",
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "int-or-string": "an integer or text",
    "quantity": "a quantity such as 500m, 2 or 16Gi",
}


def _integer_problem(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int):
        quoted = isinstance(value, str) and value.lstrip("-").isdecimal()
        return "must be an integer: write it without quotes" if quoted else "must be an integer"
    return None if -(2**63) <= value < 2**63 else "must fit in 64 bits"


def _value_problem(node: Node, made: dict[str, Any]) -> tuple[Wrong, str | None]:
    """What is wrong with a value that its type limits."""
    if "integer" in made:
        problem = _integer_problem(node.value)
        low, high = made["integer"]
        if problem is None and low is not None and node.value < low:
            return Wrong.VALUE, f"must be at least {low}"
        if problem is None and high is not None and node.value > high:
            return Wrong.VALUE, f"must be at most {high}"
        return Wrong.TYPE, problem
    if "enum" in made:
        if node.value in made["enum"]:
            return Wrong.VALUE, None
        return Wrong.VALUE, f"must be one of {', '.join(str(word) for word in made['enum'] if word)}"
    problem = _scalar_problem(node, "string")
    if problem is not None:
        return Wrong.TYPE, problem
    pattern, least, most = made["text"]
    if least is not None and len(node.value) < least:
        return Wrong.VALUE, f"must have at least {least} character{'s' if least > 1 else ''}"
    if most is not None and len(node.value) > most:
        return Wrong.VALUE, f"must have at most {most} characters"
    is_wrong = pattern is not None and len(node.value) <= MAX_MATCHED and _matcher(pattern)(node.value) is None
    return Wrong.VALUE, f"must match {pattern}" if is_wrong else None


MAX_MATCHED = 1000
"""Characters of a text that is held against a pattern: one that backtracks costs no more than that."""


@cache
def _matcher(pattern: str) -> Callable[[str], object]:
    """The pattern as Go reads it, as far as Python does; one that Python cannot read, or reads otherwise, matches
    everything."""
    flags = re.IGNORECASE if "(?i)" in pattern else re.NOFLAG
    try:
        # A class such as [[:alpha:]] is something else in Python, which warns of it.
        return re.compile("" if "[[:" in pattern else pattern.replace("(?i)", ""), re.ASCII | flags).search
    except re.error:
        return lambda text: text
