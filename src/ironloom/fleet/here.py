"""This machine as a fleet of one node."""

from __future__ import annotations

from ironloom.catalog import accelerators
from ironloom.fleet.levels import build_tree
from ironloom.fleet.model import Fleet, FleetNode, Link
from ironloom.fleet.node import Node

IN_USE_FRACTION = 0.1
"""A GPU of which more memory than this is taken is used by somebody: an idle driver keeps less than one percent."""


def fleet_of(machine: Node) -> Fleet:
    """A machine as `fleet.machine.this_machine` finds it. What other processes hold counts as allocated."""
    gpus = machine.gpus
    resource = "nvidia.com/gpu" if gpus else ""
    capacity = {"cpu": machine.num_cpus * 1000, "memory": machine.memory_bytes}
    allocated = {"memory": machine.memory_bytes - machine.available_memory_bytes}
    if gpus:
        capacity[resource] = len(gpus)
        allocated[resource] = sum(
            1 for gpu in gpus if gpu.memory_bytes - gpu.free_memory_bytes > IN_USE_FRACTION * gpu.memory_bytes
        )
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
        labels={"kubernetes.io/hostname": machine.name, "kubernetes.io/arch": machine.architecture},
        capacity=capacity,
        allocatable=capacity,
        allocated=allocated,
        gpu_resource=resource,
        accelerator=accelerator.name if accelerator is not None else None,
        gpu_product=", ".join(sorted(products)),
        links=links,
    )
    return Fleet(name=machine.name, source="this machine", nodes=(node,), root=build_tree((node,), (), machine.name))
