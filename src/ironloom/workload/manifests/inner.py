"""Where something stands in a text of YAML that is itself a value of a manifest: serveConfigV2 of a RayService."""

from __future__ import annotations

from ironloom.workload import look
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.nodes import Node, Place
from ironloom.workload.manifests.schema import Path


def place_in(root: Node, path: Path, *, at_key: bool = False) -> Place:
    """The place of a path in a tree, or of the nearest part above it that is there; with `at_key` of its key."""
    node, place = root, root.place
    for number, step in enumerate(path):
        is_last = number == len(path) - 1
        if node.mapping is not None and isinstance(step, str) and step in node.mapping:
            key = node.keys.get(step)
            node = node.mapping[step]
            place = key if key is not None and (at_key or node.mapping is not None or not is_last) else node.place
        elif node.items is not None and isinstance(step, int) and 0 <= step < len(node.items):
            node = node.items[step]
            place = node.place
        else:
            break
    return place


def outer_place(document: Document, path: Path, line: int, column: int, length: int = 0) -> Place | None:
    """Where a line and column of the text at `path` stand in the document's file; None where that is not known.

    A literal block (`|`) keeps its lines, each indented alike; other styles fold or escape them.
    """
    value = look.text(document.obj, *path)
    place = document.positions.value(path)
    if line < 1 or document.text[place.start : place.start + 1] != "|":
        return None
    inner = value.splitlines()
    start = place.start
    for _ in range(line):
        start = document.text.find("\n", start) + 1
        if not start:
            return None
    end = document.text.find("\n", start)
    outer = document.text[start : end if end >= 0 else len(document.text)].rstrip("\r")
    if line > len(inner) or not outer.endswith(inner[line - 1]):
        return None
    indent = len(outer) - len(inner[line - 1])
    at = start + indent + max(0, column - 1)
    return Place(line=place.line + line, column=indent + max(1, column), start=at, end=at + length)
