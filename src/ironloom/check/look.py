"""Looking into an object that may be anything: what is not there, or is of another type, is None."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path

NOTHING: Mapping[str, Any] = {}


def at(obj: object, path: Path) -> Any:
    """The value at a path of plain lists and mappings; None where the path ends before."""
    for step in path:
        if isinstance(obj, Mapping) and isinstance(step, str):
            obj = obj.get(step)
        elif isinstance(obj, list) and isinstance(step, int) and 0 <= step < len(obj):
            obj = obj[step]
        else:
            return None
    return obj


def mapping(obj: object, path: Path) -> Mapping[str, Any]:
    """The mapping at a path; an empty one where there is none."""
    found = at(obj, path)
    return found if isinstance(found, Mapping) else NOTHING


def entries(obj: object, path: Path) -> list[Any]:
    """The list at a path; an empty one where there is none."""
    found = at(obj, path)
    return found if isinstance(found, list) else []


def integer(obj: object, path: Path) -> int | None:
    """The whole number at a path; None for anything else, true and false among it."""
    found = at(obj, path)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def text(obj: object, path: Path) -> str:
    """The text at a path; empty where there is none."""
    found = at(obj, path)
    return found if isinstance(found, str) else ""


def annotation(document: Document, name: str) -> str:
    """An annotation of the object itself; empty where there is none."""
    return text(document.obj, ("metadata", "annotations", name))


def group(document: Document) -> str:
    """`serving.kserve.io` of `serving.kserve.io/v1beta1`; empty for the core group."""
    return document.api_version.rpartition("/")[0]
