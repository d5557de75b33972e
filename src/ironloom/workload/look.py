"""Looking into an object that may be anything: what is not there, or is of another type, is nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import NONE


def at(obj: object, *path: str | int) -> Any:
    """The value below `obj`; None where the path ends before."""
    for step in path:
        # Most of what is looked into is a plain dict or absent, and asking an abstract class costs ten times as much.
        if type(obj) is dict:
            obj = obj.get(step) if isinstance(step, str) else None
        elif obj is None:
            return None
        elif isinstance(obj, list):
            obj = obj[step] if isinstance(step, int) and 0 <= step < len(obj) else None
        elif isinstance(obj, Mapping) and isinstance(step, str):
            obj = obj.get(step)
        else:
            return None
    return obj


def mapping(obj: object, *path: str | int) -> Mapping[str, Any]:
    """The mapping there; an empty one where there is none."""
    found = at(obj, *path)
    return found if type(found) is dict or isinstance(found, Mapping) else NONE


def entries(obj: object, *path: str | int) -> list[Any]:
    """The list there; an empty one where there is none."""
    found = at(obj, *path)
    return found if isinstance(found, list) else []


def mappings(obj: object, *path: str | int) -> list[tuple[int, Mapping[str, Any]]]:
    """The mappings of the list there, each with its place in it."""
    return [(number, entry) for number, entry in enumerate(entries(obj, *path)) if isinstance(entry, Mapping)]


def text(obj: object, *path: str | int) -> str:
    """The text there; empty where there is none."""
    found = at(obj, *path)
    return found if isinstance(found, str) else ""


def texts(obj: object, *path: str | int) -> Mapping[str, str]:
    """The mapping of text there (labels, annotations), what is no text left out."""
    found = mapping(obj, *path)
    if all(isinstance(value, str) for value in found.values()):
        return found
    return {key: value for key, value in found.items() if isinstance(value, str)}


def count(obj: object, *path: str | int, default: int = 1) -> int:
    """The whole number from 0 to what Kubernetes' 32 bits hold; `default` where there is none."""
    found = at(obj, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**31 else default


def nearest(obj: object, path: Path) -> Path:
    """As much of a path as is there."""
    for length, step in enumerate(path):
        obj = at(obj, step)
        if obj is None:
            return path[:length]
    return path
