"""Min, max, initial scale, what fits; and that replicas are asked for once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.serve.autoscale.bounds import Ask, ask, bound
from ironloom.workload.serving import Scaling


@pytest.mark.parametrize(
    ("want", "scaling", "is_activating", "capacity", "expected", "reason"),
    [
        (3, Scaling(min_replicas=0), False, None, 3, ""),
        (0, Scaling(min_replicas=0), False, None, 0, ""),
        (0, Scaling(min_replicas=2), False, None, 2, "min replicas is 2"),
        (9, Scaling(max_replicas=4), False, None, 4, "max replicas is 4"),
        (9, Scaling(max_replicas=0), False, None, 9, ""),
        (0, Scaling(min_replicas=0, initial_scale=1), True, None, 1, "initial scale is 1"),
        (0, Scaling(min_replicas=0, initial_scale=0), True, None, 0, ""),
        (1, Scaling(min_replicas=0, initial_scale=3), True, None, 3, "initial scale is 3"),
        (1, Scaling(min_replicas=0, initial_scale=3), False, None, 1, ""),
        (1, Scaling(min_replicas=0, initial_scale=3, max_replicas=2), True, None, 2, "max replicas is 2"),
        (5, Scaling(), False, 2, 2, "2 fit here"),
        (5, Scaling(max_replicas=1), False, 2, 1, "max replicas is 1"),
        (1, Scaling(), False, 0, 1, ""),
        (2, Scaling(), False, 0, 1, "0 fit here"),
    ],
)
def test_a_count_is_brought_within_its_bounds_and_the_bound_is_named(
    want: int, scaling: Scaling, is_activating: bool, capacity: int | None, expected: int, reason: str
) -> None:
    bounded = bound(want, scaling, is_activating=is_activating, capacity=capacity)
    assert (bounded.num_replicas, bounded.reason) == (expected, reason)


def asks(*steps: tuple[float, int, int, int], last: Ask | None = None) -> list[int]:
    """The counts asked for. A step: (time, wanted, ready, starting)."""
    state, counts = last or Ask(), []
    for now_s, wanted, ready, starting in steps:
        state, bounded = ask(state, wanted, num_live=ready + starting, num_starting=starting, settle_s=6, now_s=now_s)
        counts.append(bounded.num_replicas)
    return counts


def test_a_surge_from_zero_is_sized_in_its_first_seconds_and_not_asked_for_again_while_it_loads() -> None:
    assert asks((0, 0, 0, 0), (10, 1, 0, 0), (12, 3, 0, 1), (16, 5, 0, 3), (18, 9, 0, 5), (300, 40, 0, 5)) == [
        0,
        1,
        3,
        5,
        5,
        5,
    ]


def test_when_the_starts_are_over_more_may_be_asked_for() -> None:
    assert asks((0, 1, 1, 0), (60, 2, 1, 0), (62, 4, 1, 1), (80, 9, 1, 3), (90, 9, 4, 0)) == [1, 2, 4, 4, 9]


def test_a_failed_start_may_be_asked_for_anew() -> None:
    assert asks((0, 2, 0, 0), (30, 5, 1, 1), (40, 5, 1, 0)) == [2, 2, 5]


def test_fewer_are_always_granted() -> None:
    assert asks((0, 4, 0, 0), (2, 4, 0, 4), (60, 1, 0, 4), (62, 0, 0, 1)) == [4, 4, 1, 0]


@given(st.lists(st.tuples(st.floats(0.1, 20), st.integers(0, 9), st.integers(0, 4), st.integers(0, 4)), max_size=30))
def test_an_answer_is_never_above_what_is_wanted_nor_zero_unless_zero_is(
    steps: list[tuple[float, int, int, int]],
) -> None:
    state, now_s = Ask(), 0.0
    for wait_s, wanted, ready, starting in steps:
        now_s += wait_s
        state, bounded = ask(state, wanted, num_live=ready + starting, num_starting=starting, settle_s=6, now_s=now_s)
        assert bounded.num_replicas <= wanted
        assert (bounded.num_replicas == 0) == (wanted == 0)
        assert bool(bounded.reason) == (bounded.num_replicas < wanted)
