"""How long starts took, of pods and of the event log."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.account.events import Event, EventKind, StoredEvent
from ironloom.backends.kubernetes.starts import longest_start_s, start_s, starts_of


def pod(ready: str = "2026-01-01T00:05:00Z", *, restarts: int = 0, is_ready: bool = True) -> dict[str, Any]:
    return {
        "metadata": {"name": "a"},
        "status": {
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "Ready", "status": str(is_ready), "lastTransitionTime": ready},
            ],
            "containerStatuses": [{"name": "engine", "restartCount": restarts}],
        },
    }


def event(wall_time_s: float, kind: EventKind, reason: str, replica: str = "a") -> StoredEvent:
    made = Event(kind=kind, service="s", replica=replica, reason=reason)
    return StoredEvent(seq=0, wall_time_s=wall_time_s, monotonic_s=0, boot_id="", event=made)


@pytest.mark.parametrize(
    ("made", "took_s"),
    [
        (pod(), 300.0),
        (pod(is_ready=False), None),
        (pod(restarts=1), None),
        (pod(ready="soon"), None),
        ({"metadata": {"name": "a"}}, None),
    ],
)
def test_a_start_is_from_the_node_to_ready(made: dict[str, Any], took_s: float | None) -> None:
    assert start_s(made) == took_s


def test_the_log_knows_the_starts_of_replicas_that_are_gone_and_not_those_with_a_container_that_ended() -> None:
    starting, ready = EventKind.REPLICA_STARTING, EventKind.REPLICA_READY
    events = [
        event(0, starting, "Created"), event(10, starting, "Scheduled"), event(70, ready, "Ready"),
        event(80, starting, "NotReady"), event(90, ready, "Ready"),
        event(100, starting, "Scheduled", "b"), event(150, EventKind.REPLICA_FAILED, "ContainerEnded", "b"),
        event(999, ready, "Ready", "b"),
    ]  # fmt: skip
    assert starts_of(events) == [60]
    assert longest_start_s([pod()], events) == 300
    assert longest_start_s([], []) is None
