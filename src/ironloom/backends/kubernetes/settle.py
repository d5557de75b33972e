"""Pods that went while no gateway looked: what the event log is told of them at the next start. A function of values.

Without that a replica would hold its devices in the log for ever. When exactly it ended nobody saw: the log is told
between which two moments.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from datetime import UTC, datetime

from ironloom.account.events import Event, EventKind, StoredEvent


def settled(
    left: Iterable[StoredEvent],
    *,
    there: Container[str],
    where: Mapping[str, str],
    last_seen_s: float,
    now_s: float,
) -> list[Event]:
    """An end for each replica that an earlier gateway left and that is not there any more.

    `left` is the last event of each replica that was not told to be stopped; `where` are the entries of an event's data
    that say which cluster and namespace it is of: those of another one are left alone. `last_seen_s` and `now_s` are
    wall clocks: when the last gateway wrote its last record, and this one looked.
    """
    found = []
    for one in left:
        event = one.event
        is_here = all(event.data.get(key) == value for key, value in where.items())
        if not is_here or event.replica in there:
            continue
        after_s = min(max(one.wall_time_s, last_seen_s), now_s)
        found.append(
            Event(
                kind=EventKind.REPLICA_STOPPED,
                service=event.service,
                replica=event.replica,
                reason="GoneMeanwhile",
                message=f"it was gone when a gateway looked again: it ended between {_moment(after_s)} and"
                f" {_moment(now_s)}",
                data={**event.data, "ended_after_s": after_s, "ended_before_s": now_s},
            )
        )
    return found


def _moment(wall_s: float) -> str:
    return f"{datetime.fromtimestamp(wall_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
