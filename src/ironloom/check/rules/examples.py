"""Small fleets for the examples of rules: as much of a cluster as the example needs. No rule stands here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ironloom.fleet.model import (
    ClusterQueue,
    Domain,
    Flavor,
    Fleet,
    FleetNode,
    Lifecycle,
    Link,
    LocalQueue,
    NodePool,
    Quota,
    Taint,
    Topology,
)
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
    instance_type: str = "",
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
        instance_type=instance_type or ("gd-8xh100ib-i128" if gpus else "cd-hp-a96-genoa"),
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


def fleet(*nodes: FleetNode, **parts: Any) -> Fleet:
    """A fleet of these nodes; `parts` are fields of Fleet."""
    root = Domain(value="example", level=None, nodes=nodes)
    made: dict[str, Any] = {"name": "example", "source": "example.json", "nodes": nodes, "root": root}
    return Fleet(**(made | parts))


def pool(name: str, *, num_nodes: int, max_nodes: int) -> NodePool:
    """A pool that an autoscaler grows up to `max_nodes`."""
    return NodePool(name=name, kind="coreweave", num_nodes=num_nodes, max_nodes=max_nodes, is_autoscaled=True)


def queues(
    *, gpus: int, cpu: int = 512, memory_gib: int = 8192, name: str = "team-a", **cluster_queue: Any
) -> dict[str, Any]:
    """Parts of a fleet: LocalQueue research/`name` in front of a ClusterQueue of the same name with one flavor."""
    amounts = {"cpu": cpu * 1000, "memory": memory_gib * GIB, GPU: gpus}
    quotas = tuple(Quota(flavor="h100", resource=resource, nominal=amount) for resource, amount in amounts.items())
    fields: dict[str, Any] = {
        "name": name,
        "quotas": quotas,
        "is_active": True,
        "namespace_selector": {},
        **cluster_queue,
    }
    levels = ("backend.coreweave.cloud/leafgroup", "kubernetes.io/hostname")
    return {
        "cluster_queues": (ClusterQueue(**fields),),
        "local_queues": (LocalQueue(namespace="research", name=name, cluster_queue=name),),
        "flavors": (
            Flavor(name="h100", node_labels={"backend.coreweave.cloud/flavor": "infiniband"}, topology="infiniband"),
        ),
        "topologies": (Topology(name="infiniband", levels=levels),),
        "namespace_labels": {"research": {"kubernetes.io/metadata.name": "research"}},
    }


def two_queues(*, first: Mapping[str, Any] | None) -> dict[str, Any]:
    """As `queues`, with a second one, team-b, that is well. `first` changes the first's ClusterQueue; None is a
    LocalQueue without one."""
    one, two = queues(gpus=64, **(first or {})), queues(gpus=64, name="team-b")
    both = {key: (*one[key], *two[key]) for key in ("cluster_queues", "local_queues")}
    if first is None:
        both["cluster_queues"] = two["cluster_queues"]
    return {**one, **both}
