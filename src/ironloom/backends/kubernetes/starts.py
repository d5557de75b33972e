"""How long starts took. Functions of pods and of the event log alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from ironloom.account.events import EventKind, StoredEvent

NUM_EVENTS = 1000
"""How far back the log of a service is read."""


def start_s(pod: Mapping[str, Any]) -> float | None:
    """Seconds from the moment a pod had a node until it was ready; None for one that is not, or one whose containers
    began anew meanwhile: what counts then is the last of several starts."""
    status = pod.get("status") or {}
    if any(one.get("restartCount") for one in status.get("containerStatuses") or ()):
        return None
    since = {
        one.get("type"): str(one.get("lastTransitionTime") or "")
        for one in status.get("conditions") or ()
        if one.get("status") == "True"
    }
    try:
        begun, ready = (datetime.fromisoformat(since[name]) for name in ("PodScheduled", "Ready"))
    except (KeyError, ValueError):
        return None
    took_s = (ready - begun).total_seconds()
    return took_s if took_s >= 0 else None


def starts_of(events: Iterable[StoredEvent]) -> list[float]:
    """Seconds from a replica's node to its being ready, of each whose containers did not end meanwhile. The events are
    in their order."""
    begun: dict[str, float] = {}
    found = []
    for stored in events:
        event = stored.event
        if event.kind is EventKind.REPLICA_STARTING and event.reason in {"Created", "Scheduled"}:
            begun[event.replica] = stored.wall_time_s
        elif event.kind is EventKind.REPLICA_READY and event.replica in begun:
            found.append(max(0.0, stored.wall_time_s - begun.pop(event.replica)))
        elif event.reason == "ContainerEnded":
            begun.pop(event.replica, None)
    return found


def longest_start_s(pods: Iterable[Mapping[str, Any]], events: Iterable[StoredEvent]) -> float | None:
    """Of the pods that are there and of what the event log has; None where nothing was seen."""
    seen = [took_s for pod in pods if (took_s := start_s(pod)) is not None]
    return max((*seen, *starts_of(events)), default=None)
