"""How a step's sequences are shared out among the ranks.

A step takes `global_batch_size` sequences in a row. Micro-batch m of rank r is those from
(m · world + r) · micro_batch_size on: together the ranks take each sequence once, whatever their number is.
"""

from __future__ import annotations

from dataclasses import dataclass

from ironloom.errors import UsageError


@dataclass(frozen=True, slots=True)
class Share:
    """One rank's part of each step. Raises UsageError where a step does not divide among the ranks."""

    global_batch_size: int
    micro_batch_size: int
    rank: int
    world: int

    def __post_init__(self) -> None:
        if self.micro_batch_size < 1 or self.global_batch_size < 1:
            raise UsageError(
                f"global_batch_size is {self.global_batch_size}, micro_batch_size is {self.micro_batch_size}; "
                "both must be 1 or more"
            )
        at_once = self.micro_batch_size * self.world
        if self.global_batch_size % at_once:
            below = self.global_batch_size // at_once * at_once
            raise UsageError(
                f"global_batch_size is {self.global_batch_size}; for {self.world} ranks with {self.micro_batch_size} "
                f"sequences at a time it must be a multiple of {at_once}",
                hint=f"take {f'{below} or ' if below else ''}{below + at_once}, or another number of ranks",
            )

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of one rank in a step."""
        return self.global_batch_size // (self.micro_batch_size * self.world)

    def consumed(self, num_micro_batches: int) -> int:
        """Sequences, over all ranks, of the whole steps in so many micro-batches of one rank."""
        return num_micro_batches // self.num_micro_batches * self.global_batch_size

    def sequences(self, micro_batch: int) -> range:
        """Which sequences the n-th micro-batch is, counted from where the rank began."""
        step, nth = divmod(micro_batch, self.num_micro_batches)
        first = step * self.global_batch_size + (nth * self.world + self.rank) * self.micro_batch_size
        return range(first, first + self.micro_batch_size)
