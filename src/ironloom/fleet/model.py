"""The fleet: domains of nodes of GPUs, what runs on them, and what decides who may run. All of it frozen.

A fleet is what is known at one moment, from a snapshot, a live cluster or this machine. A thing that the source does
not say is None or absent, and never a default: an absent label is unknown, not one shared domain.

Amounts are whole numbers by resource name: `cpu` in thousandths of a processor, `memory`, `ephemeral-storage` and
`hugepages-…` in bytes, everything else (`pods`, `nvidia.com/gpu`, `rdma/ib`) in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import Any

import msgspec

Amounts = Mapping[str, int]
NONE: Mapping[str, Any] = MappingProxyType({})
"""An empty mapping that nobody can write to."""


class Lifecycle(StrEnum):
    """What a node may be used for, read from its conditions, its taints and its provider's state labels."""

    READY = "ready"
    CORDONED = "cordoned"
    """Takes no new pods; those on it stay."""
    DRAINING = "draining"
    """Its pods are being moved away."""
    NOT_READY = "not-ready"
    """Its kubelet does not report, or reports that it is not ready."""
    TESTING = "testing"
    """The provider is checking it, before production or after a fault."""
    BROKEN = "broken"
    """A health condition or the provider says so."""


class Taint(msgspec.Struct, frozen=True, kw_only=True):
    """A node refuses pods that do not tolerate this."""

    key: str
    effect: str
    """NoSchedule, PreferNoSchedule or NoExecute."""
    value: str = ""


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a node's status.conditions."""

    type: str
    status: str
    """True, False or Unknown."""
    reason: str = ""
    message: str = ""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """How a node's GPUs reach each other or other nodes."""

    kind: str
    """nvlink, infiniband, roce, efa, ethernet or pcie."""
    num_rails: int | None = None
    gbit_per_s: float | None = None
    """Of one rail, one direction; what is seen now."""
    expected_gbit_per_s: float | None = None
    problem: str = ""
    """What is not as expected: speed below the expected, another neighbour than the cabling plan's. Empty when well."""
    source: str = ""
    """The label or the catalogue entry that says so."""


class FleetNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node as a cluster sees it."""

    name: str
    labels: Mapping[str, str] = NONE
    annotations: Mapping[str, str] = NONE
    taints: tuple[Taint, ...] = ()
    conditions: tuple[Condition, ...] = ()
    lifecycle: Lifecycle = Lifecycle.READY
    why: str = ""
    """What made it not ready, in words. Empty for a ready node."""
    capacity: Amounts = NONE
    allocatable: Amounts = NONE
    allocated: Amounts = NONE
    """Requests of the pods bound to it that have not ended, init containers and overhead counted as the scheduler
    counts them; `pods` is their number."""
    gpu_resource: str = ""
    """The resource name that its GPUs are asked by; empty for a node without."""
    accelerator: str | None = None
    """Name in catalog.accelerators; None where there is no GPU or its kind is not known."""
    gpu_product: str = ""
    """What the node's own labels call its GPU."""
    expected_num_gpus: int | None = None
    """What its instance type, its `gpu.count` label or its siblings say it should have; see `is_degraded`."""
    instance_type: str = ""
    pool: str = ""
    """Name of the pool that supplies it; see NodePool."""
    links: tuple[Link, ...] = ()

    @property
    def num_gpus(self) -> int:
        """GPUs that pods may ask for."""
        return self.allocatable.get(self.gpu_resource, 0) if self.gpu_resource else 0

    @property
    def num_free_gpus(self) -> int:
        return self.free(self.gpu_resource) if self.gpu_resource else 0

    @property
    def is_degraded(self) -> bool:
        """True when it has fewer GPUs than it should (7 of 8)."""
        return self.expected_num_gpus is not None and self.num_gpus < self.expected_num_gpus

    def free(self, resource: str) -> int:
        """What is left of a resource; never below zero."""
        return max(0, self.allocatable.get(resource, 0) - self.allocated.get(resource, 0))


class FleetPod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod that is bound to a node, or waits for one."""

    namespace: str
    name: str
    node: str = ""
    """Empty while it waits."""
    phase: str = ""
    requests: Amounts = NONE
    labels: Mapping[str, str] = NONE
    owner: str = ""
    """`Kind/name` of its controller."""
    priority: int = 0
    priority_class: str = ""
    scheduling_gates: tuple[str, ...] = ()
    workload: str = ""
    """`namespace/name` of the gang it belongs to: a job set, a leader-worker set, a Kueue workload."""


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One level of the topology, and the node label that says which domain of it a node is in."""

    key: str
    """The node label."""
    name: str
    """What it is in words: fabric, superpod, leaf group, rack, NVLink domain, zone, host."""
    dialect: str
    """Which dialect knows it; `given` for one that the user named."""
    confidence: float = 1.0
    """0..1: how sure the meaning is; below 1 where it was read from the data (nodes per value)."""
    why: str = ""
    """How the meaning was found, in words."""


class Domain(msgspec.Struct, frozen=True, kw_only=True):
    """A subtree of the topology. The root has no level; its value is the fleet's name."""

    value: str
    """The label's value."""
    level: Level | None
    children: tuple[Domain, ...] = ()
    nodes: tuple[FleetNode, ...] = ()
    """Nodes that stand directly below it, and in none of its children."""

    def all_nodes(self) -> Iterator[FleetNode]:
        yield from self.nodes
        for child in self.children:
            yield from child.all_nodes()


class NodePool(msgspec.Struct, frozen=True, kw_only=True):
    """A supply of nodes: what could still come."""

    name: str
    kind: str
    """coreweave, karpenter, cluster-autoscaler, gke, eks, hyperpod, oke, aks, kops or other."""
    instance_types: tuple[str, ...] = ()
    num_nodes: int = 0
    """Nodes that are there now."""
    min_nodes: int | None = None
    max_nodes: int | None = None
    """None is not known."""
    is_autoscaled: bool | None = None
    labels: Mapping[str, str] = NONE
    """That each of its nodes will have."""
    taints: tuple[Taint, ...] = ()
    allocatable: Amounts = NONE
    """Of one new node, from its siblings or from the catalogue; empty when not known."""
    empty_for_s: float | None = None
    """How long a node may stand empty before its autoscaler takes it away: as the pool says, or by the default of the
    cluster autoscaler. None is not known."""
    note: str = ""

    @property
    def num_more(self) -> int | None:
        """Nodes that could still come; None when not known."""
        return max(0, self.max_nodes - self.num_nodes) if self.max_nodes is not None else None


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue may use of one resource in one flavor."""

    flavor: str
    resource: str
    nominal: int
    borrowing_limit: int | None = None
    lending_limit: int | None = None
    used: int = 0


class Flavor(msgspec.Struct, frozen=True, kw_only=True):
    """Kueue's ResourceFlavor."""

    name: str
    node_labels: Mapping[str, str] = NONE
    node_taints: tuple[Taint, ...] = ()
    tolerations: tuple[Mapping[str, Any], ...] = ()
    topology: str = ""


class ClusterQueue(msgspec.Struct, frozen=True, kw_only=True):
    """Kueue's ClusterQueue."""

    name: str
    cohort: str = ""
    quotas: tuple[Quota, ...] = ()
    is_active: bool | None = None
    stop_policy: str = ""
    namespace_selector: Mapping[str, Any] | None = None
    """As written; {} is every namespace, None is none."""


class LocalQueue(msgspec.Struct, frozen=True, kw_only=True):
    """Kueue's LocalQueue."""

    namespace: str
    name: str
    cluster_queue: str
    stop_policy: str = ""


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """Kueue's Topology: node labels, coarse to fine."""

    name: str
    levels: tuple[str, ...]


class PriorityClass(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    value: int
    is_default: bool = False
    preempts: bool = True


class DisruptionBudget(msgspec.Struct, frozen=True, kw_only=True):
    """A PodDisruptionBudget: how many pods of it may be moved now."""

    namespace: str
    name: str
    selector: Mapping[str, Any] = NONE
    disruptions_allowed: int | None = None


class NamespaceQuota(msgspec.Struct, frozen=True, kw_only=True):
    """A ResourceQuota without scopes: what all pods of a namespace may ask for together."""

    namespace: str
    name: str
    hard: Amounts = NONE
    """By the quota's own words: `requests.nvidia.com/gpu`, `limits.memory`, `pods`."""
    used: Amounts = NONE


class ContainerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """A LimitRange's word on containers: what each has where it says nothing, and what it may ask for."""

    namespace: str
    name: str
    default_requests: Amounts = NONE
    default_limits: Amounts = NONE
    min: Amounts = NONE
    max: Amounts = NONE


class Fleet(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Everything known of a cluster at one moment."""

    name: str
    source: str
    """Where it was read: a file, a context, this machine."""
    taken_at: str = ""
    """RFC 3339, or empty where the source does not say."""
    version: str = ""
    """Of the API server, such as v1.36.2; empty where it is not known."""
    nodes: tuple[FleetNode, ...] = ()
    pods: tuple[FleetPod, ...] = ()
    levels: tuple[Level, ...] = ()
    """Coarse to fine."""
    root: Domain
    pools: tuple[NodePool, ...] = ()
    cluster_queues: tuple[ClusterQueue, ...] = ()
    local_queues: tuple[LocalQueue, ...] = ()
    flavors: tuple[Flavor, ...] = ()
    topologies: tuple[Topology, ...] = ()
    priority_classes: tuple[PriorityClass, ...] = ()
    disruption_budgets: tuple[DisruptionBudget, ...] = ()
    namespace_quotas: tuple[NamespaceQuota, ...] = ()
    container_limits: tuple[ContainerLimits, ...] = ()
    names: Mapping[str, frozenset[str]] = NONE
    """Objects that exist, by `group/Kind` (`/Secret`, `serving.kserve.io/ServingRuntime`), each `namespace/name`, or
    `name` where the kind has no namespace. A kind that is not in it was not read: nothing follows from its absence."""
    namespace_labels: Mapping[str, Mapping[str, str]] = NONE
    kinds_served: frozenset[str] | None = None
    """`group/version/Kind` that the API server serves; None where the source does not say."""

    @cached_property
    def node_by_name(self) -> Mapping[str, FleetNode]:
        return {node.name: node for node in self.nodes}

    def has(self, kind: str, name: str, namespace: str = "") -> bool | None:
        """Whether an object exists; None when its kind was not read. `kind` is `group/Kind`."""
        known = self.names.get(kind)
        if known is None:
            return None
        return (f"{namespace}/{name}" if namespace else name) in known
