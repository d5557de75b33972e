"""Manifests: YAML and JSON text into objects with positions, objects into workloads, and back."""

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
