"""What a service records of its orders."""

from __future__ import annotations

from typing import cast

import pytest

from ironloom.account.events import Event
from ironloom.serve.pool import ServicePool
from ironloom.serve.replica import Replica, ReplicaBackend, ReplicaState, ScaleOrder, ServiceReplicas
from ironloom.server.service import Service
from ironloom.server.service_store import StoredService
from ironloom.workload.serving import Scaling, Serving


class Backend:
    """Takes orders."""

    def __init__(self) -> None:
        self.orders: list[ScaleOrder] = []

    def scale(self, _service: str, order: ScaleOrder) -> None:
        self.orders.append(order)

    def can_park(self, _service: str) -> str | None:
        return None


def first_order(scaling: Scaling, *states: ReplicaState) -> tuple[ScaleOrder, list[str | None]]:
    """The first order of a service of which these replicas were found, and the reasons of the events."""
    serving = Serving(name="m", kind="InferenceService", scaling=scaling)
    events: list[Event] = []
    backend = Backend()
    stored = StoredService(name="m", generation=1, manifests=())
    service = Service(
        serving,
        stored,
        pool=ServicePool(serving),
        backend=cast("ReplicaBackend", backend),
        record=events.append,
        default_park_for_s=0.0,
        was_ready=True,
        now=lambda: 1000.0,
    )
    replicas = tuple(
        Replica(id=f"m-{number}", service="m", state=state, generation=1, engine="fake", max_concurrency=10)
        for number, state in enumerate(states)
    )
    if replicas:
        service.observe(ServiceReplicas(service="m", replicas=replicas))
    service.scaler.tick(1000.0)
    return backend.orders[0], [event.reason for event in events]


@pytest.mark.parametrize(
    ("states", "reasons"),
    [
        ([ReplicaState.READY], []),
        ([ReplicaState.STARTING], []),
        ([], ["ScaledFromZero"]),
        ([ReplicaState.PARKED], ["WokenUp"]),
        ([ReplicaState.FAILED], ["ScaledFromZero"]),
    ],
    ids=["ready", "starting", "nothing", "parked", "failed"],
)
def test_the_first_order_is_compared_with_what_was_found(states: list[ReplicaState], reasons: list[str]) -> None:
    order, recorded = first_order(Scaling(min_replicas=1), *states)
    assert (order.num_ready, order.num_parked) == (1, 0)
    assert recorded == reasons
