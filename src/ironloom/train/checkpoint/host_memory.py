"""Whether the copies of a machine's ranks fit its memory."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor

from ironloom.fleet.machine import this_machine
from ironloom.units import format_bytes


@dataclass(frozen=True, slots=True)
class CopyMemory:
    """What a rank's copy takes, and what its machine has now."""

    machine: str
    copy_bytes: int
    available_bytes: int


def memory_of(state: Mapping[str, torch.Tensor]) -> CopyMemory:
    """This rank's."""
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in state.values()]
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in local)
    return CopyMemory(socket.gethostname(), num_bytes, this_machine(gpus=lambda: ()).available_memory_bytes)


def memory_wanted(ranks: list[CopyMemory]) -> str:
    """The first machine whose memory the copies of its ranks do not fit, as a sentence; nothing where they do."""
    for machine in dict.fromkeys(rank.machine for rank in ranks):
        here = [rank for rank in ranks if rank.machine == machine]
        wanted, available = sum(rank.copy_bytes for rank in here), min(rank.available_bytes for rank in here)
        if wanted > available:
            return (
                "Checkpoints stop the steps while they are written: a copy to write beside them takes "
                f"{format_bytes(wanted)} of {machine}'s memory, which has {format_bytes(available)} available."
            )
    return ""
