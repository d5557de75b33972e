"""What the event log is told of pods, from one look to the next."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.account.events import Event
from ironloom.backends.kubernetes.pods import view
from ironloom.backends.kubernetes.replica_events import Seen, events_of, seen

GPUS = ("n1/gpu", "n1/gpu")
READY = {"type": "Ready", "status": "True"}
NO_ROOM = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
UNPLACED = {"type": "PodScheduled", "status": "False", "message": NO_ROOM}
HELD = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}


def look(*, node: str = "n1", draining: bool = False, deleted: bool = False, **status: Any) -> Seen:
    metadata: dict[str, Any] = {"name": "a-x", "labels": {"ironloom.dev/generation": "3"}}
    if deleted:
        metadata["deletionTimestamp"] = "2026-11-28T01:00:00Z"
    container = {"name": "engine", "resources": {"limits": {"nvidia.com/gpu": "2"}}}
    pod = {"metadata": metadata, "spec": {"nodeName": node, "containers": [container]}, "status": status}
    return seen(pod, view(pod, service="a", port=80, engine="vllm", draining=draining))


def ended(num: int, code: int = 1, **words: Any) -> dict[str, Any]:
    last = {"exitCode": code, "finishedAt": "2026-11-28T00:00:00Z", **words}
    return {"name": "engine", "restartCount": num, "state": {"running": {}}, "lastState": {"terminated": last}}


NEW = look(node="", phase="Pending")
PLACED = look(phase="Pending")
READY_NOW = look(phase="Running", podIP="10.0.0.1", conditions=[READY])
CRASHING = look(
    containerStatuses=[{"name": "engine", "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}]
)
CASES: dict[str, tuple[Seen | None, Seen | None, list[tuple[str, str, tuple[str, ...]]]]] = {
    "a pod that is made holds nothing": (None, NEW, [("replica.starting", "Created", ())]),
    "a pod that is bound holds its node's GPUs": (NEW, PLACED, [("replica.starting", "Scheduled", GPUS)]),
    "a pod that no node can take says so": (
        NEW,
        look(node="", phase="Pending", conditions=[UNPLACED]),
        [("replica.starting", "Unschedulable", ())],
    ),
    "a pod that its queue holds says so": (
        NEW,
        look(node="", phase="Pending", conditions=[HELD]),
        [("replica.starting", "Gated", ())],
    ),
    "the same look again says nothing": (PLACED, PLACED, []),
    "a pod that gets ready": (PLACED, READY_NOW, [("replica.ready", "Ready", GPUS)]),
    "a pod that was missed while it started": (
        None,
        READY_NOW,
        [("replica.starting", "Created", GPUS), ("replica.ready", "Ready", GPUS)],
    ),
    "a pod that is bound and ready at one look": (
        NEW,
        READY_NOW,
        [("replica.starting", "Scheduled", GPUS), ("replica.ready", "Ready", GPUS)],
    ),
    "a ready pod that is so no more": (READY_NOW, PLACED, [("replica.starting", "NotReady", GPUS)]),
    "a pod that is drained holds its GPUs until it is gone": (
        READY_NOW,
        look(draining=True, phase="Running", podIP="10.0.0.1", conditions=[READY]),
        [("replica.stopping", "Stopping", GPUS)],
    ),
    "a pod that is gone holds nothing": (READY_NOW, None, [("replica.stopped", "Stopped", ())]),
    "a container that is started again": (
        look(phase="Running", containerStatuses=[{"name": "engine", "restartCount": 0, "state": {"running": {}}}]),
        look(phase="Running", containerStatuses=[ended(1)]),
        [("replica.failed", "ContainerEnded", GPUS)],
    ),
    "a pod that cannot start keeps its GPUs": (PLACED, CRASHING, [("replica.failed", "CannotStart", GPUS)]),
    "what cannot start is told once": (CRASHING, CRASHING, []),
    "an evicted pod holds nothing": (
        READY_NOW,
        look(phase="Failed", reason="Evicted"),
        [("replica.failed", "PodFailed", ())],
    ),
    "nothing, and nothing": (None, None, []),
}


@pytest.mark.parametrize("name", CASES)
def test_a_change_is_told_with_what_the_pod_holds_from_then_on(name: str) -> None:
    before, after, told = CASES[name]
    assert [(one.kind.value, one.reason, one.devices) for one in events_of(before, after)] == told


def test_a_pod_that_was_there_before_the_daemon_is_adopted_with_what_it_holds() -> None:
    (event,) = events_of(None, READY_NOW, adopted=True)
    assert (event.kind.value, event.devices, event.message) == ("replica.adopted", GPUS, "on node n1")


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (ended(1, 71), "container engine ended with status 71"),
        (ended(1, 137, reason="OOMKilled"), "container engine ended with status 137 (OOMKilled)"),
        (ended(1, 139, signal=11), "container engine ended with signal 11"),
        (ended(1, 1, reason="Error"), "container engine ended with status 1"),
        ({"name": "engine", "restartCount": 1, "state": {"running": {}}}, "a container ended"),
    ],
)  # fmt: skip
def test_an_end_is_told_as_the_kubelet_has_it(status: dict[str, Any], told: str) -> None:
    (event,) = events_of(look(), look(containerStatuses=[status]))
    assert event.message == f"{told}; its kubelet starts it again"


def test_what_no_node_can_take_is_told_in_the_schedulers_words() -> None:
    (event,) = events_of(NEW, look(node="", conditions=[UNPLACED]))
    assert event.message == f"waits for a node: {NO_ROOM}"


LOOKS = [
    NEW,
    PLACED,
    READY_NOW,
    CRASHING,
    look(deleted=True),
    look(phase="Failed"),
    look(node="", conditions=[UNPLACED]),
]


@given(st.lists(st.sampled_from(LOOKS), min_size=1, max_size=12))
def test_devices_are_held_as_long_as_a_pod_is_bound_and_has_not_failed_whatever_it_goes_through(
    looks: list[Seen],
) -> None:
    holds: tuple[str, ...] = ()
    before: Seen | None = None
    made: list[Event] = []
    for after in [*looks, None]:
        made = events_of(before, after)
        holds = made[-1].devices if made else holds
        if after is None:
            assert holds == ()
        elif after.view.replica.state.value != "failed" and made:
            assert holds == after.view.replica.devices
        before = after


def test_a_pod_that_ended_before_the_daemon_came_back_has_failed_at_the_kubelets_time_and_holds_nothing() -> None:
    end = {"exitCode": 1, "finishedAt": "2026-11-28T00:00:07Z"}
    after = look(phase="Failed", containerStatuses=[{"name": "engine", "state": {"terminated": end}}])
    (event,) = events_of(None, after, adopted=True)
    assert (event.kind.value, event.reason, event.devices) == ("replica.failed", "PodFailed", ())
    assert event.data["ended_at"] == "2026-11-28T00:00:07Z"
