"""Which replica a request goes to."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.serve.choice import AFFINITY_MARGIN, choose, preferred_for


@dataclass(eq=False)
class Fake:
    in_flight: int
    hash: int = 0


def fakes(*loads: int) -> list[Fake]:
    return [Fake(load, crc32(f"m-{i:05d}".encode())) for i, load in enumerate(loads)]


@pytest.mark.parametrize(
    ("loads", "preferred", "chosen"),
    [
        ((3, 1, 2), None, 1),
        ((1, 1, 1), None, 0),
        ((5,), None, 0),
        ((0, AFFINITY_MARGIN), 1, 1),
        ((0, AFFINITY_MARGIN + 1), 1, 0),
        ((40, 50), 1, 1),  # a quarter of 40 is more than the margin
        ((40, 51), 1, 0),
        ((7, 7), 1, 1),
    ],
)
def test_least_loaded_unless_the_preferred_one_is_within_its_margin(
    loads: tuple[int, ...], preferred: int | None, chosen: int
) -> None:
    replicas = fakes(*loads)
    assert choose(replicas, replicas[preferred] if preferred is not None else None) is replicas[chosen]


@given(st.lists(st.integers(0, 100), min_size=1, max_size=8), st.integers(0, 7))
def test_nobody_waits_beside_an_idle_replica(loads: list[int], preferred: int) -> None:
    replicas = fakes(*loads)
    chosen = choose(replicas, replicas[preferred % len(replicas)])
    assert chosen.in_flight <= min(loads) + max(AFFINITY_MARGIN, min(loads) // 4)


@pytest.mark.parametrize("num_replicas", [2, 3, 5, 8])
def test_prefixes_are_spread_evenly(num_replicas: int) -> None:
    replicas = fakes(*[0] * num_replicas)
    counts = dict.fromkeys(range(num_replicas), 0)
    for i in range(4000):
        counts[replicas.index(preferred_for(crc32(b"prompt %d" % i), replicas))] += 1
    fair = 4000 / num_replicas
    assert all(0.8 * fair < count < 1.2 * fair for count in counts.values()), counts


def test_a_replica_more_or_less_moves_only_its_own_prefixes() -> None:
    replicas = fakes(0, 0, 0, 0)
    moved = 0
    for i in range(1000):
        prefix = crc32(b"prompt %d" % i)
        before, after = preferred_for(prefix, replicas[:3]), preferred_for(prefix, replicas)
        if before is not after:
            assert after is replicas[3]
            moved += 1
    assert 180 < moved < 320  # a quarter
