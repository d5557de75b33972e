"""Which replicas go when fewer are wanted."""

from __future__ import annotations

import pytest

from ironloom.backends.kubernetes.leaving import leaving
from ironloom.serve.replica import Replica, ReplicaState


def replica(name: str, since_s: float, state: ReplicaState = ReplicaState.READY) -> Replica:
    return Replica(id=name, service="chat", state=state, generation=1, engine="vllm", since_s=since_s)


LIVE = [replica("old", 1), replica("new", 2), replica("coming", 0, ReplicaState.STARTING)]
SINGLE = dict.fromkeys(("old", "new", "coming"))


@pytest.mark.parametrize(
    ("number", "goes"),
    [(3, []), (5, []), (2, ["coming"]), (1, ["coming", "new"]), (0, ["coming", "new", "old"])],
)
def test_those_that_are_not_ready_go_first_and_then_the_newest(number: int, goes: list[str]) -> None:
    assert [one.id for one in leaving(LIVE, number, SINGLE)] == goes


def test_the_last_groups_of_a_set_go_first_whatever_their_state() -> None:
    assert [one.id for one in leaving(LIVE, 1, {"old": 2, "new": 0, "coming": 1})] == ["old", "coming"]
