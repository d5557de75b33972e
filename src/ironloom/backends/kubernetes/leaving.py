"""Which replicas go when fewer are wanted: a pure function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ironloom.serve.replica import Replica, ReplicaState


def leaving(live: Sequence[Replica], number: int, in_groups: Mapping[str, int | None]) -> list[Replica]:
    """Those that go when `number` stay: those not ready first, then the newest. A LeaderWorkerSet gives its last groups
    up, and asks nobody: `in_groups` has the index of each replica's group, None for a single pod."""
    ranked = sorted(
        live,
        key=lambda one: (in_groups[one.id] or 0, one.state is not ReplicaState.READY, one.since_s),
        reverse=True,
    )
    return ranked[: max(0, len(live) - number)]
