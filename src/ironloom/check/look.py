"""Looking into an object that may be anything, by a path: what is not there, or is of another type, is nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ironloom.workload import look
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path


def at(obj: object, path: Path) -> Any:
    """The value at a path of plain lists and mappings; None where the path ends before."""
    return look.at(obj, *path)


def mapping(obj: object, path: Path) -> Mapping[str, Any]:
    """The mapping at a path; an empty one where there is none."""
    return look.mapping(obj, *path)


def entries(obj: object, path: Path) -> list[Any]:
    """The list at a path; an empty one where there is none."""
    return look.entries(obj, *path)


def integer(obj: object, path: Path) -> int | None:
    """The whole number at a path; None for anything else, true and false among it."""
    found = look.at(obj, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def text(obj: object, path: Path) -> str:
    """The text at a path; empty where there is none."""
    return look.text(obj, *path)


def annotation(document: Document, name: str) -> str:
    """An annotation of the object itself; empty where there is none."""
    return text(document.obj, ("metadata", "annotations", name))


def group(document: Document) -> str:
    """`serving.kserve.io` of `serving.kserve.io/v1beta1`; empty for the core group."""
    return document.api_version.rpartition("/")[0]
