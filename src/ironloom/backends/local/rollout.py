"""What to do next with a service's replicas when its manifest changed. Pure.

The new generation is ready before the old one drains, one replica at a time: this machine has to hold both meanwhile.
If the new one fails, the old ones stay as they are, and parked old ones may be woken for requests.

A manifest that changes while nothing is ready starts nothing: the next order for a replica starts the new generation.
Parked replicas of the old one are kept until then, in case it fails.
"""

from __future__ import annotations

from collections.abc import Sequence

from ironloom.backends.local.reconcile import Actions, Member, reconcile
from ironloom.serve.replica import LIVE_STATES, ScaleOrder
from ironloom.serve.replica import ReplicaState as State


def decide(
    members: Sequence[Member],
    order: ScaleOrder,
    *,
    generation: int,
    failing: bool,
    may_start: bool,
    now_s: float,
) -> Actions:
    """The next actions for a service whose current generation is `generation`.

    `failing`: the last start of this generation failed, and none has got ready since. `may_start`: no crash loop is
    backing off.
    """
    live = [member for member in members if member.state in LIVE_STATES]
    new = [member for member in live if member.generation == generation]
    old = [member for member in live if member.generation != generation]
    num_ready = order.num_ready
    if not old:
        max_starts = num_ready if may_start else 0
        return reconcile(new, num_ready=num_ready, num_parked=order.num_parked, max_starts=max_starts, now_s=now_s)

    new_ready = sum(member.state is State.READY for member in new)
    new_coming = sum(member.state in (State.STARTING, State.WAKING) for member in new)
    # An old one that never was ready has nothing to keep.
    unborn = tuple(member.id for member in old if member.state is State.STARTING)
    old = [member for member in old if member.state is not State.STARTING]
    serving = sum(member.state in (State.READY, State.WAKING) for member in old)

    proven = new_ready > 0
    num_old_parked = sum(member.state in (State.PARKED, State.PARKING) for member in old)
    keep_parked = 0 if proven else max(order.num_parked, num_old_parked if num_ready else 0)
    keep = max(0, num_ready - new_ready)
    for_old = reconcile(
        old, num_ready=keep if failing else min(keep, serving), num_parked=keep_parked, max_starts=0, now_s=now_s
    )
    uncovered = num_ready - new_ready - new_coming - serving
    max_starts = max(uncovered, 0 if new_coming else 1) if may_start else 0
    num_parked = order.num_parked if proven else 0
    for_new = reconcile(new, num_ready=num_ready, num_parked=num_parked, max_starts=max_starts, now_s=now_s)
    return Actions(stop=unborn) + for_old + for_new
