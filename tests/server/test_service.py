"""What a service records of its orders."""

from __future__ import annotations

import time
from typing import cast

import pytest

from ironloom.account.events import Event
from ironloom.errors import RequestError
from ironloom.serve.pool import Claim, ServicePool
from ironloom.serve.replica import Replica, ReplicaBackend, ReplicaState, ScaleOrder, ServiceReplicas
from ironloom.server.service import Service
from ironloom.server.service_store import StoredService
from ironloom.workload.serving import Scaling, Serving


class Backend:
    """Takes orders."""

    def __init__(self) -> None:
        self.orders: list[ScaleOrder] = []
        self.fails = False
        self.cannot_park: str | None = None

    def scale(self, _service: str, order: ScaleOrder) -> None:
        if self.fails:
            raise OSError("no more processes")
        self.orders.append(order)

    def can_park(self, _service: str) -> str | None:
        return self.cannot_park

    def notes(self, _serving: Serving) -> tuple[str, ...]:
        return ()


def a_service(serving: Serving, events: list[Event], backend: Backend | None = None) -> Service:
    return Service(
        serving,
        StoredService(name="m", generation=1, manifests=()),
        pool=ServicePool(serving),
        backend=cast("ReplicaBackend", backend or Backend()),
        record=events.append,
        default_park_for_s=0.0,
        was_ready=True,
        now=lambda: 1000.0,
    )


def first_order(scaling: Scaling, *states: ReplicaState) -> tuple[ScaleOrder, list[str | None]]:
    """The first order of a service of which these replicas were found, and the reasons of the events."""
    serving = Serving(name="m", kind="InferenceService", scaling=scaling)
    events: list[Event] = []
    backend = Backend()
    service = a_service(serving, events, backend)
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


def test_who_is_refused_hears_in_one_line_why_the_start_failed_and_the_view_has_all_of_it() -> None:
    serving = Serving(name="m", kind="InferenceService")
    service = a_service(serving, [])
    reason = "the engine ended with status 1; its last lines:\nloading\nValueError: no"
    service.observe(ServiceReplicas(service="m", failure=reason, retry_at_s=time.time() + 60))
    with pytest.raises(RequestError) as refused:
        service.pool.acquire(cast("Claim", None), 0, 1000.0)
    assert refused.value.message.endswith("could be started: the engine ended with status 1: ValueError: no")
    assert service.view("http://127.0.0.1:1/v1").reason == reason


def test_a_request_is_held_although_the_order_that_it_causes_fails_and_the_order_is_tried_again() -> None:
    events: list[Event] = []
    backend = Backend()
    service = a_service(Serving(name="m", kind="InferenceService", scaling=Scaling(min_replicas=0)), events, backend)
    service.observe(ServiceReplicas(service="m"))
    service.scaler.tick(1000.0)
    service.pool.on_hold = service.poke
    backend.fails = True
    assert service.pool.acquire(cast("Claim", None), 0, 1000.0) is None
    assert service.pool.num_held == 1
    backend.fails = False
    service.scaler.tick(1002.0)
    assert [order.num_ready for order in backend.orders] == [0, 1]
    assert [event.reason for event in events] == ["ScaledFromZero"], "told once"


@pytest.mark.parametrize(
    ("container_concurrency", "max_concurrency", "num_ready", "num_at_once"),
    [(0, 0, 0, 0), (0, 256, 0, 256), (0, 256, 2, 512), (4, 0, 2, 8), (4, 256, 1, 4), (64, 16, 1, 16)],
)
def test_what_a_service_runs_at_once_is_what_its_engine_batches_within_container_concurrency(
    container_concurrency: int, max_concurrency: int, num_ready: int, num_at_once: int
) -> None:
    scaling = Scaling(container_concurrency=container_concurrency)
    service = a_service(Serving(name="m", kind="InferenceService", scaling=scaling), [])
    states = [ReplicaState.READY] * num_ready or [ReplicaState.STARTING]
    service.observe(
        ServiceReplicas(
            service="m",
            replicas=tuple(
                Replica(
                    id=f"m-{number}", service="m", state=state, generation=1, engine="fake",
                    max_concurrency=max_concurrency,
                )
                for number, state in enumerate(states)
            ),
        )
    )  # fmt: skip
    assert service.num_at_once == num_at_once


def test_a_view_says_why_nothing_is_parked() -> None:
    backend = Backend()
    service = a_service(Serving(name="m", kind="InferenceService"), [], backend)
    assert service.view("").scaling.cannot_park is None
    backend.cannot_park = "a pod cannot"
    assert service.view("").scaling.cannot_park == "a pod cannot"


def test_a_view_says_the_namespace_of_the_cluster_or_else_of_the_manifest() -> None:
    service = a_service(Serving(name="m", kind="InferenceService", namespace="mine"), [])
    assert [service.view("", of_cluster).namespace for of_cluster in ("models", "")] == ["models", "mine"]
