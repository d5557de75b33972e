"""What the event log is told of pods: each change of a replica's state, its node, its ends. Functions of views alone.

A pod holds its node's devices from the moment it is bound until it is gone, whatever its containers do; so does each of
these events, and the sum of them is what the service used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ironloom.account.events import Event, EventKind
from ironloom.backends.kubernetes.pods import GATED, UNSCHEDULABLE, PodView
from ironloom.serve.replica import Replica, ReplicaState

_HELD = {UNSCHEDULABLE: "Unschedulable", GATED: "Gated"}
"""By how a phase begins."""
_KINDS = {
    ReplicaState.READY: (EventKind.REPLICA_READY, "Ready"),
    ReplicaState.STOPPING: (EventKind.REPLICA_STOPPING, "Stopping"),
    ReplicaState.FAILED: (EventKind.REPLICA_FAILED, "PodFailed"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What events are made of."""

    view: PodView
    num_ends: int
    """How often a container of it has ended and was started again."""
    last_end: str
    """How the last one ended; empty before the first."""
    ended_at: str = ""
    """When the last container of a pod that has ended did, as its kubelet says; empty for one that has not."""


def seen(pod: Mapping[str, Any], view: PodView) -> Seen:
    """A pod and how it was viewed."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    ended = [one for one in statuses if (one.get("lastState") or {}).get("terminated")]
    last = max(ended, key=lambda one: str(one["lastState"]["terminated"].get("finishedAt", "")), default=None)
    how = f"container {last['name']} ended with {_status_of(last['lastState']['terminated'])}" if last else ""
    ends = [str(((one.get("state") or {}).get("terminated") or {}).get("finishedAt") or "") for one in statuses]
    return Seen(
        view=view,
        num_ends=sum(int(one.get("restartCount", 0)) for one in statuses),
        last_end=how,
        ended_at=max(ends) if ends and all(ends) else "",
    )


def _status_of(end: Mapping[str, Any]) -> str:
    status = f"signal {end['signal']}" if end.get("signal") else f"status {end.get('exitCode')}"
    reason = end.get("reason")
    return f"{status} ({reason})" if reason and reason not in {"Error", "Completed"} else status


def events_of(before: Seen | None, after: Seen | None, *, adopted: bool = False) -> list[Event]:
    """From one look at a pod to the next; None: it was not there, or is there no more. `adopted`: it was there before
    this daemon was."""
    if after is None:
        return (
            [] if before is None else [_event(EventKind.REPLICA_STOPPED, "Stopped", before.view.replica, "it is gone")]
        )
    replica, view = after.view.replica, after.view
    if before is None:
        if adopted and replica.state is ReplicaState.FAILED:
            return _changes(None, after)  # it holds nothing any more
        if adopted:
            return [_event(EventKind.REPLICA_ADOPTED, "Adopted", replica, _where(replica), devices=replica.devices)]
        first = _event(EventKind.REPLICA_STARTING, "Created", replica, replica.phase, devices=replica.devices)
        return [first, *_changes(None, after)] if replica.state is not ReplicaState.STARTING else [first]
    made = []
    if view.is_placed and (not before.view.is_placed or replica.devices != before.view.replica.devices):
        made.append(_event(EventKind.REPLICA_STARTING, "Scheduled", replica, _where(replica), devices=replica.devices))
    elif replica.phase != before.view.replica.phase:
        reasons = [reason for begin, reason in _HELD.items() if replica.phase.startswith(begin)]
        made += [_event(EventKind.REPLICA_STARTING, reason, replica, replica.phase) for reason in reasons]
    if after.num_ends > before.num_ends:
        told = f"{after.last_end or 'a container ended'}; its kubelet starts it again"
        made.append(_event(EventKind.REPLICA_FAILED, "ContainerEnded", replica, told, devices=replica.devices))
    if view.failure is not None and view.failure != before.view.failure:
        made.append(_event(EventKind.REPLICA_FAILED, "CannotStart", replica, view.failure, devices=replica.devices))
    return made + _changes(before, after)


def _changes(before: Seen | None, after: Seen) -> list[Event]:
    """Of its state."""
    replica = after.view.replica
    state, was = replica.state, before.view.replica.state if before is not None else ReplicaState.STARTING
    if state is was:
        return []
    if state is ReplicaState.STARTING:
        message = replica.phase or "it is not ready any more"
        return [_event(EventKind.REPLICA_STARTING, "NotReady", replica, message, devices=replica.devices)]
    kind, reason = _KINDS[state]
    holds = () if state is ReplicaState.FAILED else replica.devices
    made = _event(kind, reason, replica, replica.reason, devices=holds)
    if state is ReplicaState.FAILED and after.ended_at:
        made = replace(made, data={**made.data, "ended_at": after.ended_at})
    return [made]


def _where(replica: Replica) -> str:
    node = replica.devices[0].rpartition("/")[0] if replica.devices else ""
    return f"on node {node}" if node else ""


def _event(kind: EventKind, reason: str, replica: Replica, message: str, *, devices: tuple[str, ...] = ()) -> Event:
    return Event(
        kind=kind,
        service=replica.service,
        replica=replica.id,
        reason=reason,
        message=message,
        devices=devices,
        data={"engine": replica.engine, "generation": replica.generation},
    )
