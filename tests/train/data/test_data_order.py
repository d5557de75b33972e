"""The shuffle, the blend and the share of ranks: what a resume relies on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.errors import UsageError
from ironloom.train.data.blend import Blend
from ironloom.train.data.order import permuted
from ironloom.train.data.share import Share


@given(num=st.integers(1, 3000), key=st.integers(0, 2**62))
@settings(max_examples=60, deadline=None)
def test_every_index_stands_at_one_position_of_the_shuffle(num: int, key: int) -> None:
    assert sorted(permuted(np.arange(num), num, key).tolist()) == list(range(num))


def test_a_position_alone_is_what_it_is_among_all() -> None:
    whole = permuted(np.arange(1000), 1000, 7, 3)
    assert [int(permuted(np.array([i]), 1000, 7, 3)[0]) for i in (0, 1, 500, 999)] == whole[[0, 1, 500, 999]].tolist()


def test_another_key_is_another_shuffle_and_few_stay_where_they_were() -> None:
    first, second = permuted(np.arange(5000), 5000, 1, 0), permuted(np.arange(5000), 5000, 1, 1)
    assert (first == second).sum() < 20
    assert (first == np.arange(5000)).sum() < 20
    neighbours = np.abs(np.diff(first))
    assert 1400 < neighbours.mean() < 1900  # a third of the range, as of random pairs


WEIGHTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)


@given(weights=WEIGHTS, num=st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_each_source_gives_its_sequences_in_order_without_a_gap(weights: list[float], num: int) -> None:
    blend = Blend.of(weights)
    seen: dict[int, list[int]] = {source: [] for source in range(len(weights))}
    for i in range(num):
        source, nth = blend.at(i)
        seen[source].append(nth)
    assert all(numbers == list(range(len(numbers))) for numbers in seen.values())
    assert blend.taken(num) == tuple(len(numbers) for numbers in seen.values())


@given(weights=WEIGHTS, num=st.integers(1, 10**9))
@settings(max_examples=100, deadline=None)
def test_the_first_n_hold_each_sources_share_to_within_the_number_of_sources(weights: list[float], num: int) -> None:
    taken = Blend.of(weights).taken(num)
    assert sum(taken) == num
    for count, weight in zip(taken, weights, strict=True):
        assert abs(count - num * weight / sum(weights)) <= len(weights) + num * 1e-7


@given(
    micro=st.integers(1, 3),
    worlds=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    accumulated=st.integers(1, 3),
    steps=st.integers(1, 4),
)
@settings(max_examples=80, deadline=None)
def test_the_ranks_together_take_each_sequence_once_at_any_world_size_and_after_each_resume(
    micro: int, worlds: list[int], accumulated: int, steps: int
) -> None:
    global_batch = micro * 12 * accumulated  # 12: all of the worlds divide it
    taken: list[int] = []
    start = 0
    for world in worlds:
        shares = [Share(global_batch, micro, rank, world) for rank in range(world)]
        for step in range(steps):
            numbers = range(step * shares[0].num_micro_batches, (step + 1) * shares[0].num_micro_batches)
            of_step = [start + i for share in shares for number in numbers for i in share.sequences(number)]
            taken += sorted(of_step)
            assert len(of_step) == global_batch
        start += shares[0].consumed(steps * shares[0].num_micro_batches)
    assert taken == list(range(len(worlds) * steps * global_batch))


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ((8, 1, 3), "global_batch_size is 8; for 3 ranks with 1 sequences at a time it must be a multiple of 3"),
        ((2, 4, 1), "it must be a multiple of 4"),
        ((0, 1, 1), "both must be 1 or more"),
    ],
)
def test_a_step_that_does_not_divide_is_refused_with_what_would(sizes: tuple[int, int, int], why: str) -> None:
    with pytest.raises(UsageError, match=why) as raised:
        Share(sizes[0], sizes[1], 0, sizes[2])
    assert sizes[0] != 8 or raised.value.hint == "take 6 or 9, or another number of ranks"
