"""Where a step's time goes: parts that add up to it, waits for other ranks taken out, stalls and their part."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from ironloom.train.loop.meter import RunMeter
from ironloom.train.loop.stalls import FACTOR, MIN_STEPS, Stalls
from ironloom.train.loop.times import COMMUNICATION, OTHER, PARTS, HostClock, StepTime, StepTimes

pytestmark = pytest.mark.train
SECONDS = st.floats(0, 100, allow_nan=False)
NAMES = st.sampled_from([*PARTS, OTHER, "evaluation", "profile"])


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class LateClock(HostClock):
    """Marks that are known some marks later, as a GPU's are."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(hand)
        self.known_until_s = 0.0
        self.num_waits = 0

    def is_past(self, mark: float) -> bool:
        return mark <= self.known_until_s

    def wait(self, mark: float) -> None:
        self.num_waits += 1
        self.known_until_s = max(self.known_until_s, mark)


@given(st.lists(st.lists(st.tuples(NAMES, SECONDS, SECONDS), max_size=8), min_size=1, max_size=6))
def test_the_parts_of_steps_add_up_to_all_the_time_there_was(steps: list[list[tuple[str, float, float]]]) -> None:
    hand = Hand()
    times = StepTimes(HostClock(hand))
    for step in steps:
        with times.part("checkpoint"):
            hand.now_s += 1.5
        begun_s = hand.now_s
        times.begin_step()
        for part, seconds, waited_s in step:
            times.waited(hand.now_s, hand.now_s + waited_s)  # more than the part took, sometimes
            hand.now_s += seconds
            times.mark(part)
        times.end_step()
        (known,) = times.ended()
        assert known.total_s == pytest.approx(hand.now_s - begun_s + 1.5)
        assert known.own_s == pytest.approx(hand.now_s - begun_s)
        assert all(seconds >= 0 for seconds in known.parts_s.values())
        assert known.parts_s.keys() >= set(PARTS)


def test_a_wait_is_taken_out_of_the_part_it_was_in_and_an_evaluation_keeps_its_own() -> None:
    hand = Hand()
    times = StepTimes(HostClock(hand))
    with times.part("evaluation"):
        times.waited(0.0, 2.0)
        hand.now_s += 5.0
    times.begin_step()
    times.waited(5.0, 6.0)
    times.waited(6.0, 6.5)
    hand.now_s += 4.0
    times.mark("backward")
    times.end_step()
    (known,) = times.ended()
    told = {part: seconds for part, seconds in known.parts_s.items() if seconds}
    assert told == {"evaluation": 5.0, "backward": 2.5, COMMUNICATION: 1.5}
    assert (known.own_s, known.judged_s, known.total_s) == (4.0, 4.0, 9.0)


def test_steps_that_go_on_are_told_later_and_waited_for_only_where_none_is_known() -> None:
    hand = Hand()
    clock = LateClock(hand)
    times = StepTimes(clock)

    def step(seconds: float) -> None:
        times.begin_step()
        hand.now_s += seconds
        times.mark("forward")
        times.end_step()

    step(1.0)
    assert times.ended() == []
    assert [one.own_s for one in times.ended(at_least_one=True)] == [1.0]
    step(2.0)
    step(3.0)
    clock.known_until_s = 3.0
    assert [one.own_s for one in times.ended(at_least_one=True)] == [2.0]
    assert clock.num_waits == 1
    assert [one.own_s for one in times.ended(all_of_them=True)] == [3.0]


def walk(meter: RunMeter, hand: Hand, *seconds: float, part: str = "forward") -> None:
    for one in seconds:
        meter.begin_step()
        hand.now_s += 0.5
        meter.mark("backward")
        hand.now_s += one - 0.5
        meter.mark(part)
        meter.end_step(10)


def test_a_record_s_parts_are_of_the_mean_step_since_the_last_and_are_told_once() -> None:
    hand = Hand()
    meter = RunMeter(num_ranks=2, before_s=100.0, age_s=5.0, clock=hand)
    walk(meter, hand, 1.0)
    with meter.part("checkpoint"):
        hand.now_s += 4.0
    walk(meter, hand, 1.0)
    told = meter.take_parts_s()
    assert {part: seconds for part, seconds in told.items() if seconds} == {
        "backward": 0.5, "forward": 0.5, "checkpoint": 2.0,
    }  # fmt: skip
    walk(meter, hand, 3.0)
    assert sum(meter.take_parts_s().values()) == 3.0
    assert meter.take_parts_s() == {}
    assert meter.tokens_per_s == 30 / 5.0, "what lies between steps is not in it"
    assert meter.remaining_s(6) == 10.0
    assert meter.rank_s == 100.0 + (5.0 + hand.now_s) * 2
    assert sum(meter.totals_s().values()) == hand.now_s


def test_what_an_earlier_attempt_measured_is_counted_on() -> None:
    hand = Hand()
    first = RunMeter(num_ranks=1, clock=hand)
    walk(first, hand, *[1.0] * MIN_STEPS, 9.0)
    second = RunMeter(num_ranks=1, clock=hand)
    second.restore(first.state())
    walk(second, hand, 2.0)
    assert sum(second.totals_s().values()) == MIN_STEPS + 9.0 + 2.0
    assert (second.stalls.number, second.stalls.lost_s) == (1, 8.0)
    second.restore({})
    assert second.stalls.number == 0


def test_a_stall_is_counted_and_told_with_the_part_that_was_longer() -> None:
    hand = Hand()
    told: list[Any] = []
    meter = RunMeter(num_ranks=1, clock=hand, on_stall=lambda number, stall: told.append((number, stall)))
    walk(meter, hand, *[1.0] * MIN_STEPS, 1.9)
    walk(meter, hand, 6.0, part="data")
    ((number, stall),) = told
    assert number == MIN_STEPS + 2
    assert (stall.took_s, stall.usual_s, stall.part, stall.part_s, stall.lost_s) == (6.0, 1.0, "data", 5.5, 5.0)
    assert (meter.stalls.number, meter.stalls.lost_s) == (1, 5.0)


def test_evaluations_profiled_steps_and_jitter_are_no_stalls_and_a_blocking_checkpoint_is_one() -> None:
    hand = Hand()
    told: list[Any] = []
    meter = RunMeter(num_ranks=1, clock=hand, on_stall=lambda _, stall: told.append(stall.part))
    walk(meter, hand, *[1.0] * MIN_STEPS)
    with meter.part("evaluation"):
        hand.now_s += 60.0
    walk(meter, hand, 1.0)
    meter.begin_step()
    hand.now_s += 30.0
    meter.end_step(10, is_usual=False)
    assert told == []
    with meter.part("checkpoint"):
        hand.now_s += 10.0
    walk(meter, hand, 1.0)
    assert told == ["checkpoint"]
    tiny = Stalls()
    quick = [StepTime({"forward": seconds}, seconds) for seconds in [0.001] * MIN_STEPS + [0.05]]
    assert [tiny.look(step) for step in quick] == [None] * len(quick)


def test_what_is_done_aside_within_a_step_is_its_part_and_not_its_own_time() -> None:
    hand = Hand()
    meter = RunMeter(num_ranks=1, clock=hand)
    meter.begin_step()
    hand.now_s += 1.0
    with meter.part("evaluation"):
        hand.now_s += 9.0
    meter.end_step(10)
    assert meter.tokens_per_s == 10.0
    assert meter.take_parts_s()["evaluation"] == 9.0


@given(st.lists(st.floats(0.2, 50), min_size=1, max_size=80))
def test_a_stall_is_above_the_median_and_what_was_lost_is_less_than_all_the_time(seconds: list[float]) -> None:
    stalls = Stalls()
    found = [stalls.look(StepTime({"forward": one}, one)) for one in seconds]
    assert stalls.number == sum(stall is not None for stall in found)
    assert 0 <= stalls.lost_s <= sum(seconds)
    assert all(stall is None or stall.took_s > FACTOR * stall.usual_s for stall in found)
    assert found[:MIN_STEPS] == [None] * len(found[:MIN_STEPS])
