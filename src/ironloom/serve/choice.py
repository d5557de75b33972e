"""Which replica a request goes to: the least loaded, unless the one that knows its prefix is not much busier.

An engine keeps the KV cache of prompts it has seen. A request whose prompt begins like an earlier one is cheaper where
that one went, so every prefix has a preferred replica: the one with the highest score by rendezvous hashing, which
moves 1/n of the prefixes when a replica comes or goes and none between those that stay. The preferred one is taken
while its load is within a margin of the least, so that one popular prefix cannot make a queue beside idle replicas
(the bound of "consistent hashing with bounded loads", https://arxiv.org/abs/1608.01350; KubeAI routes so too).
"""

from __future__ import annotations

from collections.abc import Sequence

AFFINITY_MARGIN = 2
"""Requests that the preferred replica may have more than the least loaded, or a quarter of it if that is more."""

_MASK = (1 << 64) - 1


def score(prefix_hash: int, replica_hash: int) -> int:
    """The rendezvous score of a replica for a prefix: a 64-bit mix of both (the finaliser of splitmix64)."""
    mixed = (prefix_hash ^ replica_hash) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def choose(loads: Sequence[int], replica_hashes: Sequence[int], prefix_hash: int | None) -> int:
    """The index of the replica to take; the first of equals. `loads` must not be empty."""
    least = min(range(len(loads)), key=loads.__getitem__)
    if prefix_hash is None:
        return least
    preferred = max(range(len(loads)), key=lambda i: score(prefix_hash, replica_hashes[i]))
    margin = max(AFFINITY_MARGIN, loads[least] // 4)
    return preferred if loads[preferred] <= loads[least] + margin else least
