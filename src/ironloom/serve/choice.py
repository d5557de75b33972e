"""Which replica a request goes to: the least loaded, unless the one that knows its prefix is not much busier.

An engine keeps the KV cache of prompts it has seen. A request whose prompt begins like an earlier one is cheaper where
that one went, so every prefix has a preferred replica: the one with the highest score by rendezvous hashing, which
moves 1/n of the prefixes when a replica comes or goes and none between those that stay. The preferred one is taken
while its load is within a margin of the least, so that one popular prefix cannot make a queue beside idle replicas
(the bound of "consistent hashing with bounded loads", https://arxiv.org/abs/1608.01350; KubeAI routes so too).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

AFFINITY_MARGIN = 2
"""Requests that the preferred replica may have more than the least loaded, or a quarter of it if that is more."""


class Loaded(Protocol):
    """What is chosen among."""

    in_flight: int
    hash: int
    """32 bits of the replica's id: spreads prefixes over replicas."""


LoadedT = TypeVar("LoadedT", bound=Loaded)
_MASK = (1 << 64) - 1


def preferred_for(prefix_hash: int, replicas: Iterable[LoadedT]) -> LoadedT:
    """The replica of a prefix (32 bits of it), by rendezvous hashing. `replicas` must not be empty."""
    return max(replicas, key=lambda replica: _score(prefix_hash, replica.hash))


def _score(prefix_hash: int, replica_hash: int) -> int:
    """64 well-mixed bits of both, the same in every process: the finaliser of splitmix64."""
    mixed = (prefix_hash << 32 | replica_hash) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def choose(replicas: Iterable[LoadedT], preferred: LoadedT | None) -> LoadedT:
    """The least loaded, the first of equals, or the preferred one if it is within the margin.

    `replicas` must not be empty; `preferred` is one of them, or None.
    """
    if preferred is not None and preferred.in_flight <= AFFINITY_MARGIN:
        return preferred  # whatever the least loaded has
    least, fewest = preferred, 1 << 62
    for replica in replicas:
        if replica.in_flight < fewest:
            least, fewest = replica, replica.in_flight
    assert least is not None
    if preferred is None or preferred.in_flight > fewest + max(AFFINITY_MARGIN, fewest // 4):
        return least
    return preferred
