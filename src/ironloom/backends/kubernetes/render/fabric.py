"""How a gang's pods reach each other over the fast network of their nodes: the device they ask for, the right to lock
memory, and what NCCL is told.

Sources: https://docs.coreweave.com/products/networking/hpc-interconnect/use-gpudirect-rdma (one `rdma/ib` gives all
adapters of the node), https://github.com/Mellanox/k8s-rdma-shared-dev-plugin (IPC_LOCK),
https://docs.aws.amazon.com/eks/latest/userguide/node-efa.html (as many EFA devices as the node has),
https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html (the variables).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ironloom.backends.kubernetes.render.containers import with_variables
from ironloom.catalog import efa
from ironloom.fleet.model import FleetNode

POD_INTERFACE = "eth0"
"""A pod's own network, by the name that every container runtime gives it; NCCL and gloo open their connections there.
"""
RDMA = "rdma/"
HUGE_PAGES = "hugepages-2Mi"
COREWEAVE = ("backend.coreweave.cloud/", "ib.coreweave.cloud/")
COREWEAVE_ADAPTERS = "ibp"
"""How the InfiniBand adapters of a CoreWeave node begin; others of the node carry no RDMA.

Source: https://github.com/coreweave/nccl-tests"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fabric:
    """What the containers of a gang get."""

    resource: str
    amount: int
    env: Mapping[str, str] = field(default_factory=dict)
    locks_memory: bool = True
    """Whether the container needs IPC_LOCK."""
    limits: Mapping[str, str] = field(default_factory=dict)
    """Beside the device: huge pages."""


def fabric_of(nodes: Sequence[FleetNode], *, takes_whole_nodes: bool) -> Fabric | None:
    """The fabric that all of these nodes offer; None where they have none, or not all of them the same.

    Part of an EFA node's GPUs gets part of its devices' bandwidth by its own wish alone, so without
    `takes_whole_nodes` no EFA is asked for.
    """
    offered = [_devices(node) for node in nodes]
    if not offered:
        return None
    common = sorted(set(offered[0]).intersection(*offered[1:]))
    if not common:
        return None
    env = {"NCCL_SOCKET_IFNAME": POD_INTERFACE, "GLOO_SOCKET_IFNAME": POD_INTERFACE}
    rdma = [name for name in common if name.startswith(RDMA)]
    if rdma:
        if all(any(key.startswith(COREWEAVE) for key in node.labels) for node in nodes):
            env["NCCL_IB_HCA"] = COREWEAVE_ADAPTERS
        return Fabric(resource=rdma[0], amount=1, env=env)
    if not takes_whole_nodes:
        return None
    huge = min(node.allocatable.get(HUGE_PAGES, 0) for node in nodes)
    return Fabric(
        resource=efa.RESOURCE,
        amount=min(node.allocatable[efa.RESOURCE] for node in nodes),
        env={**env, "FI_PROVIDER": "efa"} | ({} if huge >= EFA_HUGE_BYTES else {"FI_EFA_USE_HUGE_PAGE": "0"}),
        locks_memory=False,
        limits={HUGE_PAGES: str(EFA_HUGE_BYTES)} if huge >= EFA_HUGE_BYTES else {},
    )


EFA_HUGE_BYTES = 5120 * 1024**2
"""What AWS's walkthrough has its pods ask for."""


def wire(container: dict[str, Any], fabric: Fabric, *, may_lock_memory: bool) -> None:
    """Have a container use the fabric. `may_lock_memory` is False where the namespace forbids the capability."""
    limits = container.setdefault("resources", {}).setdefault("limits", {})
    if not any(name == fabric.resource or name.startswith(RDMA) for name in limits):
        limits[fabric.resource] = str(fabric.amount)
    for name, amount in fabric.limits.items():
        limits.setdefault(name, amount)
    variables = [{"name": name, "value": value} for name, value in fabric.env.items()]
    container["env"] = with_variables(container.get("env") or [], variables)
    if fabric.locks_memory and may_lock_memory:
        added = container.setdefault("securityContext", {}).setdefault("capabilities", {}).setdefault("add", [])
        if "IPC_LOCK" not in added:
            added.append("IPC_LOCK")


def _devices(node: FleetNode) -> list[str]:
    return [
        name for name, amount in node.allocatable.items() if amount and (name.startswith(RDMA) or name == efa.RESOURCE)
    ]
