"""Pods that went while no gateway looked."""

from __future__ import annotations

from ironloom.account.events import Event, EventKind, StoredEvent
from ironloom.backends.kubernetes.settle import settled

HERE = {"cluster": "https://a:6443", "namespace": "models"}
KINDS = [EventKind.REPLICA_STARTING, EventKind.REPLICA_READY, EventKind.REPLICA_STOPPING, EventKind.REPLICA_FAILED]


def last(replica: str, kind: EventKind = EventKind.REPLICA_READY, at_s: float = 100.0, **data: object) -> StoredEvent:
    event = Event(
        kind=kind, service="chat", replica=replica, devices=("n1/gpu",), data={"generation": 2, **HERE, **data}
    )
    return StoredEvent(seq=1, wall_time_s=at_s, monotonic_s=1.0, boot_id="b", event=event)


def told(*left: StoredEvent, there: tuple[str, ...] = (), last_seen_s: float = 500.0) -> list[Event]:
    return settled(left, there=there, where=HERE, last_seen_s=last_seen_s, now_s=1000.0)


def test_a_replica_that_is_gone_ends_between_the_last_record_and_now_and_holds_nothing() -> None:
    (event,) = told(last("chat-a"))
    assert (event.kind, event.reason, event.replica, event.devices) == (
        EventKind.REPLICA_STOPPED,
        "GoneMeanwhile",
        "chat-a",
        (),
    )
    assert (event.data["ended_after_s"], event.data["ended_before_s"], event.data["generation"]) == (500.0, 1000.0, 2)
    assert "between 1970-01-01 00:08:20 UTC and 1970-01-01 00:16:40 UTC" in event.message


def test_whatever_was_told_of_it_last_it_is_settled_unless_it_is_there() -> None:
    left = [last(f"chat-{number}", kind) for number, kind in enumerate(KINDS)]
    assert [event.replica for event in told(*left)] == [f"chat-{number}" for number in range(len(KINDS))]
    assert [event.replica for event in told(*left, there=("chat-0", "chat-2"))] == ["chat-1", "chat-3"]


def test_replicas_of_another_cluster_or_namespace_or_of_this_machine_are_left_alone() -> None:
    other = last("chat-a", cluster="https://b:6443"), last("chat-b", namespace="other")
    local = StoredEvent(seq=1, wall_time_s=1.0, monotonic_s=1.0, boot_id="b",
                        event=Event(kind=EventKind.REPLICA_READY, service="chat", replica="chat-c"))  # fmt: skip
    assert told(*other, local) == []


def test_a_clock_that_was_ahead_gives_no_end_after_now() -> None:
    (event,) = told(last("chat-a", at_s=2000.0), last_seen_s=3000.0)
    assert (event.data["ended_after_s"], event.data["ended_before_s"]) == (1000.0, 1000.0)
