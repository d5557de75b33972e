"""Manifests: YAML and JSON text into objects with positions, objects into workloads, and back."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ironloom.workload.manifests.document import Document, Positions
    from ironloom.workload.manifests.problems import ManifestProblems
    from ironloom.workload.manifests.read import (
        Workloads,
        parse_object,
        parse_objects,
        read_manifests,
        read_text,
        read_workloads,
        to_serving,
        to_workloads,
    )
    from ironloom.workload.manifests.write import dump_yaml, serving_manifest, training_manifest

__all__ = [
    "Document",
    "ManifestProblems",
    "Positions",
    "Workloads",
    "dump_yaml",
    "parse_object",
    "parse_objects",
    "read_manifests",
    "read_text",
    "read_workloads",
    "serving_manifest",
    "to_serving",
    "to_workloads",
    "training_manifest",
]
_MODULES = {
    "Document": "document", "Positions": "document", "ManifestProblems": "problems", "dump_yaml": "write",
    "serving_manifest": "write", "training_manifest": "write",
}  # fmt: skip
"""Where a name stands that does not stand in `read`."""


def __getattr__(name: str) -> Any:
    # A check reads positions and fields alone, and does not pay for what makes workloads of them.
    if name in __all__:
        return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'read')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
