"""Node and Gpu: one machine and its accelerators, frozen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One accelerator in a node."""

    index: int
    uuid: str
    name: str
    """As the driver prints it, e.g. NVIDIA H100 80GB HBM3."""
    memory_bytes: int
    free_memory_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One machine."""

    name: str
    num_cpus: int
    """Processors that this process may use (its affinity and its cgroup's quota, whichever is less)."""
    num_physical_cpus: int = 0
    """Cores among them: two hyperthreads of one core count once. 0 is not known."""
    memory_bytes: int
    """Memory that this process may use: the machine's, or its cgroup's limit."""
    available_memory_bytes: int
    """Memory that can be had now without swapping (MemAvailable, bounded by the cgroup)."""
    gpus: tuple[Gpu, ...] = ()
    architecture: str = "x86_64"
    cpu_features: frozenset[str] = frozenset()
