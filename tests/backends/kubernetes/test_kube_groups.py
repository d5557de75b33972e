"""Pods that are one replica together."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.backends.kubernetes import groups
from ironloom.backends.kubernetes.pods import PodView, view
from ironloom.backends.kubernetes.replica_events import events_of, seen
from ironloom.serve.replica import ReplicaState


def pod(name: str, *, group: int | None = None, place: int | None = None, ready: bool = False, node: str = "n1",
        container: str = "engine", waiting: str = "") -> dict[str, Any]:  # fmt: skip
    labels = {}
    if group is not None:
        labels["leaderworkerset.sigs.k8s.io/group-index"] = str(group)
    if place is not None:
        labels["leaderworkerset.sigs.k8s.io/worker-index"] = str(place)
    conditions = [{"type": "Ready", "status": str(ready)}]
    if not node:
        conditions.append({"type": "PodScheduled", "status": "False", "message": "0/4 nodes are available"})
    state = {"waiting": {"reason": waiting, "message": "no such image"}} if waiting else {"running": {}}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "nodeName": node,
            "containers": [{"name": container, "resources": {"limits": {"nvidia.com/gpu": "8"}}}],
        },
        "status": {
            "podIP": "10.0.0.1",
            "conditions": conditions,
            "containerStatuses": [{"name": container, "ready": ready, "state": state}],
        },
    }


def one_view(pod: dict[str, Any]) -> PodView:
    return view(pod, service="a", port=8000, engine="vllm")


def views(*pods: dict[str, Any]) -> list[PodView]:
    return groups.views(pods, one_view)  # type: ignore[arg-type]


def test_each_group_is_one_replica_that_holds_the_devices_of_all_its_pods() -> None:
    found = views(
        pod("a-0", group=0, place=0, ready=True), pod("a-1", group=1, place=0, node="n2"),
        pod("a-0-1", group=0, place=1, ready=True, node="n3"), pod("a-1-1", group=1, place=1, node="n4"),
    )  # fmt: skip
    assert [one.replica.id for one in found] == ["a-0", "a-1"]
    assert [one.replica.state for one in found] == [ReplicaState.READY, ReplicaState.STARTING]
    assert found[0].replica.devices == ("n1/gpu",) * 8 + ("n3/gpu",) * 8
    assert found[1].replica.devices == ("n2/gpu",) * 8 + ("n4/gpu",) * 8


def test_a_leader_that_starts_waits_for_what_its_workers_wait_for() -> None:
    leader = pod("a-0", group=0, place=0)
    [one] = views(leader, pod("a-0-1", group=0, place=1, ready=True), pod("a-0-2", group=0, place=2, node=""))
    assert one.replica.phase == "waits for a node: 0/4 nodes are available (worker 2)"
    assert one.failure is None
    [one] = views(leader, pod("a-0-1", group=0, place=1, waiting="ErrImagePull"))
    assert one.failure is not None
    assert "a-0-1" in one.failure
    assert one.replica.reason == one.failure


def test_a_pod_of_no_group_is_a_replica_by_itself() -> None:
    assert [one.replica.id for one in views(pod("x"), pod("y"))] == ["x", "y"]


def test_the_workers_of_a_predictor_of_kserve_are_no_replicas() -> None:
    leader = pod("a-predictor-1", container="kserve-container", ready=True)
    worker = pod("a-predictor-worker-1", container="worker-container", ready=True, node="n2")
    [one] = views(worker, leader)
    assert one.replica.id == "a-predictor-1"
    assert len(one.replica.devices) == 16


@pytest.mark.parametrize(("group", "index"), [(None, None), (3, 3)])
def test_which_group_is_read_from_the_label(group: int | None, index: int | None) -> None:
    assert groups.group_index(pod("a", group=group)) == index


def test_a_worker_that_is_bound_later_is_an_event_with_all_the_devices_that_are_held_then() -> None:
    leader = pod("a-0", group=0, place=0)
    [before] = views(leader, pod("a-0-1", group=0, place=1, node=""))
    [after] = views(leader, pod("a-0-1", group=0, place=1, node="n2"))
    [event] = events_of(seen(leader, before), seen(leader, after))
    assert event.reason == "Scheduled"
    assert event.devices == ("n1/gpu",) * 8 + ("n2/gpu",) * 8
