"""What to do next with a service's replicas, for one generation and for a mix.

A replica is written as <id><state letter>: s starting, R ready, > parking, P parked, w waking. In a rollout the ones of
the old generation stand before the bar: "aR bP | cs". Later ones are newer.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.backends.local.reconcile import PARK_PATIENCE_S, Actions, Member
from ironloom.backends.local.rollout import decide
from ironloom.serve.replica import TRANSITIONS, ScaleOrder
from ironloom.serve.replica import ReplicaState as State

LETTERS = {
    "s": State.STARTING,
    "R": State.READY,
    ">": State.PARKING,
    "P": State.PARKED,
    "w": State.WAKING,
    "x": State.STOPPING,
}
NOW_S = 1000.0


def members(text: str, *, age_s: float = 1.0) -> list[Member]:
    old, bar, new = text.rpartition("|")
    found = []
    for generation, part in ((1, old), (2 if bar else 1, new)):
        for word in part.split():
            since_s = NOW_S - age_s - 100 + len(found) if age_s > 50 else NOW_S - age_s + len(found) / 1000
            found.append(Member(id=word[0], generation=generation, state=LETTERS[word[1]], since_s=since_s))
    return found


def show(actions: Actions) -> str:
    words = ["start"] * actions.num_starts
    for verb in ("wake", "park", "stop"):
        words += [f"{verb} {replica}" for replica in getattr(actions, verb)]
    return ", ".join(words)


def decided(text: str, ready: int, parked: int = 0, *, failing: bool = False, may_start: bool = True) -> str:
    found = members(text)
    order = ScaleOrder(num_ready=ready, num_parked=parked)
    generation = 2 if "|" in text else 1
    return show(decide(found, order, generation=generation, failing=failing, may_start=may_start, now_s=NOW_S))


ONE_GENERATION = {
    "nothing there, nothing wanted": ("", 0, 0, ""),
    "nothing there, two wanted": ("", 2, 0, "start, start"),
    "what is on its way counts": ("as bw", 2, 0, ""),
    "parked ones are woken before any is started": ("aP bP", 1, 0, "wake b, stop a"),
    "parked ones beyond need stay if ordered": ("aP bP", 1, 1, "wake b"),
    "woken and started together": ("aP", 3, 0, "wake a, start, start"),
    "the one that parks just now is woken later, not replaced": ("a>", 1, 0, ""),
    "to zero stops": ("aR bR", 0, 0, "stop b, stop a"),
    "to zero parks as many as ordered, the newest first": ("aR bR", 0, 1, "park b, stop a"),
    "those not yet ready go first": ("aR bs cR", 2, 0, "stop b"),
    "a waking one goes before a ready one": ("aR bw", 1, 0, "stop b"),
    "then the newest": ("aR bR cR", 1, 0, "stop c, stop b"),
    "a waking one is left to get ready when parked ones are wanted": ("aw", 0, 1, ""),
    "a starting one is not worth waiting for": ("as", 0, 1, "stop a"),
    "parking ones count as parked": ("a> bR", 0, 1, "stop b"),
    "surplus parked ones are stopped": ("aP bP cR", 1, 1, "stop a"),
    "the order is met": ("aR bP", 1, 1, ""),
    "nothing is started just to be parked": ("", 0, 2, ""),
    "stopping ones are gone already": ("ax", 1, 0, "start"),
}


@pytest.mark.parametrize(("text", "ready", "parked", "expected"), ONE_GENERATION.values(), ids=ONE_GENERATION.keys())
def test_one_generation(text: str, ready: int, parked: int, expected: str) -> None:
    assert sorted(decided(text, ready, parked).split(", ")) == sorted(expected.split(", "))


def test_one_that_parks_for_long_is_replaced() -> None:
    slow = members("a>", age_s=PARK_PATIENCE_S + 60)
    order = ScaleOrder(num_ready=1)
    assert show(decide(slow, order, generation=1, failing=False, may_start=True, now_s=NOW_S)) == "start"


def test_a_crash_loop_that_backs_off_starts_nothing_but_wakes() -> None:
    assert decided("", 1, may_start=False) == ""
    assert decided("aP", 2, may_start=False) == "wake a"


ROLLOUTS: dict[str, tuple[str, int, int, bool, str]] = {
    "a changed manifest starts one of the new, and the old serves on": ("aR bR |", 2, 0, False, "start"),
    "nothing drains while the new one starts": ("aR bR | cs", 2, 0, False, ""),
    "one ready for one drained": ("aR bR | cR", 2, 0, False, "stop b, start"),
    "the last step": ("aR | cR dR", 2, 0, False, "stop a"),
    "an old one that never was ready goes at once": ("as |", 1, 0, False, "stop a, start"),
    "what is not covered by the old is started at once": ("aR |", 3, 0, False, "start, start"),
    "the new one failed: the old stay": ("aR bR |", 2, 0, True, "start"),
    "parked old ones wait for the proof": ("aP |", 0, 1, False, ""),
    "and are stopped by it": ("aP | cR", 1, 1, False, "stop a"),
    "they are not woken while the new one may come up": ("aP |", 1, 0, False, "start"),
    "but serve when it fails": ("aP |", 1, 1, True, "wake a, start"),
    "unless zero is wanted": ("aP |", 0, 0, False, "stop a"),
    "to zero stops both": ("aR | cR", 0, 0, False, "stop a, stop c"),
    "to zero parks the new one": ("aR | cR", 0, 1, False, "stop a, park c"),
    "to zero before the proof parks the old one": ("aR |", 0, 1, False, "park a"),
    "nothing changes at zero": ("", 0, 0, False, ""),
}


@pytest.mark.parametrize(("text", "ready", "parked", "failing", "expected"), ROLLOUTS.values(), ids=ROLLOUTS.keys())
def test_rollouts(text: str, ready: int, parked: int, failing: bool, expected: str) -> None:
    if "|" not in text:
        text += "|"
    assert sorted(decided(text, ready, parked, failing=failing).split(", ")) == sorted(expected.split(", "))


def test_a_failing_rollout_that_backs_off_leaves_all_as_it_is() -> None:
    assert decided("aR bR |", 2, failing=True, may_start=False) == ""


fleets = st.lists(
    st.builds(
        Member,
        id=st.uuids().map(str),
        generation=st.sampled_from([1, 1, 2]),
        state=st.sampled_from(list(State)),
        since_s=st.floats(NOW_S - 20, NOW_S),
    ),
    max_size=8,
    unique_by=lambda member: member.id,
)
orders = st.builds(ScaleOrder, num_ready=st.integers(0, 4), num_parked=st.integers(0, 2))


@given(fleets, orders, st.booleans(), st.booleans())
def test_each_replica_gets_one_order_that_its_state_allows(
    found: list[Member], order: ScaleOrder, failing: bool, may_start: bool
) -> None:
    actions = decide(found, order, generation=2, failing=failing, may_start=may_start, now_s=NOW_S)
    named = [*actions.wake, *actions.park, *actions.stop]
    assert len(named) == len(set(named))
    states = {member.id: member.state for member in found}
    for verb, target in (("wake", State.WAKING), ("park", State.PARKING), ("stop", State.STOPPING)):
        for replica in getattr(actions, verb):
            assert target in TRANSITIONS[states[replica]]
    assert may_start or actions.num_starts == 0


@given(fleets, orders, st.booleans())
def test_no_ready_replica_is_given_up_while_fewer_than_ordered_are_ready(
    found: list[Member], order: ScaleOrder, failing: bool
) -> None:
    ready = {member.id for member in found if member.state is State.READY}
    actions = decide(found, order, generation=2, failing=failing, may_start=True, now_s=NOW_S)
    left = ready - set(actions.stop) - set(actions.park)
    assert len(left) >= min(order.num_ready, len(ready))


@given(fleets, orders)
def test_if_all_goes_well_the_order_is_met_by_the_new_generation_alone(found: list[Member], order: ScaleOrder) -> None:
    """Every action succeeds: at most a few rounds later exactly the order is there, and nothing more is asked for."""
    world = {member.id: member for member in found}
    now_s = NOW_S
    for number in range(40):
        now_s += PARK_PATIENCE_S + 1
        actions = decide(list(world.values()), order, generation=2, failing=False, may_start=True, now_s=now_s)
        for replica in actions.stop:
            del world[replica]
        changed = {
            State.STARTING: State.READY,
            State.WAKING: State.READY,
            State.PARKING: State.PARKED,
        }
        for replica, member in list(world.items()):
            state = member.state
            if replica in actions.park:
                state = State.PARKED
            elif replica in actions.wake:
                state = State.READY
            elif state in (State.STOPPING, State.STOPPED, State.FAILED):
                del world[replica]
                continue
            world[replica] = Member(
                id=replica, generation=member.generation, state=changed.get(state, state), since_s=now_s
            )
        for start in range(actions.num_starts):
            name = f"new-{number}-{start}"
            world[name] = Member(id=name, generation=2, state=State.READY, since_s=now_s)
    end = list(world.values())
    assert sum(member.state is State.READY for member in end) == order.num_ready
    assert sum(member.state is State.PARKED for member in end) <= order.num_parked
    if order.num_ready:
        assert {member.generation for member in end if member.state is State.READY} <= {2}
    assert decide(end, order, generation=2, failing=False, may_start=True, now_s=now_s) == Actions()
