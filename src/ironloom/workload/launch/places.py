"""Where a word of a script stands in its file: a script in a block of YAML lies over many lines, each indented."""

from __future__ import annotations

from typing import Any

from ironloom.workload import look
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.nodes import Place
from ironloom.workload.workload import Option


def place_of(document: Document, option: Option) -> Place:
    """The option itself, in an entry of a list or a variable that holds more than it; else the entry."""
    place = document.positions.value(option.path)
    value: Any = look.at(document.obj, *option.path)
    if not option.written or value == option.written:
        return place
    # A block's text differs from its value by its indentation alone, so that the same words follow each other in both.
    number = value.count(option.written, 0, option.offset) if isinstance(value, str) else 0
    at = place.start - len(option.written)
    for _ in range(number + 1):
        at = document.text.find(option.written, at + len(option.written), place.end)
        if at < 0:
            return place
    line_start = document.text.rfind("\n", 0, at) + 1
    end = at + len(option.written)
    return Place(
        line=place.line + document.text.count("\n", place.start, at), column=at - line_start + 1, start=at, end=end
    )
