"""What the ranks tell each other about a checkpoint: plans, results, outcomes, as objects over gloo.

A group of its own, so that a thread that writes a checkpoint never meets the training's collectives. One process alone
talks to itself.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

_T = TypeVar("_T")
_PATIENCE = timedelta(hours=2)
"""The slowest rank's disk may take this long."""


class Ranks:
    """The ranks that write a checkpoint together. Made by all ranks at the same place."""

    def __init__(self) -> None:
        self.world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self.rank = dist.get_rank() if self.world > 1 else 0
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE) if self.world > 1 else None

    @property
    def is_first(self) -> bool:
        """Whether this rank is the one that decides."""
        return self.rank == 0

    def gather(self, value: _T) -> list[_T]:
        """Every rank's value, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self._group)
        return values

    def to_first(self, value: _T) -> list[_T]:
        """Every rank's value on the first rank; an empty list on the others."""
        if self.world == 1:
            return [value]
        values: list[Any] | None = [None] * self.world if self.is_first else None
        dist.gather_object(value, values, dst=0, group=self._group)
        return values or []

    def from_first(self, value: Any) -> Any:
        """The first rank's value, on every rank."""
        box: list[Any] = [value]
        if self.world > 1:
            dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]

    def scatter(self, values: list[_T]) -> _T:
        """The first rank's n-th value on the n-th rank."""
        if self.world == 1:
            return values[0]
        box: list[Any] = [None]
        dist.scatter_object_list(box, values if self.is_first else None, src=0, group=self._group)
        return box[0]
