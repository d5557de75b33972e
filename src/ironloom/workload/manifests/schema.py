"""Which fields each kind has, and whether a manifest keeps to them.

The table is data (schema.json), made by scripts/make_manifest_schema from KServe's custom resource definitions and
Kubernetes' OpenAPI description; what its entries look like stands there. The checks know no kind by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Schema:
    """The table as loaded."""

    sources: dict[str, str]
    """API group to the version that its types were taken from; "" stands for Kubernetes' own groups."""
    kinds: dict[str, int]
    """`group/version/Kind` (or `v1/Kind`) to the place of its type."""
    known: frozenset[str]
    """Kinds that exist, whether their types are in the table or not."""
    types: list[Any]

    def source(self, api_version: str) -> str:
        return self.sources.get(api_version.partition("/")[0], self.sources[""])


@cache
def load() -> Schema:
    """The table that comes with the package; read once."""
    raw = msgspec.json.decode(resources.files(__package__).joinpath("schema.json").read_bytes())
    return Schema(sources=raw["sources"], kinds=raw["kinds"], known=frozenset(raw["known"]), types=raw["types"])


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
    found = []
    for fault in _Checker(schema, kind, file).check(root, schema.kinds[kind], ()):
        found.append(fault)
        if len(found) == MAX_PROBLEMS:
            break
    return found


class _Checker:
    def __init__(self, schema: Schema, kind: str, file: str) -> None:
        self._schema = schema
        self._types = schema.types
        self._kind = kind
        self._file = file

    def check(self, node: Node, index: int, path: Path) -> Iterator[Fault]:
        if node.value is None and path and not isinstance(path[-1], int):
            return  # Kubernetes reads null as not there; in a list it is an element without a value.
        made = self._types[index]
        if isinstance(made, str):
            message = _scalar_problem(node, made)
            if message:
                yield self._error(f"{_said(path)} = {_shown(node)}, {message}", node.place, path)
        elif "object" in made:
            yield from self._object(node, made, path)
        elif "map" in made:
            if node.mapping is None:
                yield self._error(f"{_said(path)} = {_shown(node)}, must be a mapping", node.place, path)
                return
            for key, child in node.mapping.items():
                yield from self.check(child, made["map"], (*path, key))
        elif "list" in made:
            if node.items is None:
                yield self._error(f"{_said(path)} = {_shown(node)}, must be a list", node.place, path)
                return
            for number, child in enumerate(node.items):
                yield from self.check(child, made["list"], (*path, number))
        elif "enum" in made:
            if node.value not in made["enum"]:
                allowed = ", ".join(word for word in made["enum"] if word)
                yield self._error(f"{_said(path)} = {_shown(node)}, must be one of {allowed}", node.place, path)
        else:
            message = _range_problem(node, made["integer"])
            if message:
                yield self._error(f"{_said(path)} = {_shown(node)}, {message}", node.place, path)

    def _object(self, node: Node, made: dict[str, Any], path: Path) -> Iterator[Fault]:
        fields = made["object"]
        if node.mapping is None:
            yield self._error(f"{_said(path)} = {_shown(node)}, must be a mapping", node.place, path)
            return
        meant = set()
        for key, child in node.mapping.items():
            index = fields.get(key)
            if index is None:
                near = nearest(key, fields)
                meant.add(near)
                yield self._unknown(key, near, node, fields, path)
            else:
                yield from self.check(child, index, (*path, key))
        for key in made.get("required", ()):
            child_or_none = node.mapping.get(key)
            if key in meant:
                continue  # it is there, misspelt, and that was told
            if child_or_none is None or (child_or_none.value is None):
                where = _said(path) if path else self._kind.rpartition("/")[2]
                yield self._error(f"{where} must have the field {key!r}", node.place, path)

    def _unknown(self, key: str, near: str | None, node: Node, fields: dict[str, int], path: Path) -> Fault:
        where = _said(path) if path else self._kind.rpartition("/")[2]
        return self._error(
            f"{where} has no field {key!r}" + (f"; did you mean {near!r}?" if near else ""),
            node.keys.get(key, node.place),
            (*path, key),
            hint=None
            if near
            else f"{self._schema.source(self._kind)} has here: {', '.join(sorted(fields)[:40])}"
            + (" …" if len(fields) > 40 else ""),
        )

    def _error(self, message: str, place: Place, path: Path, hint: str | None = None) -> Fault:
        return path, ManifestError(
            message, hint=hint, file=self._file, line=place.line, column=place.column, path=path_text(path)
        )


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


def _range_problem(node: Node, limits: list[int | None]) -> str | None:
    problem = _integer_problem(node.value)
    if problem:
        return problem
    low, high = limits
    if low is not None and node.value < low:
        return f"must be at least {low}"
    if high is not None and node.value > high:
        return f"must be at most {high}"
    return None
