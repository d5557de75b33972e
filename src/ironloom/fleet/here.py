"""This machine as a fleet of one node, and as the objects that a snapshot of it has."""

from __future__ import annotations

from typing import Any, Final

from ironloom.catalog import accelerators
from ironloom.fleet.levels import build_tree
from ironloom.fleet.model import Fleet, FleetNode, Link
from ironloom.fleet.node import Node
from ironloom.units import MIB

GPU_RESOURCE: Final = "nvidia.com/gpu"
OTHERS: Final = "other-processes"
"""Name of the pod that stands in a snapshot for what other processes hold."""

IN_USE_FRACTION = 0.1
"""A GPU of which more memory than this is taken is used by somebody: an idle driver keeps less than one percent."""


def fleet_of(machine: Node) -> Fleet:
    """A machine as `fleet.machine.this_machine` finds it. What other processes hold counts as allocated."""
    gpus = machine.gpus
    resource = GPU_RESOURCE if gpus else ""
    capacity = {"cpu": machine.num_cpus * 1000, "memory": machine.memory_bytes}
    allocated = _held(machine)
    if gpus:
        capacity[resource] = len(gpus)
    products = {gpu.name for gpu in gpus}
    found = {kind.name for name in products if (kind := accelerators.find(name)) is not None}
    accelerator = accelerators.ACCELERATORS[found.pop()] if len(found) == 1 and len(products) == 1 else None
    links: tuple[Link, ...] = ()
    if (
        accelerator is not None
        and accelerator.nvlink_bytes_per_s
        and len(gpus) > 1
        and accelerator.form.startswith("SXM")
    ):
        rate = accelerator.nvlink_bytes_per_s * 8 / 2 / 1e9
        links = (Link(kind="nvlink", gbit_per_s=rate, source=f"catalogue: {accelerator.name}"),)
    node = FleetNode(
        name=machine.name,
        labels=_labels(machine),
        capacity=capacity,
        allocatable=capacity,
        allocated=allocated,
        gpu_resource=resource,
        accelerator=accelerator.name if accelerator is not None else None,
        gpu_product=", ".join(sorted(products)),
        links=links,
    )
    return Fleet(name=machine.name, source="this machine", nodes=(node,), root=build_tree((node,), (), machine.name))


def objects_of(machine: Node) -> list[dict[str, Any]]:
    """The same machine as a Node of Kubernetes, and what other processes hold of it as one Pod there: what a fleet is
    read from. GPUs are labelled as NVIDIA's GPU feature discovery labels them, where all are of one product.

    Source: https://github.com/NVIDIA/k8s-device-plugin/blob/main/docs/gpu-feature-discovery/README.md
    """
    labels = _labels(machine)
    capacity = {"cpu": str(machine.num_cpus), "memory": str(machine.memory_bytes)}
    if machine.gpus:
        capacity[GPU_RESOURCE] = str(len(machine.gpus))
        if len({gpu.name for gpu in machine.gpus}) == 1:
            labels |= {
                "nvidia.com/gpu.product": machine.gpus[0].name.replace(" ", "-"),
                "nvidia.com/gpu.memory": str(machine.gpus[0].memory_bytes // MIB),
                "nvidia.com/gpu.count": str(len(machine.gpus)),
            }
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": machine.name, "labels": labels},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    held = {key: str(amount) for key, amount in _held(machine).items() if amount}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": OTHERS, "namespace": "default"},
        "spec": {
            "nodeName": machine.name,
            "containers": [{"name": OTHERS, "resources": {"requests": held, "limits": held}}],
        },
        "status": {"phase": "Running"},
    }
    return [node, pod] if held else [node]


def _labels(machine: Node) -> dict[str, str]:
    return {"kubernetes.io/hostname": machine.name, "kubernetes.io/arch": machine.architecture}


def _held(machine: Node) -> dict[str, int]:
    """What other processes hold now."""
    held = {"memory": machine.memory_bytes - machine.available_memory_bytes}
    if machine.gpus:
        held[GPU_RESOURCE] = sum(
            gpu.memory_bytes - gpu.free_memory_bytes > IN_USE_FRACTION * gpu.memory_bytes for gpu in machine.gpus
        )
    return held
