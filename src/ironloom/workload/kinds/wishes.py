"""Where pods wish to stand together, as annotations, affinities and pod groups say.

Sources: https://kueue.sigs.k8s.io/docs/concepts/topology_aware_scheduling/,
https://github.com/kai-scheduler/KAI-Scheduler/tree/main/docs/topology,
https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.workload import look
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import TopologyWish

KUEUE = "kueue.x-k8s.io/podset-"
KAI = "kai.scheduler/topology-"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def of_annotations(annotations: Mapping[str, str], path: Path) -> Iterator[TopologyWish]:
    """The wishes of annotations that stand at `path`: Kueue's and KAI's."""
    if not annotations:
        return
    slices = list(_slices(annotations, path))
    first_key, first_size = (slices[0].slice_key, slices[0].slice_size) if slices else ("", 0)
    named = False
    for name, is_required in (("required-topology", True), ("preferred-topology", False)):
        key = annotations.get(KUEUE + name)
        if key:
            named = True
            yield TopologyWish(
                key=key,
                is_required=is_required,
                source="kueue",
                path=(*path, KUEUE + name),
                slice_key=first_key,
                slice_size=first_size,
            )
    if annotations.get(KUEUE + "unconstrained-topology", "").lower() == "true":
        named = True
        yield TopologyWish(key="", is_required=False, source="kueue", path=(*path, KUEUE + "unconstrained-topology"))
    yield from slices[1:] if named and first_key else slices
    for name, is_required in (("required-placement", True), ("preferred-placement", False)):
        key = annotations.get(KAI + name)
        if key:
            yield TopologyWish(key=key, is_required=is_required, source="kai", path=(*path, KAI + name))


def _slices(annotations: Mapping[str, str], path: Path) -> Iterator[TopologyWish]:
    """Slices that stay in one domain each; of several layers the outermost first."""
    name = KUEUE + "slice-required-topology"
    key = annotations.get(name)
    if key:
        size = annotations.get(KUEUE + "slice-size", "")
        yield TopologyWish(
            key="",
            is_required=False,
            source="kueue",
            path=(*path, name),
            slice_key=key,
            slice_size=int(size) if size.isascii() and size.isdecimal() and len(size) < 10 else 0,
        )
    name += "-constraints"
    written = annotations.get(name)
    if not written:
        return
    try:
        layers = json.loads(written)
    except (ValueError, RecursionError):
        return
    for _, layer in look.mappings(layers) if isinstance(layers, list) else ():
        key = look.text(layer, "topology")
        if key:
            yield TopologyWish(
                key="",
                is_required=False,
                source="kueue",
                path=(*path, name),
                slice_key=key,
                slice_size=look.count(layer, "size", default=0),
            )


def of_affinity(spec: Mapping[str, Any], path: Path) -> Iterator[TopologyWish]:
    """The pod affinities of the PodSpec at `path`; which pods they ask for stands in the term above the key."""
    affinity = look.mapping(spec, "affinity", "podAffinity")
    if not affinity:
        return
    base: Path = (*path, "affinity", "podAffinity")
    for number, term in look.mappings(affinity, REQUIRED):
        key = look.text(term, "topologyKey")
        if key:
            yield TopologyWish(
                key=key, is_required=True, source="affinity", path=(*base, REQUIRED, number, "topologyKey")
            )
    for number, weighted in look.mappings(affinity, PREFERRED):
        key = look.text(weighted, "podAffinityTerm", "topologyKey")
        if key:
            yield TopologyWish(
                key=key,
                is_required=False,
                source="affinity",
                path=(*base, PREFERRED, number, "podAffinityTerm", "topologyKey"),
            )


def of_volcano(topology: Mapping[str, Any], path: Path) -> Iterator[TopologyWish]:
    """Volcano's networkTopology. A tier by number has no label key that the manifest could know."""
    if topology:
        yield TopologyWish(
            key=look.text(topology, "highestTierName"),
            is_required=look.text(topology, "mode") != "soft",
            source="volcano",
            path=path,
        )


def of_constraints(constraints: Mapping[str, Any], path: Path) -> Iterator[TopologyWish]:
    """The schedulingConstraints of a pod group of scheduling.k8s.io, which are requirements.

    Source: https://kubernetes.io/docs/concepts/scheduling-eviction/topology-aware-scheduling/
    """
    for number, one in look.mappings(constraints, "topology"):
        key = look.text(one, "key")
        if key:
            yield TopologyWish(
                key=key, is_required=True, source="workload-api", path=(*path, "topology", number, "key")
            )
