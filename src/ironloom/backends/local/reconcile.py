"""What to do next with the replicas of one generation. Pure.

More wanted: wake parked ones first, start the rest. Fewer wanted: give up those not yet ready first, then the newest,
and park instead of stop as long as parked ones are wanted. A mix of generations goes through rollout.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ironloom.serve.replica import ReplicaState as State

PARK_PATIENCE_S = 5.0
"""A replica that has been parking for less counts as one that can be woken in a moment. After that (it drains a long
request, or its engine hangs) a start is the surer way to one more that is ready."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """What the decision needs to know of a replica."""

    id: str
    generation: int
    state: State
    since_s: float = 0.0
    """When it came into its state."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Actions:
    """What to do now. Empty when all is as ordered, or on its way."""

    num_starts: int = 0
    wake: tuple[str, ...] = ()
    park: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()

    def __add__(self, other: Actions) -> Actions:
        return Actions(
            num_starts=self.num_starts + other.num_starts,
            wake=self.wake + other.wake,
            park=self.park + other.park,
            stop=self.stop + other.stop,
        )


def reconcile(members: Sequence[Member], *, num_ready: int, num_parked: int, max_starts: int, now_s: float) -> Actions:
    """Bring these to `num_ready` ready and `num_parked` parked, with at most `max_starts` starts now."""

    def newest(state: State) -> list[Member]:
        return sorted((m for m in members if m.state is state), key=lambda m: (m.since_s, m.id), reverse=True)

    parked, parking = newest(State.PARKED), newest(State.PARKING)
    live = newest(State.STARTING) + newest(State.WAKING) + newest(State.READY)

    if (missing := num_ready - len(live)) > 0:
        wake, parked = parked[:missing], parked[missing:]
        missing -= len(wake)
        # Those that were about to be parked are woken as soon as they are.
        missing -= min(missing, sum(now_s - member.since_s < PARK_PATIENCE_S for member in parking))
        return Actions(num_starts=min(missing, max_starts), wake=_ids(wake), stop=_ids(parked[num_parked:]))

    num_to_park = max(0, num_parked - len(parked) - len(parking))
    park, stop = [], parked[num_parked:]
    for member in live[: len(live) - num_ready]:
        if num_to_park and member.state is not State.STARTING:
            num_to_park -= 1
            if member.state is State.READY:
                park.append(member)
            # A waking one cannot be parked before it is ready; it is left to get there.
        else:
            stop.append(member)
    return Actions(park=_ids(park), stop=_ids(stop))


def _ids(members: Sequence[Member]) -> tuple[str, ...]:
    return tuple(member.id for member in members)
