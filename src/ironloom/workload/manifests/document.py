"""One document of a file: the object, its kind, and where each part of it stands."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from ironloom.errors import ManifestError
from ironloom.workload.manifests import schema
from ironloom.workload.manifests.nodes import Node, Place
from ironloom.workload.manifests.problems import each
from ironloom.workload.manifests.schema import Fault, Path, path_text
from ironloom.workload.manifests.suggest import nearest

if TYPE_CHECKING:
    from ironloom.workload.serving import FieldNote, Ground

SUBDOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?")
"""A Kubernetes object's name (RFC 1123 subdomain)."""
MAX_NAME = 63
"""Names end up in labels, host names and file names; 63 is the shortest of their limits."""


class Positions(msgspec.Struct, frozen=True):
    """Where the keys and values of one document stand in its file."""

    root: Node

    def value(self, path: Path) -> Place:
        """The place of the value at `path`; of the nearest part above it where there is none."""
        node = self.root
        for step in path:
            below = _child(node, step)
            if below is None:
                return node.place
            node = below
        return node.place

    def mapping(self, path: Path) -> dict[str, Any]:
        """The mapping at `path`; empty where there is none."""
        node: Node | None = self.root
        for step in path:
            node = _child(node, step) if node is not None else None
        return node.value if node is not None and isinstance(node.value, dict) else {}

    def key(self, path: Path) -> Place:
        """The place of the key that ends `path`; of the value where it is in a list, or where there is none."""
        if not path or isinstance(path[-1], int):
            return self.value(path)
        node = self.root
        for step in path[:-1]:
            below = _child(node, step)
            if below is None:
                return node.place
            node = below
        return node.keys.get(path[-1], node.place)


class Document(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """An object of a manifest file."""

    obj: dict[str, Any]
    file: str
    positions: Positions
    text: str = ""
    """The whole file's text, which the positions' offsets count in; empty for an object that came without one."""
    found: list[ManifestError] = msgspec.field(default_factory=list)
    """What is wrong with it, as far as one has looked: so that a person hears of all of it at once."""

    @property
    def api_version(self) -> str:
        return str(self.obj.get("apiVersion", ""))

    @property
    def kind(self) -> str:
        return str(self.obj.get("kind", ""))

    @property
    def type_name(self) -> str:
        """`group/version/Kind`, as the table of kinds names it."""
        return f"{self.api_version}/{self.kind}"

    @property
    def name(self) -> str:
        metadata = self.obj.get("metadata")
        return str(metadata.get("name") or "") if isinstance(metadata, dict) else ""

    def error(self, path: Path, message: str, *, hint: str | None = None, at_key: bool = False) -> ManifestError:
        """An error that stands at `path`."""
        place = self.positions.key(path) if at_key else self.positions.value(path)
        return ManifestError(
            message, hint=hint, file=self.file, line=place.line, column=place.column, path=path_text(path)
        )

    def complain(self, path: Path, message: str, *, hint: str | None = None, at_key: bool = False) -> None:
        """Keep an error that stands at `path`, and go on."""
        self.found.append(self.error(path, message, hint=hint, at_key=at_key))

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Keep what is raised inside, and go on after it."""
        try:
            yield
        except ManifestError as error:
            self.found.extend(each(error))

    def note(self, path: Path, message: str, grounds: frozenset[Ground] | None = None) -> FieldNote:
        """A note on the field at `path`, that holds on these grounds; on all where none is said."""
        place = self.positions.key(path)
        from ironloom.workload.serving import EVERYWHERE, FieldNote

        return FieldNote(
            path=path_text(path),
            message=message,
            file=self.file,
            line=place.line,
            column=place.column,
            grounds=EVERYWHERE if grounds is None else grounds,
        )


def document(node: Node, file: str, text: str = "") -> Document:
    """A document of a parsed node. Raises ManifestError for what is no Kubernetes object at all."""
    made = Document(obj=node.value, file=file, positions=Positions(node), text=text)
    if node.mapping is None:
        raise made.error((), "a manifest must be a mapping with apiVersion and kind")
    for key in ("apiVersion", "kind"):
        child = node.mapping.get(key)
        if child is None or child.value is None:
            near = nearest(key, node.mapping)
            hint = f"it has {near!r}" if near else "every Kubernetes object begins with apiVersion and kind"
            raise made.error((), f"the object has no {key}", hint=hint)
        if not isinstance(child.value, str):
            raise made.error((key,), f"{key} = {child.value!r}, must be a string")
    return made


def check(made: Document) -> list[ManifestError]:
    """What the object's kind does not have. Empty for a kind whose fields the table does not hold."""
    return [error for _, error in faults(made)]


def faults(made: Document) -> list[Fault]:
    """As `check`, with the fields that are wrong."""
    table = schema.load()
    if made.type_name in table.kinds:
        return schema.faults(made.positions.root, made.type_name, made.file, table)
    unknown = unknown_kind(made)
    return [(("kind",), unknown)] if unknown else []


def without(made: Document, paths: Sequence[Path]) -> Document | None:
    """The document as if these fields were not there, so that the rest of it can be looked at; None when that is
    nothing. Of a list nothing is taken out, which would move its other entries: the whole list goes."""
    obj = copy.deepcopy(made.obj)
    for path in paths:
        while path and isinstance(path[-1], int):
            path = path[:-1]
        if not path:
            return None
        above: Any = obj
        for step in path[:-1]:
            inside = isinstance(above, list) and isinstance(step, int) and step < len(above)
            above = above[step] if inside else above.get(step) if isinstance(above, dict) else None
        if isinstance(above, dict):
            above.pop(path[-1], None)
    return replace(made, obj=obj, found=[])


def unknown_kind(made: Document) -> ManifestError | None:
    """An error where the API group is one the table knows and has no such version or kind."""
    table = schema.load()
    if made.type_name in table.known:
        return None
    group = made.api_version.rpartition("/")[0]
    siblings = [name for name in table.known if name.rpartition("/")[0].rpartition("/")[0] == group]
    if not siblings:
        return None
    versions = sorted({name.split("/")[-2] for name in siblings if name.endswith(f"/{made.kind}")})
    if versions:
        said = " or ".join(f"{group}/{version}".lstrip("/") for version in versions)
        return made.error(("apiVersion",), f"apiVersion = {made.api_version!r}, {made.kind} is in {said}")
    near = nearest(made.kind, {name.rpartition("/")[2] for name in siblings})
    did = f"; did you mean {near!r}?" if near else ""
    return made.error(("kind",), f"{made.api_version} has no kind {made.kind!r}{did}")


def checked_name(made: Document, pattern: re.Pattern[str] = SUBDOMAIN, allowed: str = "") -> str:
    """metadata.name. Raises ManifestError for a name that does not match `pattern`, which `allowed` says in words."""
    metadata = made.obj.get("metadata") or {}
    name = metadata.get("name")
    if not name:
        hint = None
        if metadata.get("generateName"):
            hint = "generateName makes a new service at each apply; a service here is known by its name"
        raise made.error(("metadata",), f"{made.kind} has no metadata.name", hint=hint)
    if len(name) > MAX_NAME or not pattern.fullmatch(name):
        allowed = allowed or "lower-case letters, digits, '-' and '.', with a letter or digit at both ends"
        raise made.error(("metadata", "name"), f"metadata.name = {name[:80]!r}, must be at most {MAX_NAME} {allowed}")
    return str(name)


def strings(values: Mapping[str, str | None] | None) -> dict[str, str]:
    """A mapping of text as Kubernetes keeps it: what has no value is left out."""
    return {key: value for key, value in (values or {}).items() if value is not None}


def _child(node: Node, step: str | int) -> Node | None:
    if node.mapping is not None and isinstance(step, str):
        return node.mapping.get(step)
    if node.items is not None and isinstance(step, int) and step < len(node.items):
        return node.items[step]
    return None
