"""FSDP2 for any module in a loop of one's own: its blocks are found, said, and held against the memory that is there.

    from ironloom.train import shard, share
    model = shard(Model(), "FULL_SHARD")
    for batch in share(loader): …

The names are FSDP1's; its options that FSDP2 has no use for are taken and do nothing (NO_OPS says why each).
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from ironloom.errors import CapacityError, UsageError
from ironloom.train.parallel.blocks import check_blocks, find_blocks, sizes_of
from ironloom.train.parallel.mesh import HYBRID, device_of_rank, group_size_of, mesh_for, start_group, world_size
from ironloom.train.parallel.sharding import KEEPS_WHOLE, settings
from ironloom.units import GIB
from ironloom.workload.training import Compute, Dtype, Sharding

NO_OPS = {
    "device_id": "the device is the rank's own",
    "sync_module_states": "each rank keeps its part of the weights it was given; seed them alike, or load a checkpoint",
    "limit_all_gathers": "FSDP2 bounds what is gathered at once by itself",
    "backward_prefetch": "FSDP2 gathers the next unit while one computes",
    "forward_prefetch": "FSDP2 gathers the next unit while one computes",
    "use_orig_params": "FSDP2's parameters always are the module's own",
    "auto_wrap_policy": "the blocks are found; `blocks` names them",
}
"""Options of FSDP1 that change nothing here."""
STATE_BYTES = 16
"""Of a parameter in fp32 with its gradient and AdamW's two moments (https://arxiv.org/abs/1910.02054)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Units:
    """What was grouped, and what it costs."""

    blocks: tuple[str, ...]
    """Names of the repeated modules: one unit each."""
    block_parameters: int
    """Of the largest block."""
    num_parameters: int
    rank_bytes: int
    """Parameters, gradients, AdamW's states and what is gathered at once, on one rank, without activations."""

    def __str__(self) -> str:
        units = f"{len(self.blocks)} blocks ({self.blocks[0]} …) and the rest" if self.blocks else "one unit"
        return f"{self.num_parameters / 1e6:,.1f} million parameters in {units}: {self.rank_bytes / GIB:.2f} GiB a rank"


def units_of(module: nn.Module, compute: Compute, ranks: int, blocks: tuple[str, ...] | None = None) -> Units:
    """What `shard` would group, and the bytes of a rank. Raises UsageError for blocks that cannot be units."""
    blocks = find_blocks(module) if blocks is None else check_blocks(module, blocks)
    number = sum(p.numel() for p in module.parameters())
    sizes = sizes_of(module, blocks)
    largest = max(sizes, default=number)
    shards = group_size_of(compute, ranks) if compute.sharding in HYBRID else ranks
    gathered = number if compute.sharding in KEEPS_WHOLE else min(number, 2 * largest + number - sum(sizes))
    own = -(-number // shards) * STATE_BYTES
    return Units(
        blocks=blocks,
        block_parameters=largest,
        num_parameters=number,
        rank_bytes=own + gathered * compute.compute_dtype.num_bytes * (ranks > 1),
    )


def shard(
    module: nn.Module,
    sharding_strategy: Any = Sharding.FULL_SHARD,
    *,
    mixed_precision: Any = None,
    cpu_offload: Any = None,
    blocks: tuple[str, ...] | None = None,
    group_size: int = 0,
    free_bytes: int | None = None,
    **others: Any,
) -> nn.Module:
    """Lays any module over the ranks, in place, and returns it; one process keeps it as it is, on its device.

    `sharding_strategy` is FSDP1's enum, its name or ours. `mixed_precision` is FSDP1's or FSDP2's, or None for fp32.
    `module.units` says what was grouped. The process group is torchrun's, and is joined where it was not yet; gradients
    are averaged over the ranks, as FSDP does. Make the optimizer after this. One process warns that `cpu_offload` does
    nothing there.
    Raises CapacityError where a rank's part is more than `free_bytes` (by default what its GPU has free; without one,
    its share of this machine's available memory), UsageError for an option, a strategy or blocks that do not exist.
    """
    unknown = sorted(set(others) - set(NO_OPS))
    if unknown:
        raise UsageError(f"shard has no option {unknown[0]}", hint=f"taken and without effect: {', '.join(NO_OPS)}")
    device = device_of_rank()
    start_group(device)
    compute = Compute(
        sharding=_strategy(sharding_strategy),
        compute_dtype=_dtype(mixed_precision, "param_dtype"),
        reduce_dtype=_dtype(mixed_precision, "reduce_dtype"),
        is_cpu_offload=bool(getattr(cpu_offload, "offload_params", cpu_offload)),
        shard_group_size=group_size,
    )
    units = units_of(module, compute, world_size(), blocks)
    free_bytes = _free_bytes(module, device) if free_bytes is None else free_bytes
    is_alone = world_size() == 1
    if compute.is_cpu_offload and is_alone:
        warnings.warn("cpu_offload changes nothing in one process: it is FSDP2's", stacklevel=2)
    can_offload = device.type == "cuda" and not is_alone
    if units.rank_bytes > free_bytes and not (compute.is_cpu_offload and can_offload):
        raise CapacityError(
            f"{units}, and {free_bytes / GIB:.2f} GiB are free, before any activation",
            hint=_fitting(module, compute, units, free_bytes, can_offload=can_offload),
        )
    module.units = units  # type: ignore[assignment]
    if is_alone:
        return module.to(device) if not any(p.is_meta for p in module.parameters()) else module
    how = settings(compute, mesh_for(compute, device.type))
    for unit in [*(module.get_submodule(name) for name in units.blocks), module]:
        fully_shard(unit, **(how if unit is not module else {**how, "reshard_after_forward": False}))
        if device.type == "cpu":
            unit.set_force_sum_reduction_for_comms(True)  # gloo has no average
    return module


def share(batches: Iterable[Any]) -> Iterator[Any]:
    """This rank's rows of each batch of all ranks: tensors, or tuples, lists and mappings of them.

    Raises UsageError where the rows do not divide by the ranks.
    """
    ranks = world_size()
    rank = torch.distributed.get_rank() if ranks > 1 else 0
    for batch in batches:
        yield _rows(batch, rank, ranks)


def _rows(batch: Any, rank: int, ranks: int) -> Any:
    if isinstance(batch, Mapping):
        return {name: _rows(part, rank, ranks) for name, part in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(_rows(part, rank, ranks) for part in batch)
    if not isinstance(batch, torch.Tensor) or batch.ndim == 0:
        return batch
    if batch.shape[0] % ranks:
        raise UsageError(
            f"a batch of {batch.shape[0]} rows does not divide by {ranks} ranks",
            hint=f"a multiple of {ranks} (DataLoader: batch_size, and drop_last=True for the last)",
        )
    each = batch.shape[0] // ranks
    return batch[rank * each : (rank + 1) * each]


def _free_bytes(module: nn.Module, device: torch.device) -> int:
    """What this rank may take: of its device, with what the module's weights take there now."""
    held = sum(p.numel() * p.element_size() for p in module.parameters() if p.device.type == device.type)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + held
    from ironloom.fleet.machine import this_machine

    return this_machine().available_memory_bytes // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) + held


def _fitting(module: nn.Module, compute: Compute, units: Units, free_bytes: int, *, can_offload: bool) -> str:
    """What would hold the module; nothing that is so already."""
    ranks, full = world_size(), replace(compute, sharding=Sharding.FULL_SHARD)
    is_full = compute.sharding is Sharding.FULL_SHARD

    def fits(ranks: int) -> bool:
        return units_of(module, full, ranks, units.blocks).rank_bytes <= free_bytes

    ways = []
    if not is_full and ranks > 1 and fits(ranks):
        ways.append("FULL_SHARD")
    if can_offload:
        ways.append("cpu_offload=True")
    if more := next((number for number in (ranks << power for power in range(1, 9)) if fits(number)), None):
        ways.append(f"{more} ranks that have as much each{'' if is_full else ', with FULL_SHARD,'}")
    ways = ways or [f"a smaller module, or {math.ceil(units.rank_bytes / GIB * 100) / 100:.2f} GiB for each rank,"]
    return f"{', or '.join(ways)} would fit"


def _strategy(given: Any) -> Sharding:
    name = str(getattr(given, "name", given))
    for strategy in Sharding:
        if name in (strategy.value, strategy.name):
            return strategy
    raise UsageError(f"sharding_strategy: {name} is none", hint=f"one of {', '.join(s.value for s in Sharding)}")


def _dtype(given: Any, field: str) -> Dtype:
    dtype = getattr(given, field, None)
    for known in Dtype:
        if dtype in (known, known.value, getattr(torch, known.value)):
            return known
    if dtype is None:
        return Dtype.FLOAT32
    raise UsageError(f"mixed_precision.{field}: {dtype}", hint="torch.float32 or torch.bfloat16")
