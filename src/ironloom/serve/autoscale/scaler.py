"""The one writer of a service's replica count.

Each tick it takes the load since the last one, asks the deciders, and hands the backend an order when it differs from
the last. It owns the windows and the deciders' states, and nothing else; the clock and the loop are the daemon's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from ironloom.serve.autoscale.bounds import Ask, ask, bound
from ironloom.serve.autoscale.decider import (
    TICK_S,
    DeciderState,
    Observation,
    Wanted,
    decide,
    panic_window_s,
    restarted,
    spec_for,
)
from ironloom.serve.autoscale.window import Window
from ironloom.serve.autoscale.zero import Seen, ZeroRules, ZeroState, park_or_stop, requests_text, settle, stay_up
from ironloom.serve.replica import ReplicaState, ScaleOrder, ServiceReplicas
from ironloom.workload.serving import ScaleMetric, Serving

__all__ = ["TICK_S", "Decision", "ServiceScaler"]

GIVE_UP_AFTER_DEADLINE_S = 30.0
"""A first start that never got ready is given up so long after its deadline. Source: Knative's activation timeout."""
STARTING = frozenset({ReplicaState.STARTING, ReplicaState.WAKING})
PARKED = frozenset({ReplicaState.PARKED, ReplicaState.PARKING})


class LoadSample(Protocol):
    """Load since the last sample: average of requests in flight and held, and requests a second."""

    @property
    def concurrency(self) -> float: ...
    @property
    def rps(self) -> float: ...


class Load(Protocol):
    """What the scaler asks of a service's pool."""

    @property
    def in_flight(self) -> int: ...
    @property
    def num_held(self) -> int: ...
    def sample(self, now_s: float, /) -> LoadSample: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The last decision: what was ordered, why, and the numbers behind it."""

    order: ScaleOrder
    at_s: float
    stable: float = 0.0
    panic: float = 0.0
    """Averages over the stable and the panic window, in the service's metric."""
    target: float = 0.0
    """Load that one replica is meant to carry, utilisation applied."""
    panicking: bool = False

    @property
    def reason(self) -> str:
        return self.order.reason


class ServiceScaler:
    """Decides one service. Single-threaded; every method returns at once.

    `now_s` is seconds of one monotonic clock, the same for every method. `order` is called when the order changes.
    `can_park` says None, or why a replica of this service cannot be parked. `was_ready` is True for a service that has
    been ready before (the daemon was started anew): its initial scale then counts no more, so that what was at zero
    stays there.
    """

    def __init__(
        self,
        serving: Serving,
        *,
        pool: Load,
        order: Callable[[ScaleOrder], None],
        can_park: Callable[[], str | None],
        default_park_for_s: float,
        was_ready: bool = False,
    ) -> None:
        self._serving = serving
        self._pool = pool
        self._order = order
        self._can_park = can_park
        self._default_park_for_s = default_park_for_s
        self._stable = Window(serving.scaling.stable_window_s)
        self._panic = Window(panic_window_s(serving.scaling))
        self._report = ServiceReplicas(service=serving.name)
        self._max_concurrency = 0
        self._was_ready = was_ready
        self._pinned: int | None = None
        self._to_zero: bool | None = None
        """Set while an order of a person's to go to zero stands: whether to park."""
        self._first_tick_s: float | None = None
        self._last_tick_s = 0.0
        self._decider = DeciderState()
        self._zero = ZeroState()
        self._ask = Ask()
        self.decision: Decision | None = None

    @property
    def pinned(self) -> int | None:
        return self._pinned

    @property
    def max_concurrency(self) -> int:
        """Requests that one replica runs at once to good use, as last reported; 0 is not known."""
        return self._max_concurrency

    @property
    def target(self) -> float:
        """Load that one replica is meant to carry, utilisation applied."""
        return spec_for(self._serving.scaling, max_concurrency=self._max_concurrency).target

    def observe(self, report: ServiceReplicas, now_s: float) -> None:
        """Take a backend's report. Decides at once when the last replica fell away under a request."""
        self._report = report
        known = max((replica.max_concurrency for replica in report.replicas), default=0)
        self._max_concurrency = known or self._max_concurrency
        scaling = self._serving.scaling
        if self._count(ReplicaState.READY) >= max(1, scaling.min_replicas, scaling.initial_scale):
            self._was_ready = True
        if self.decision is not None:
            self.poke(now_s)

    def poke(self, now_s: float) -> None:
        """A request waits: decide now if the service is at zero, without waiting for the tick. Cheap otherwise."""
        if self.decision is None or (self.decision.order.num_ready == 0 and self._num_work() > 0):
            self.tick(now_s)

    def pin(self, num_replicas: int | None, now_s: float | None = None) -> None:
        """Keep this many replicas, within max replicas and what fits; None gives the count back to the autoscaler."""
        if num_replicas is not None and num_replicas < 1:
            raise ValueError(f"num_replicas = {num_replicas}, must be at least 1; to_zero_now goes to zero")
        self._pinned = num_replicas
        self._to_zero = None
        if now_s is not None:
            self.tick(now_s)

    def to_zero_now(self, park: bool, now_s: float | None = None) -> None:
        """Go to zero as soon as no request is in flight or held, whatever min replicas says; the next one brings it
        back. `park` parks as long as the service's park-for says, until the next request where that is 0; otherwise,
        and where it cannot park, it stops."""
        self._pinned = None
        self._to_zero = park
        if now_s is not None:
            self.tick(now_s)

    def update(self, serving: Serving) -> None:
        """Another manifest for the same service. Load seen so far and the replicas there are go on to count."""
        self._serving = serving
        self._stable.resize(serving.scaling.stable_window_s)
        self._panic.resize(panic_window_s(serving.scaling))

    def tick(self, now_s: float) -> None:
        """Take a sample, decide, and order what differs from the last order. An order that fails is given again at the
        next decision; what it raised is raised."""
        self._take_sample(now_s)
        decision = self._decide(now_s)
        last = self.decision
        self.decision = decision  # before the order: its report comes back while it is carried out
        if last is None or _counts(last.order) != _counts(decision.order):
            try:
                self._order(decision.order)
            except BaseException:
                if self.decision is decision:
                    self.decision = last
                raise

    def _take_sample(self, now_s: float) -> None:
        if self._first_tick_s is None:
            self._first_tick_s = self._last_tick_s = now_s
            self._decider = restarted(self._num_live(), now_s)
            self._ask = Ask(num_replicas=self._num_live(), since_s=now_s)
            self._pool.sample(now_s)
            return
        if now_s <= self._last_tick_s:
            return
        sample = self._pool.sample(now_s)
        value = sample.rps if self._serving.scaling.metric is ScaleMetric.RPS else sample.concurrency
        for window in (self._stable, self._panic):
            window.record(self._last_tick_s, now_s, value)
        self._last_tick_s = now_s

    def _decide(self, now_s: float) -> Decision:
        scaling = self._serving.scaling
        spec = spec_for(scaling, max_concurrency=self._max_concurrency)
        num_work = self._num_work()
        seen = Seen(
            num_work=num_work,
            num_ready=self._count(ReplicaState.READY),
            num_starting=self._count(*STARTING),
            num_parked=self._count(*PARKED),
        )
        stable, panic = self._stable.average(now_s), self._panic.average(now_s)
        if stable is None or panic is None:
            # No data yet: what is there stays.
            num = self._num_live()
            wanted = Wanted(num_replicas=num, num_now=num, panicking=self._decider.panicking, reason="no load seen yet")
        else:
            observed = Observation(stable=stable, panic=panic, num_ready=seen.num_ready, num_starting=seen.num_starting)
            self._decider, wanted = decide(self._decider, observed, spec, now_s)
        return Decision(
            order=self._bounded_order(wanted, seen, now_s),
            at_s=now_s,
            stable=stable or 0.0,
            panic=panic or 0.0,
            target=spec.target,
            panicking=wanted.panicking,
        )

    def _bounded_order(self, wanted: Wanted, seen: Seen, now_s: float) -> ScaleOrder:
        scaling = self._serving.scaling
        if self._to_zero is not None:
            stands = self._order_to_zero(seen, park=self._to_zero, now_s=now_s)
            if stands is not None:
                return stands
        capacity = self._report.capacity
        if capacity is not None:
            # It bounds what more is asked for; memory that is short for a moment stops nothing that runs.
            capacity = max(capacity, seen.num_ready + seen.num_starting)
        if self._pinned is not None:
            pinned = bound(self._pinned, replace(scaling, min_replicas=1), is_activating=False, capacity=capacity)
            self._ask = Ask(num_replicas=pinned.num_replicas, since_s=now_s)
            self._zero = stay_up(self._zero)
            return ScaleOrder(num_ready=pinned.num_replicas, reason=_join(f"pinned to {self._pinned}", pinned.reason))
        num_wanted = max(wanted.num_now, min(wanted.num_replicas, self._ask.num_replicas), 1 if seen.num_work else 0)
        reason = wanted.reason
        if seen.num_work and not seen.num_ready + seen.num_starting:
            # The windows have not seen yet, or hardly, what waits for the first replica.
            reason = _join(f"{requests_text(seen.num_work)} held", reason if wanted.num_replicas > 1 else "")
        bounded = bound(num_wanted, scaling, is_activating=self._is_activating(now_s), capacity=capacity)
        self._ask, asked = ask(
            self._ask,
            bounded.num_replicas,
            num_live=seen.num_ready + seen.num_starting,
            num_starting=seen.num_starting,
            settle_s=self._panic.span_s,
            now_s=now_s,
        )
        self._zero, order = settle(
            self._zero,
            asked.num_replicas,
            _join(reason, bounded.reason, asked.reason),
            seen,
            self._zero_rules(),
            cannot_park=self._can_park(),
            now_s=now_s,
        )
        return order

    def _order_to_zero(self, seen: Seen, *, park: bool, now_s: float) -> ScaleOrder | None:
        """The order that a person's wish to go to zero makes; None while requests keep it up, or brought it back."""
        at_zero = self.decision is not None and self.decision.order.num_ready == 0
        if seen.num_work > 0:
            if at_zero:
                self._to_zero = None
            return None
        if not at_zero:
            # What the load was before must not bring replicas back when one request comes.
            self._decider, self._ask = DeciderState(), Ask()
            self._zero = ZeroState()
            self._stable, self._panic = Window(self._stable.span_s), Window(self._panic.span_s)
            self._was_ready = True
        rules = self._zero_rules()
        # Asked to park, it parks: without a time of its own it stays so until the next request.
        rules = replace(rules, park_for_s=(rules.park_for_s or math.inf) if park else 0.0)
        self._zero, order = park_or_stop(self._zero, seen, rules, cannot_park=self._can_park(), now_s=now_s)
        return replace(order, reason=_join("asked to go to zero", order.reason))

    def _zero_rules(self) -> ZeroRules:
        scaling = self._serving.scaling
        park_for_s = self._default_park_for_s if scaling.park_for_s is None else scaling.park_for_s
        return ZeroRules(
            stable_window_s=scaling.stable_window_s, retention_s=scaling.retention_s, park_for_s=park_for_s
        )

    def _is_activating(self, now_s: float) -> bool:
        if self._was_ready or self._first_tick_s is None:
            return not self._was_ready
        return now_s - self._first_tick_s < self._serving.start_deadline_s + GIVE_UP_AFTER_DEADLINE_S

    def _num_work(self) -> int:
        return self._pool.in_flight + self._pool.num_held

    def _num_live(self) -> int:
        return self._count(ReplicaState.READY, *STARTING)

    def _count(self, *states: ReplicaState) -> int:
        return sum(1 for replica in self._report.replicas if replica.state in states)


def _counts(order: ScaleOrder) -> tuple[int, int]:
    return order.num_ready, order.num_parked


def _join(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
