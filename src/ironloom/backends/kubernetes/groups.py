"""Pods that are one replica together: a leader, which answers, and workers that hold parts of its model. Functions of
objects alone.

A LeaderWorkerSet labels its pods with their group and their place in it. KServe names the container of a worker
`worker-container` and has one leader: https://kserve.github.io/website/docs/model-serving/generative-inference/multi-node
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ironloom.backends.kubernetes.names import GROUP_INDEX, WORKER_INDEX
from ironloom.backends.kubernetes.pods import PodView
from ironloom.serve.replica import ReplicaState

Pod = Mapping[str, Any]
WORKER_CONTAINER = "worker-container"


def is_worker(pod: Pod) -> bool:
    """Whether it is a part of another pod's replica, and no replica by itself."""
    place = _labels(pod).get(WORKER_INDEX)
    if place is not None:
        return place != "0"
    return any(one.get("name") == WORKER_CONTAINER for one in (pod.get("spec") or {}).get("containers") or ())


def group_index(pod: Pod) -> int | None:
    """Which group of a LeaderWorkerSet it belongs to; None for a pod of none."""
    text = _labels(pod).get(GROUP_INDEX, "")
    return int(text) if text.isdigit() else None


def views(pods: Iterable[Pod], view_of: Callable[[Pod], PodView]) -> list[PodView]:
    """The replicas of these pods, in their order: one for each that is no worker."""
    pods = list(pods)
    leaders = [pod for pod in pods if not is_worker(pod)]
    made = []
    for number, leader in enumerate(leaders):
        group = group_index(leader)
        # Workers without a group are those of the only leader.
        is_joined = number == 0 or group is not None
        own = [pod for pod in pods if is_worker(pod) and is_joined and group_index(pod) == group]
        made.append(_joined(view_of(leader), [(_place(pod), view_of(pod)) for pod in own]))
    return made


def _joined(leader: PodView, workers: Sequence[tuple[str, PodView]]) -> PodView:
    """A leader with what its workers hold, and while it starts with what they wait for."""
    if not workers:
        return leader
    replica = replace(
        leader.replica, devices=(*leader.replica.devices, *(one for _, view in workers for one in view.replica.devices))
    )
    failure = leader.failure or next((view.failure for _, view in workers if view.failure), None)
    if replica.state is ReplicaState.STARTING:
        waiting = [(place, view) for place, view in workers if view.replica.state is ReplicaState.STARTING]
        phase = replica.phase
        if leader.is_placed and waiting:
            place, view = next(((place, view) for place, view in waiting if not view.is_placed), waiting[0])
            phase = f"{view.replica.phase} (worker {place})"
        replica = replace(replica, phase=phase, reason=failure or phase)
    is_stuck = leader.is_stuck or any(view.is_stuck for _, view in workers)
    return replace(leader, replica=replica, failure=failure, is_stuck=is_stuck)


def _place(pod: Pod) -> str:
    return _labels(pod).get(WORKER_INDEX) or str(pod["metadata"]["name"])


def _labels(pod: Pod) -> Mapping[str, str]:
    labels: Mapping[str, str] = pod["metadata"].get("labels") or {}
    return labels
