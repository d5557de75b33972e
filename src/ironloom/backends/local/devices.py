"""Which GPUs and how much memory a replica gets. Pure: (inventory, what is free, what is held, need) → decision.

GPUs are handed out whole, by index. Memory is what is really free now, less what starting replicas are still going
to take: a replica that was granted 10 GiB a second ago and has touched 2 of them leaves 8 that no one else may have.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ironloom.fleet.node import Gpu, Node
from ironloom.units import format_bytes
from ironloom.workload.serving import Resources


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """What this machine has to give in all."""

    gpus: tuple[Gpu, ...] = ()
    memory_bytes: int = 0

    @classmethod
    def of(cls, node: Node) -> Inventory:
        return cls(gpus=node.gpus, memory_bytes=node.memory_bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What one replica asks for."""

    num_gpus: int = 0
    memory_bytes: int = 0
    """Host memory; 0 is not known, and then not looked at."""
    gpu_indexes: tuple[int, ...] | None = None
    """These GPUs and no others: a parked process keeps the ones that it was started with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """What a replica has."""

    replica: str
    gpu_indexes: tuple[int, ...] = ()
    pending_bytes: int = 0
    """Memory granted and not yet taken: still counted as free by the kernel."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Granted:
    gpu_indexes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Queued:
    """It would fit this machine, and does not now."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """It can never fit this machine."""

    reason: str


Decision = Granted | Queued | Refused


def allocate(inventory: Inventory, available_bytes: int, holds: Iterable[Hold], need: Need) -> Decision:
    """Grant, queue or refuse `need`, with the numbers. The freest GPUs go first, then the lowest indexes.

    `available_bytes` is the memory that the machine could give now, before what the holders are still to take.
    """
    holders = {index: hold.replica for hold in holds for index in hold.gpu_indexes}
    pending_bytes = sum(hold.pending_bytes for hold in holds)
    there = {gpu.index for gpu in inventory.gpus}
    wanted = need.gpu_indexes
    if (wanted is not None and not set(wanted) <= there) or need.num_gpus > len(there):
        return Refused(reason=f"needs {_gpus(need)}; this machine has {len(there)}")
    if need.memory_bytes > inventory.memory_bytes:
        return Refused(
            reason=f"needs {format_bytes(need.memory_bytes)} of memory; "
            f"this machine has {format_bytes(inventory.memory_bytes)}"
        )
    free = [gpu for gpu in inventory.gpus if gpu.index not in holders]
    if wanted is not None:
        chosen = tuple(wanted)
        fits = not any(index in holders for index in chosen)
    else:
        freest = sorted(free, key=lambda gpu: (-gpu.free_memory_bytes, gpu.index))
        chosen = tuple(sorted(gpu.index for gpu in freest[: need.num_gpus]))
        fits = len(chosen) == need.num_gpus
    if not fits:
        held = ", ".join(f"gpu:{index} by {replica}" for index, replica in sorted(holders.items()))
        return Queued(reason=f"needs {_gpus(need)}; {len(free)} of {len(there)} free (held: {held})")
    if need.memory_bytes > available_bytes - pending_bytes:
        numbers = (
            f"{format_bytes(max(0, available_bytes - pending_bytes))} of {format_bytes(inventory.memory_bytes)} free"
        )
        if pending_bytes:
            numbers += f" ({format_bytes(pending_bytes)} promised to replicas that are starting)"
        return Queued(reason=f"needs {format_bytes(need.memory_bytes)} of memory; {numbers}")
    return Granted(gpu_indexes=chosen)


def capacity(need: Need, *, num_live: int, num_gpus_free: int, available_bytes: int) -> int | None:
    """How many replicas of this need fit at once, the `num_live` that are there included; None is not known."""
    bounds = []
    if need.num_gpus:
        bounds.append(num_gpus_free // need.num_gpus)
    if need.memory_bytes:
        bounds.append(max(0, available_bytes) // need.memory_bytes)
    return num_live + min(bounds) if bounds else None


def cpu_threads(node: Node, num_cpu_replicas: int) -> int:
    """Threads that one of `num_cpu_replicas` replicas on CPU computes with: its share of the cores, one gets all.

    Cores, not hyperthreads: two compute threads on one core share its vector units and its cache, and decoding waits
    for memory anyway (llama.cpp's and OpenVINO's own default is the number of physical cores too).
    """
    cores = node.num_physical_cpus or node.num_cpus
    return max(1, cores // max(1, num_cpu_replicas))


def _gpus(need: Need) -> str:
    if need.gpu_indexes is not None:
        return " and ".join(f"gpu:{index}" for index in need.gpu_indexes)
    return f"{need.num_gpus} GPU{'' if need.num_gpus == 1 else 's'}"


def missing_gpus(asked: Resources, num_here: int) -> str | None:
    """What is said of GPUs that are asked for on a machine that has none: the same file must run there too."""
    if not asked.num_gpus or num_here:
        return None
    gpus = "1 GPU" if asked.num_gpus == 1 else f"{asked.num_gpus} GPUs"
    return f"{gpus} ({asked.gpu_resource}) asked for; this machine has none, so it runs on the CPU"
