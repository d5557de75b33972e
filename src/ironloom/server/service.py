"""One service of the daemon: its declaration, its pool, its scaler, and the backend's last report, side by side."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from ironloom.account.events import Event, EventKind
from ironloom.serve.autoscale.scaler import Load as ScalerLoad
from ironloom.serve.autoscale.scaler import ServiceScaler
from ironloom.serve.pool import ServicePool
from ironloom.serve.reason import one_line
from ironloom.serve.replica import LIVE_STATES, ReplicaBackend, ReplicaState, ScaleOrder, ServiceReplicas
from ironloom.server.control import ServiceView
from ironloom.server.rates import Rates
from ironloom.server.service_store import StoredService
from ironloom.server.view import Load, service_view
from ironloom.workload.serving import Serving

_logger = logging.getLogger(__name__)
_PARKED = frozenset({ReplicaState.PARKING, ReplicaState.PARKED})


class Service:
    """Made when a service is applied or found in the store; ends with its deletion. Lives on the event loop."""

    def __init__(
        self,
        serving: Serving,
        stored: StoredService,
        *,
        pool: ServicePool,
        backend: ReplicaBackend,
        record: Callable[[Event], None],
        default_park_for_s: float,
        was_ready: bool,
        now: Callable[[], float],
        load: ScalerLoad | None = None,
    ) -> None:
        """`load` is what the scaler goes by where it is more than this pool's: that of several gateways."""
        self.serving = serving
        self.stored = stored
        self.pool = pool
        self.rates = Rates()
        self._backend = backend
        self._record = record
        self._now = now
        self.report = ServiceReplicas(service=serving.name)
        self._engine = ""
        """The last replica's engine: at zero it is still the service's."""
        self._load = load or pool
        self._default_park_for_s = default_park_for_s
        self.scaler = self._new_scaler(was_ready=was_ready)
        self._last_order: ScaleOrder | None = None

    def _new_scaler(self, *, was_ready: bool) -> ServiceScaler:
        scaler = ServiceScaler(
            self.serving,
            pool=self._load,
            order=self._order,
            can_park=lambda: self._backend.can_park(self.name),
            default_park_for_s=self._default_park_for_s,
            was_ready=was_ready,
        )
        if self.stored.pinned is not None:
            scaler.pin(self.stored.pinned)
        return scaler

    def begin_anew(self) -> None:
        """Decide from now on as a daemon that was just started does: what was seen before is another one's."""
        self.scaler = self._new_scaler(was_ready=True)
        self._last_order = None
        self.scaler.observe(self.report, self._now())

    @property
    def name(self) -> str:
        return self.serving.name

    @property
    def num_at_once(self) -> int:
        """Requests that its ready replicas (one, while there is none) run at once; 0 is not known.

        What one runs is what its engine batches, within the manifest's containerConcurrency.
        """
        limits = (self.serving.scaling.container_concurrency, self.scaler.max_concurrency)
        return min((limit for limit in limits if limit), default=0) * max(1, self.pool.num_ready)

    def observe(self, report: ServiceReplicas) -> None:
        """Take the backend's report on to the pool and the scaler."""
        failure, self.report = self.report.failure, report
        self._engine = next((replica.engine for replica in report.replicas if replica.engine), self._engine)
        if report.failure is not None and report.failure != failure:
            self._record(
                Event(kind=EventKind.SERVICE_FAILED, service=self.name, reason="StartFailed", message=report.failure)
            )
        # Who is refused is told in one line; `describe` has all of it.
        told = report if report.failure is None else replace(report, failure=one_line(report.failure))
        self.pool.update(told)
        self.scaler.observe(report, self._now())

    def update(self, serving: Serving, stored: StoredService) -> None:
        """Another manifest for the same service."""
        self.serving = serving
        self.stored = stored
        self.pool.configure(serving)
        self.scaler.update(serving)

    def poke(self) -> None:
        """A request is held: decide now if it must. What fails then is tried again at the next tick."""
        try:
            self.scaler.poke(self._now())
        except Exception:  # a request must not fail with the order that it caused
            _logger.exception("the autoscaler of %s failed", self.name)

    def view(self, url: str, namespace: str = "") -> ServiceView:
        """The service as the control API shows it, in a cluster's namespace or else in its manifest's."""
        decision = self.scaler.decision
        notes = list(dict.fromkeys((*self._backend.notes(self.serving), *self.report.notes)))
        note = self.report.extra.get("model_note")
        now = self._now()
        return service_view(
            self.serving,
            self.report,
            Load(
                in_flight=self.pool.in_flight,
                held=self.pool.num_held,
                requests_per_s=self.rates.requests_per_s(now),
                tokens_per_s=self.rates.tokens_per_s(now),
                in_flight_of=self.pool.in_flight_of,
            ),
            url=url,
            namespace=namespace or self.serving.namespace,
            engine=self._engine,
            generation=self.stored.generation,
            created_s=self.stored.created_s,
            pinned=self.scaler.pinned,
            cannot_park=self._backend.can_park(self.name),
            deleting=self.stored.deleting,
            model_note=note if isinstance(note, str) else None,
            notes=notes,
            reason=decision.reason if decision is not None else "",
        )

    def pin(self, num_replicas: int | None) -> None:
        """Fix the replica count, or give it back to the autoscaler."""
        self.stored = replace(self.stored, pinned=num_replicas)
        self.scaler.pin(num_replicas, self._now())

    def to_zero_now(self, *, park: bool) -> None:
        """Go to zero as soon as nothing is in flight; the next request brings it back. Ends a pin."""
        self.stored = replace(self.stored, pinned=None)
        self.scaler.to_zero_now(park, self._now())

    def _order(self, order: ScaleOrder) -> None:
        last, self._last_order = self._last_order, order
        before = (last.num_ready, last.num_parked) if last else self._found()
        after = (order.num_ready, order.num_parked)
        if before != after:
            self._record(
                Event(
                    kind=EventKind.SERVICE_SCALED,
                    service=self.name,
                    reason=_reason(before, after),
                    message=f"{before[0]} to {after[0]} replicas"
                    + (f", {after[1]} parked" if after[1] else "")
                    + (f": {order.reason}" if order.reason else ""),
                    data={"num_ready": order.num_ready, "num_parked": order.num_parked},
                )
            )
        self._backend.scale(self.name, order)

    def _found(self) -> tuple[int, int]:
        """Replicas there before the first order, ready (or on the way) and parked: what an earlier daemon left."""
        states = [replica.state for replica in self.report.replicas if replica.state in LIVE_STATES]
        num_parked = sum(state in _PARKED for state in states)
        return len(states) - num_parked, num_parked


def _reason(before: tuple[int, int], after: tuple[int, int]) -> str:
    if after == (0, 0):
        return "ScaledToZero"
    if after[0] == 0:
        return "Parked"
    if before[0] == 0:
        return "WokenUp" if before[1] else "ScaledFromZero"
    return "ScaledUp" if after[0] > before[0] else "ScaledDown"
