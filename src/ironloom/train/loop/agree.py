"""Small agreements among the ranks of a run, on the host: nothing of them waits for a GPU."""

from __future__ import annotations

import torch
from torch import distributed


def anyone(flag: bool) -> bool:
    """Whether any rank says so. Every rank asks at the same place."""
    return bool(most([int(flag)])[0])


def most(values: list[int]) -> list[int]:
    """The largest of all ranks' values, place by place."""
    if not distributed.is_initialized():
        return values
    said = torch.tensor(values, dtype=torch.int32)
    distributed.all_reduce(said, op=distributed.ReduceOp.MAX)
    return [int(one) for one in said]


def total(values: list[float]) -> list[float]:
    """The sums over all ranks."""
    if not distributed.is_initialized():
        return values
    sums = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(sums)
    return [float(one) for one in sums]


def largest(value: float) -> float:
    """The largest of all ranks' values."""
    if not distributed.is_initialized():
        return value
    said = torch.tensor([value], dtype=torch.float64)
    distributed.all_reduce(said, op=distributed.ReduceOp.MAX)
    return float(said.item())


def wait_for_all() -> None:
    """Until every rank is here."""
    anyone(False)
