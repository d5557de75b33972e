"""FSDP2 by FSDP1's names: which modules are one unit, and when a unit's parameters are whole.

Sources: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html and
https://github.com/pytorch/torchtitan/blob/main/docs/fsdp.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from ironloom.workload.training import Compute, Dtype, Sharding

DTYPES = {Dtype.FLOAT32: torch.float32, Dtype.BFLOAT16: torch.bfloat16}
KEEPS_WHOLE = (Sharding.SHARD_GRAD_OP, Sharding.HYBRID_SHARD_ZERO2, Sharding.NO_SHARD)
"""Strategies whose parameters stay whole from the forward to the end of the backward."""


def settings(compute: Compute, mesh: Any) -> dict[str, Any]:
    """What each unit's fully_shard gets. On CPU ranks there is nothing to offload from."""
    is_offloaded = compute.is_cpu_offload and mesh.device_type != "cpu"
    return {
        "mesh": mesh,
        "reshard_after_forward": compute.sharding not in KEEPS_WHOLE,
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=DTYPES[compute.compute_dtype],
            reduce_dtype=DTYPES[compute.reduce_dtype],
            cast_forward_inputs=False,
        ),
        "offload_policy": CPUOffloadPolicy() if is_offloaded else OffloadPolicy(),
    }


def shard_units(model: nn.Module, blocks: list[nn.Module], ends: list[nn.Module], how: dict[str, Any]) -> None:
    """Makes a unit of each block, one of each group of `ends` that is not gathered twice, and the root of the rest.

    Blocks first, root last: what is left over becomes the root's, tied weights among it. Gradients are summed over the
    ranks, not averaged: the step divides by the targets of all ranks, which need not be equally many on each.
    """
    for block in blocks:
        fully_shard(block, **how)
    for end in ends:
        fully_shard(end, **{**how, "reshard_after_forward": False})
    fully_shard(model, **{**how, "reshard_after_forward": False})
    for unit in [*blocks, *ends, model]:
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # gloo has no other, and NCCL needs none
