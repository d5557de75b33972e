"""Edits of a manifest's text that keep its comments, its order and its indentation.

Each returns None where the text around is not of a form that it can edit safely: a mapping in braces, an object without
a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from ironloom.check import look
from ironloom.check.finding import Edit
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.nodes import Place
from ironloom.workload.manifests.schema import Path

_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*")
_NOT_TEXT = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def scalar(value: str) -> str:
    """A string as YAML writes it: bare where that is read as a string, in quotes otherwise."""
    return value if _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT else json.dumps(value)


def replace(document: Document, path: Path, text: str) -> Edit | None:
    """The value at `path`, written anew."""
    place = document.positions.value(path)
    if not document.text or place.end <= place.start or "\n" in document.text[place.start : place.end]:
        return None
    return Edit(start=place.start, end=place.end, text=text)


def add_first(document: Document, path: Path, lines: Sequence[str]) -> Edit | None:
    """Lines at the beginning of the mapping or list at `path`, which is there and written over lines. They are indented
    as its own are, and stand above the comment of what was first; in an entry of a list, below its first key and value,
    so that the line of the dash stays as it is."""
    value = look.at(document.obj, path)
    if not value or not isinstance(value, list if lines[0].startswith("-") else dict):
        return None
    if any(line.partition(":")[0].strip('"') in value for line in lines if line[0] not in "- "):
        return None  # the key stands there with nothing behind it
    place = document.positions.value(path)
    text = document.text
    if place.end <= place.start or text[place.start : place.start + 1] in {"{", "[", "*", "&", ""}:
        return None
    line_start = text.rfind("\n", 0, place.start) + 1
    before = text[line_start : place.start]
    if before.strip(" -"):
        return None
    if path and not before.strip():
        at = _above_comments(text, line_start)
        return Edit(start=at, end=at, text="".join(f"{before}{line}\n" for line in lines))
    indent = " " * len(before)
    below = _below_first(document, path, value, place) if isinstance(value, dict) else 0
    if below:
        return Edit(start=below, end=below, text="".join(f"{indent}{line}\n" for line in lines))
    return Edit(start=place.start, end=place.start, text="".join(f"{line}\n{indent}" for line in lines))


def _below_first(document: Document, path: Path, entry: dict[str, Any], place: Place) -> int:
    """The start of the line below the first key and value of a list's entry; 0 where that is not plain to see."""
    first, *others = entry
    text = document.text
    line_end = text.find("\n", place.start) + 1
    if document.positions.value((*path, first)).end < line_end:
        return line_end  # `- name: main`
    if not others:
        return 0
    key = document.positions.key((*path, others[0]))
    line_start = text.rfind("\n", 0, key.start) + 1
    if key.start < place.start or key.column != place.column or text[line_start : key.start].strip(" "):
        return 0
    # What looks like a comment may be a text's last line.
    return line_start if isinstance(entry[first], str) else _above_comments(text, line_start)


def _above_comments(text: str, line_start: int) -> int:
    """The start of the comment lines that end where a line starts; that line's own start where there are none."""
    while line_start:
        above = text.rfind("\n", 0, line_start - 1) + 1
        if not text[above:line_start].lstrip(" ").startswith("#"):
            break
        line_start = above
    return line_start
