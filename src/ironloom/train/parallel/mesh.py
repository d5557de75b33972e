"""The ranks as a mesh: one dimension that shards, and before it one that replicates where the strategy is hybrid."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from ironloom.errors import UsageError
from ironloom.workload.training import Compute, Sharding

HYBRID = (Sharding.HYBRID_SHARD, Sharding.HYBRID_SHARD_ZERO2, Sharding.NO_SHARD)
"""Strategies with replicas; NO_SHARD's groups are of one rank each."""


def device_of_rank() -> torch.device:
    """This rank's device: the GPU of its LOCAL_RANK, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def start_group(device: torch.device, *, timeout_s: float = 600.0) -> bool:
    """Joins torchrun's process group, NCCL on GPUs and gloo beside it for objects; False where there is one process.

    One process needs no group: it takes the plain path.
    """
    from datetime import timedelta

    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        return distributed.is_initialized()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    return True


def world_size() -> int:
    """Ranks of the run; 1 without a process group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def group_size_of(compute: Compute, ranks: int) -> int:
    """Ranks that one of a hybrid strategy's groups divides parameters over: as said, or those of one machine."""
    if compute.sharding is Sharding.NO_SHARD:
        return 1
    return compute.shard_group_size or int(os.environ.get("LOCAL_WORLD_SIZE", str(ranks)))


def mesh_for(compute: Compute, device_type: str) -> Any:
    """The DeviceMesh of a strategy over all ranks.

    Raises UsageError where a hybrid strategy's groups do not divide the ranks.
    """
    ranks = world_size()
    if compute.sharding not in HYBRID:
        return init_device_mesh(device_type, (ranks,), mesh_dim_names=("shard",))
    size = group_size_of(compute, ranks)
    if size < 1 or ranks % size:
        raise UsageError(
            f"compute.shard_group_size: {size} ranks of a group do not divide {ranks} ranks",
            hint=f"a divisor of {ranks}, or 0 for the ranks of one machine",
        )
    return init_device_mesh(device_type, (ranks // size, size), mesh_dim_names=("replicate", "shard"))
