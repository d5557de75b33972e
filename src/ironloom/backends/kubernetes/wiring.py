"""How pods that work together over several nodes reach each other: the fabric that all nodes with their GPUs offer, and
whether they may lock memory for it. Of training runs and of replicas over several nodes alike. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ironloom.backends.kubernetes.render.fabric import Fabric, fabric_of
from ironloom.fleet.model import Fleet, FleetNode
from ironloom.place.fit import selects

POD_SECURITY = "pod-security.kubernetes.io/enforce"
FORBIDS_IPC_LOCK = frozenset({"baseline", "restricted"})
"""Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wiring:
    """What their containers get."""

    fabric: Fabric | None = None
    forbidden_by: str = ""
    """The pod security level of their namespace that forbids to lock memory; empty where none does."""
    namespace: str = ""

    @property
    def may_lock_memory(self) -> bool:
        return not self.forbidden_by

    def notes(self) -> Iterator[str]:
        """What is asked for and what is lost, in sentences."""
        if self.fabric is None:
            return
        yield f"each pod asks for {self.fabric.resource}: {self.fabric.amount}, which its nodes offer"
        if self.fabric.locks_memory and self.forbidden_by:
            yield f"without IPC_LOCK: namespace {self.namespace} enforces the pod security level {self.forbidden_by}"


def wiring_of(spec: Mapping[str, Any], resource: str, num_gpus: int, fleet: Fleet, namespace: str) -> Wiring:
    """Of pods of this spec with so many GPUs each."""
    nodes = gpu_nodes(spec, resource, num_gpus, fleet)
    takes_whole_nodes = bool(nodes) and all(node.allocatable.get(resource, 0) == num_gpus for node in nodes)
    enforced = fleet.namespace_labels.get(namespace, {}).get(POD_SECURITY, "")
    return Wiring(
        fabric=fabric_of(nodes, takes_whole_nodes=takes_whole_nodes) if num_gpus else None,
        forbidden_by=enforced if enforced in FORBIDS_IPC_LOCK else "",
        namespace=namespace,
    )


def gpu_nodes(spec: Mapping[str, Any], resource: str, num_gpus: int, fleet: Fleet) -> list[FleetNode]:
    """The nodes that have the GPUs of one pod and that its selectors take, whether free or not."""
    return [
        node
        for node in fleet.nodes
        if num_gpus and node.allocatable.get(resource, 0) >= num_gpus and selects(spec, node)
    ]  # fmt: skip
