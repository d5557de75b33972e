"""Where pods wish to stand together, as their spec, labels and annotations say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.workload import look
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import TopologyWish

KUEUE = "kueue.x-k8s.io/podset-"


def wishes_of(
    spec: Mapping[str, Any],
    path: Path,
    annotations: Mapping[str, str],
    metadata_path: Path,
) -> tuple[TopologyWish, ...]:
    """Every wish of a pod template."""
    return (*_kueue(annotations, metadata_path), *_affinity(spec, path))


def _kueue(annotations: Mapping[str, str], metadata_path: Path) -> Iterator[TopologyWish]:
    base: Path = (*metadata_path, "annotations")
    for name, is_required in (("required-topology", True), ("preferred-topology", False)):
        key = annotations.get(KUEUE + name)
        if key:
            yield TopologyWish(key=key, is_required=is_required, source="kueue", path=(*base, KUEUE + name))


def _affinity(spec: Mapping[str, Any], path: Path) -> Iterator[TopologyWish]:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    for number, term in look.mappings(spec, "affinity", "podAffinity", required):
        key = look.text(term, "topologyKey")
        if key:
            yield TopologyWish(
                key=key,
                is_required=True,
                source="affinity",
                path=(*path, "affinity", "podAffinity", required, number, "topologyKey"),
            )
