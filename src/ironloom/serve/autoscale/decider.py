"""How many replicas the load asks for: Knative's pod autoscaler as a pure function.

    R    = max(1, ready + starting)
    up   = ceil(max_scale_up_rate * R)          down = floor(R / max_scale_down_rate)
    want = clamp(ceil(average / target), down, up)        for the stable and for the panic window

    The panic window alone wants `panic_threshold` times R or more: panic. While it lasts the count only rises; it ends
    a stable window after the last time the threshold was crossed. With a scale-down delay the answer is the highest
    of the last so many seconds.

Source: knative/serving pkg/autoscaler/scaling/autoscaler.go (`Scale`); the vectors of its test stand in
tests/serve/autoscale/test_autoscale_decider.py. Two things differ, because an engine loads for minutes, not seconds:

- R counts replicas that are starting. Knative counts ready pods only, so that `dp / R` stays over the threshold, and
  the panic goes on, through a whole load.
- A panic does not end while a replica is starting: the surge has not met its replicas yet.

Excess burst capacity (whether the activator stays in the path) has no part here: the gateway always is in the path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ironloom.units import format_duration
from ironloom.workload.serving import ScaleMetric, Scaling

TICK_S = 2.0
"""How often a service is decided on. Source: Knative's tickInterval."""
MAX_SCALE_UP_RATE = 1000.0
MAX_SCALE_DOWN_RATE = 2.0
"""Knative's defaults (config-autoscaler): up without a bound that matters, down by half at a time."""
DEFAULT_TARGET_CONCURRENCY = 100.0
DEFAULT_TARGET_RPS = 200.0
"""Knative's container-concurrency-target-default and requests-per-second-target-default."""
MIN_TARGET = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class DeciderSpec:
    """The settings of one service's decider."""

    target: float
    """Load that one replica is meant to carry, utilisation already applied."""
    stable_window_s: float = 60.0
    panic_threshold: float = 2.0
    max_scale_up_rate: float = MAX_SCALE_UP_RATE
    max_scale_down_rate: float = MAX_SCALE_DOWN_RATE
    activation_scale: int = 1
    scale_down_delay_s: float = 0.0
    reachable: bool = True
    """False for a service that no new request can reach: neither the down rate nor the delay holds it up."""
    unit: str = "requests in flight"


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What was seen. `stable` and `panic` are the windows' averages over the whole service."""

    stable: float
    panic: float
    num_ready: int
    num_starting: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class DeciderState:
    """What one decision hands to the next."""

    panic_since_s: float | None = None
    max_panic: int = 0
    recent: tuple[tuple[int, int], ...] = ()
    """(tick, count): falling counts that were wanted within the delay; the first is the highest."""

    @property
    def panicking(self) -> bool:
        return self.panic_since_s is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """How many replicas the load asks for, before bounds, and why."""

    num_replicas: int
    num_now: int
    """What the load of this moment alone asks for. `num_replicas` is above it where a panic or the scale-down delay
    keeps what was wanted before: reason to keep replicas, none to start more."""
    panicking: bool
    reason: str


def spec_for(scaling: Scaling, *, max_concurrency: int) -> DeciderSpec:
    """The decider's settings for a service. `max_concurrency`: the engine's useful batch, 0 when it is not known.

    Source of target and clamp: knative/serving pkg/reconciler/autoscaling/resources/target.go. Where Knative takes 100
    for a service without a limit of its own, the engine's useful batch is the better guess, if it is known.
    """
    limit = scaling.container_concurrency
    if scaling.metric is ScaleMetric.RPS:
        total = DEFAULT_TARGET_RPS if scaling.target is None else scaling.target
    else:
        total = float(limit or max_concurrency or DEFAULT_TARGET_CONCURRENCY)
        if scaling.target is not None:
            total = scaling.target
        if limit:
            total = min(total, float(limit))
    return DeciderSpec(
        target=max(MIN_TARGET, total * scaling.target_utilization_fraction),
        stable_window_s=scaling.stable_window_s,
        panic_threshold=scaling.panic_threshold_fraction,
        activation_scale=scaling.activation_scale,
        scale_down_delay_s=scaling.scale_down_delay_s,
        unit="requests a second" if scaling.metric is ScaleMetric.RPS else "requests in flight",
    )


def panic_window_s(scaling: Scaling) -> float:
    """Seconds of the panic window: whole, at least one. Source: knative/serving resources/metric.go."""
    return float(max(1, round(scaling.stable_window_s * scaling.panic_window_fraction)))


def restarted(num_replicas: int, now_s: float) -> DeciderState:
    """The state to begin with when `num_replicas` are there already.

    With more than one it begins in panic with that many: the history is lost, and an empty window must not shrink a
    service that carries load. Source: autoscaler.go (`newAutoscaler`).
    """
    if num_replicas > 1:
        return DeciderState(panic_since_s=now_s, max_panic=num_replicas)
    return DeciderState()


def decide(state: DeciderState, observed: Observation, spec: DeciderSpec, now_s: float) -> tuple[DeciderState, Wanted]:
    """One decision. Pure: the same arguments give the same answer."""
    num_replicas = max(1, observed.num_ready + observed.num_starting)
    # The ceiling lets a rate near one still grow by one: rate 1.1, R = 2, target 1, load 3 -> 3, not 2.
    up = math.ceil(spec.max_scale_up_rate * num_replicas)
    down = math.floor(num_replicas / spec.max_scale_down_rate) if spec.reachable else 0
    stable = math.ceil(observed.stable / spec.target)
    panic = math.ceil(observed.panic / spec.target)
    want_stable = _activated(min(max(stable, down), up), stable, spec)
    want_panic = _activated(min(max(panic, down), up), panic, spec)

    over = panic / num_replicas >= spec.panic_threshold
    state = _panic(state, over=over, starting=observed.num_starting > 0, spec=spec, now_s=now_s)
    want = want_stable
    if state.panicking:
        want = max(state.max_panic, want_stable, want_panic)
        state = replace(state, max_panic=want)
    unheld = want
    num_now = max(want_stable, want_panic) if state.panicking else want_stable
    if spec.reachable and spec.scale_down_delay_s > 0:
        state, want = _delayed(state, want, spec, now_s)
    elif state.recent:
        state = replace(state, recent=())
    reason = _reason(state, observed, spec, want=want, unheld=unheld, now_s=now_s)
    return state, Wanted(num_replicas=want, num_now=num_now, panicking=state.panicking, reason=reason)


def _activated(want: int, unclamped: int, spec: DeciderSpec) -> int:
    return max(want, spec.activation_scale) if unclamped > 0 else want


def _panic(state: DeciderState, *, over: bool, starting: bool, spec: DeciderSpec, now_s: float) -> DeciderState:
    if over:
        return replace(state, panic_since_s=now_s)
    since_s = state.panic_since_s
    if since_s is not None and since_s + spec.stable_window_s < now_s and not starting:
        return replace(state, panic_since_s=None, max_panic=0)
    return state


def _delayed(state: DeciderState, want: int, spec: DeciderSpec, now_s: float) -> tuple[DeciderState, int]:
    """The highest count wanted in the last `scale_down_delay_s`, in steps of a tick.

    Source: knative/serving pkg/autoscaler/aggregation/max/window.go: a falling sequence, so that the first is the
    highest and each count is dropped once.
    """
    tick = math.floor(now_s / TICK_S)
    num_ticks = math.ceil(spec.scale_down_delay_s / TICK_S)
    kept = [(at, count) for at, count in state.recent if tick - at < num_ticks and count > want]
    kept.append((tick, want))
    return replace(state, recent=tuple(kept)), kept[0][1]


def _reason(
    state: DeciderState, observed: Observation, spec: DeciderSpec, *, want: int, unheld: int, now_s: float
) -> str:
    load = f"{round(observed.stable, 2):g} {spec.unit} on average over {format_duration(spec.stable_window_s)}"
    if state.panic_since_s is not None:
        since = format_duration(now_s - state.panic_since_s)
        load = f"panic, surge seen {since} ago: {round(observed.panic, 2):g} {spec.unit}, {load}"
    text = f"{load}; a replica takes {round(spec.target, 2):g}"
    if want > unheld:
        text += f"; {want} kept for {format_duration(spec.scale_down_delay_s)} before going down to {unheld}"
    return text
