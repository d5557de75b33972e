"""Which source the i-th sequence of a run comes from, and which one of that source it is.

The first `i` sequences hold each source's share of them to within the number of sources, for every i. Nothing is
counted along the way: the answer is computed from i, so a run that resumes needs no more than i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_WHOLE = 1 << 32
"""Shares are whole numbers out of this, so that each machine computes the same."""


@dataclass(frozen=True, slots=True)
class Blend:
    """Shares of the sources, as whole numbers above 0."""

    shares: tuple[int, ...]

    @classmethod
    def of(cls, weights: Sequence[float]) -> Blend:
        """The blend by relative weights, all above 0."""
        total = sum(weights)
        return cls(tuple(max(1, round(weight / total * _WHOLE)) for weight in weights))

    def at(self, i: int) -> tuple[int, int]:
        """(source, how many sequences of that source came before) of the i-th sequence, from 0.

        The last source takes its share of all, evenly spread; the one before takes its share of what is left; and so
        on. A source's share n/S of the first i sequences is floor(n·i / S) of them.
        """
        total = sum(self.shares)
        for source in range(len(self.shares) - 1, 0, -1):
            share = self.shares[source]
            before = share * i // total
            if share * (i + 1) // total > before:
                return source, before
            i -= before
            total -= share
        return 0, i

    def taken(self, i: int) -> tuple[int, ...]:
        """How many of the first `i` sequences come from each source."""
        total = sum(self.shares)
        counts = []
        for share in reversed(self.shares[1:]):
            counts.append(share * i // total)
            i -= counts[-1]
            total -= share
        return (i, *reversed(counts))
