"""The last step down: when the last replica goes, and whether it is parked first.

Knative's scaler hands traffic to its activator, waits for the network, and then scales to zero
(knative/serving pkg/reconciler/autoscaling/kpa/scaler.go, `handleScaleToZero`). Here the gateway is always in the path,
so its probe and grace period fall away; what stays is: ready for at least a stable window, the retention, and a wake at
once. What an engine that loads for minutes adds: a start is not idle time.

    want > 0 or work ──► serving ──want 0──► lingering (retention) ──► parked (park-for) ──► zero
                            ▲                     │                        │                   │
                            └──────── a request, or load in the window ◄───┴───────────────────┘
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ironloom.serve.replica import ScaleOrder
from ironloom.units import format_duration


@dataclass(frozen=True, kw_only=True, slots=True)
class ZeroRules:
    """The settings of one service."""

    stable_window_s: float
    retention_s: float
    park_for_s: float
    """How long a replica is parked before it is stopped; 0 stops at once, infinity never."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What is there now."""

    num_work: int
    """Requests in flight and held."""
    num_ready: int
    num_starting: int
    """Starting or waking."""
    num_parked: int
    """Parked or parking."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ZeroState:
    """What one decision hands to the next."""

    ready_since_s: float | None = None
    idle_since_s: float | None = None
    parked_since_s: float | None = None
    at_zero: bool = False
    """Decided to be at zero: a replica that is still draining does not undo it, only a request or load does."""


def settle(
    state: ZeroState, want: int, reason: str, seen: Seen, rules: ZeroRules, *, cannot_park: str | None, now_s: float
) -> tuple[ZeroState, ScaleOrder]:
    """The order that follows from `want` replicas. Never zero with a request in flight or held, or while starting."""
    if seen.num_ready == 0:
        state = replace(state, ready_since_s=None)
    elif state.ready_since_s is None:
        state = replace(state, ready_since_s=now_s)
    if want > 0 or seen.num_work > 0:
        if want == 0:
            reason = f"{requests_text(seen.num_work)} in flight or held"
        return stay_up(state), ScaleOrder(num_ready=max(1, want), reason=reason)
    if seen.num_starting > 0 and not state.at_zero:
        return stay_up(state), ScaleOrder(num_ready=1, reason="a start is not idle time")
    if seen.num_ready > 0 and not state.at_zero:
        waits = _lingers(state, rules, now_s)
        if waits is not None:
            idle_since_s = now_s if state.idle_since_s is None else state.idle_since_s
            return replace(state, idle_since_s=idle_since_s), ScaleOrder(num_ready=1, reason=waits)
    return park_or_stop(state, seen, rules, cannot_park=cannot_park, now_s=now_s)


def stay_up(state: ZeroState) -> ZeroState:
    """The state of a service that is to be up."""
    return ZeroState(ready_since_s=state.ready_since_s)


def park_or_stop(
    state: ZeroState, seen: Seen, rules: ZeroRules, *, cannot_park: str | None, now_s: float
) -> tuple[ZeroState, ScaleOrder]:
    """At zero: parked as long as the rules say, then stopped."""
    state = replace(state, idle_since_s=None, at_zero=True)
    num_kept = seen.num_ready + seen.num_parked
    if num_kept == 0:
        why = "no load" if seen.num_starting else "no load, and no replica is up"
        return replace(state, parked_since_s=None), ScaleOrder(num_ready=0, reason=why)
    if rules.park_for_s <= 0 or cannot_park is not None:
        why = f"no load; {cannot_park}" if rules.park_for_s > 0 else "no load"
        return replace(state, parked_since_s=None), ScaleOrder(num_ready=0, reason=why)
    since_s = now_s if state.parked_since_s is None else state.parked_since_s
    if now_s - since_s >= rules.park_for_s:
        reason = f"parked for {format_duration(rules.park_for_s)} without a request"
        return replace(state, parked_since_s=since_s), ScaleOrder(num_ready=0, reason=reason)
    until = "parked until the next request"
    if math.isfinite(rules.park_for_s):
        until = f"parked for {format_duration(rules.park_for_s)}, then stopped"
    return replace(state, parked_since_s=since_s), ScaleOrder(
        num_ready=0, num_parked=num_kept, reason=f"no load; {until}"
    )


def _lingers(state: ZeroState, rules: ZeroRules, now_s: float) -> str | None:
    """Why the last replica stays for now; None when it may go."""
    assert state.ready_since_s is not None
    up_s = now_s - state.ready_since_s
    if up_s < rules.stable_window_s:
        return f"ready for {format_duration(up_s)}; stays at least {format_duration(rules.stable_window_s)}"
    idle_s = 0.0 if state.idle_since_s is None else now_s - state.idle_since_s
    if idle_s < rules.retention_s:
        return f"idle for {format_duration(idle_s)}; retained for {format_duration(rules.retention_s)}"
    return None


def requests_text(count: int) -> str:
    """`1 request`, `2 requests`."""
    return "1 request" if count == 1 else f"{count} requests"
