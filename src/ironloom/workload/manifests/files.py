"""Files, folders and standard input as texts, and the objects of a parsed text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from ironloom.errors import ManifestError
from ironloom.workload.manifests import nodes
from ironloom.workload.manifests.bounds import MAX_BYTES, bounded, too_large
from ironloom.workload.manifests.document import document

SUFFIXES = (".yaml", ".yml", ".json")
STDIN = "-"


def items(node: nodes.Node, file: str, text: str) -> list[nodes.Node]:
    """The objects of a parsed node: itself, or those of a `kind: List`. Raises ManifestError for a List of none."""
    if node.mapping is None or node.value.get("kind") != "List" or node.value.get("apiVersion") != "v1":
        return [node]
    listing = node.mapping.get("items")
    if listing is None or listing.items is None:
        raise document(node, file, text).error(("items",), "items of a List must be a list")
    return listing.items


def texts(
    paths: Sequence[str | Path], stdin: TextIO, suffixes: Sequence[str] = SUFFIXES
) -> Iterator[tuple[str, Callable[[], str]]]:
    """Each file's name with a function that reads it, so that one that cannot be read does not stop the others.

    Of a folder, the files below it with one of the suffixes, in order of name.
    """
    for path in paths:
        if str(path) == STDIN:
            yield "<stdin>", lambda: bounded(stdin.read(MAX_BYTES + 1), "<stdin>")
            continue
        root = Path(path)
        if not root.is_dir():
            yield str(path), lambda root=root: _file(root)  # type: ignore[misc]
            continue
        files = sorted(file for file in root.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
        if not files:
            yield str(path), lambda root=root: _no_files(root, suffixes)  # type: ignore[misc]
        for file in files:
            yield str(file), lambda file=file: _file(file)  # type: ignore[misc]


def _file(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ManifestError(f"it cannot be read: {error.strerror or error}", file=str(path)) from None
    if len(data) > MAX_BYTES:
        raise too_large(str(path))
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError("it is not UTF-8 text", file=str(path), line=line, column=1) from None


def _no_files(folder: Path, suffixes: Sequence[str]) -> str:
    *others, last = suffixes
    raise ManifestError(f"there is no {', '.join(others)} or {last} file in the folder", file=str(folder))
