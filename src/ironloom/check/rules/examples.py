"""Small fleets for the examples of rules: as much of a cluster as the example needs. No rule stands here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ironloom.fleet.model import Domain, Fleet, FleetNode, Lifecycle, Link, Taint
from ironloom.units import GIB

GPU = "nvidia.com/gpu"
H100_LABELS: Mapping[str, str] = {
    "node.kubernetes.io/instance-type": "gd-8xh100ib-i128",
    "gpu.nvidia.com/class": "H100_NVLINK_80GB",
    "gpu.nvidia.com/model": "H100_NVLINK_80GB",
    "backend.coreweave.cloud/flavor": "infiniband",
    "kubernetes.io/arch": "amd64",
}


def node(
    name: str,
    *,
    gpus: int = 8,
    cpu: int = 128,
    memory_gib: int = 1920,
    used_gpus: int = 0,
    labels: Mapping[str, str] | None = None,
    taints: Iterable[Taint] = (),
    lifecycle: Lifecycle = Lifecycle.READY,
    accelerator: str | None = "H100-SXM5-80GB",
    allocatable: Mapping[str, int] | None = None,
) -> FleetNode:
    """A node of 8 H100s with InfiniBand, as CoreWeave labels it, unless said otherwise. `labels` are added."""
    has = {"cpu": cpu * 1000, "memory": memory_gib * GIB, "ephemeral-storage": 28_000 * GIB, "pods": 110}
    if gpus:
        has |= {GPU: gpus, "rdma/ib": 1}
    has |= allocatable or {}
    return FleetNode(
        name=name,
        labels={"kubernetes.io/hostname": name, **(H100_LABELS if gpus else {}), **(labels or {})},
        taints=tuple(taints),
        lifecycle=lifecycle,
        capacity=has,
        allocatable=has,
        allocated={GPU: used_gpus, "pods": 1 if used_gpus else 0},
        gpu_resource=GPU if gpus else "",
        accelerator=accelerator if gpus else None,
        expected_num_gpus=gpus or None,
        instance_type="gd-8xh100ib-i128" if gpus else "cd-hp-a96-genoa",
        links=(Link(kind="infiniband", num_rails=8, gbit_per_s=400, source="backend.coreweave.cloud/*"),)
        if gpus
        else (),
    )


def leaf_groups(**sizes: int) -> tuple[FleetNode, ...]:
    """Nodes of 8 H100s in leaf groups: `leaf_groups(a=4, b=8)`."""
    return tuple(
        node(f"{group}{index}", labels={"backend.coreweave.cloud/leafgroup": group})
        for group, size in sizes.items()
        for index in range(size)
    )


def fleet(*nodes: FleetNode, **parts: object) -> Fleet:
    """A fleet of these nodes; `parts` are fields of Fleet."""
    root = Domain(value="example", level=None, nodes=nodes)
    return Fleet(**{"name": "example", "source": "example.json", "nodes": nodes, "root": root, **parts})  # type: ignore[arg-type]
