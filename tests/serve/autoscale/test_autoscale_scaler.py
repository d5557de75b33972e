"""The one writer of a service's replica count, against a pool and a backend that do as they are told."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from ironloom.serve.autoscale.scaler import ServiceScaler
from ironloom.serve.replica import Replica, ReplicaState, ScaleOrder, ServiceReplicas
from ironloom.workload.serving import ScaleMetric, Scaling, Serving


@dataclass(frozen=True)
class Sample:
    concurrency: float
    rps: float


class Pool:
    """Load that a test sets by hand."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.num_held = 0
        self.rps = 0.0

    def sample(self, now_s: float) -> Sample:
        return Sample(concurrency=self.in_flight + self.num_held, rps=self.rps)


class World:
    def __init__(self, scaling: Scaling, *, park_for_s: float = 0.0, was_ready: bool = False) -> None:
        self.pool = Pool()
        self.orders: list[tuple[int, int]] = []
        self.cannot_park: str | None = None
        self.serving = Serving(name="m", kind="InferenceService", scaling=scaling)
        self.now_s = 1000.0
        self.num_failures = 0
        """Orders that the backend does not take, from now on."""
        self.scaler = ServiceScaler(
            self.serving,
            pool=self.pool,
            order=self.take,
            can_park=lambda: self.cannot_park,
            default_park_for_s=park_for_s,
            was_ready=was_ready,
        )

    def take(self, order: ScaleOrder) -> None:
        if self.num_failures:
            self.num_failures -= 1
            raise OSError("no more processes")
        self.orders.append((order.num_ready, order.num_parked))

    def report(self, *, capacity: int | None = None, max_concurrency: int = 10, **counts: int) -> None:
        replicas = tuple(
            Replica(
                id=f"m-{state}-{index}",
                service="m",
                state=ReplicaState(state),
                generation=1,
                engine="fake",
                max_concurrency=max_concurrency,
            )
            for state, count in counts.items()
            for index in range(count)
        )
        self.scaler.observe(ServiceReplicas(service="m", replicas=replicas, capacity=capacity), self.now_s)

    def run(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 2
            self.scaler.tick(self.now_s)


def test_a_new_service_starts_its_initial_scale_and_goes_to_zero_after_it_was_ready_for_a_window() -> None:
    world = World(Scaling(min_replicas=0))
    world.report()
    world.scaler.tick(world.now_s)
    assert world.orders == [(1, 0)]
    world.report(starting=1)
    world.run(200)
    world.report(ready=1)
    world.run(58)
    assert world.orders == [(1, 0)]
    world.run(6)
    assert world.orders == [(1, 0), (0, 0)]


def test_an_order_is_given_once_however_often_it_is_decided() -> None:
    world = World(Scaling(min_replicas=1))
    world.report(ready=1)
    world.run(300)
    assert world.orders == [(1, 0)]


def test_an_order_that_failed_is_given_again_at_the_next_decision_until_it_is_taken() -> None:
    world = World(Scaling(min_replicas=2))
    world.report()
    world.num_failures = 2
    for _ in range(2):
        with pytest.raises(OSError, match="no more processes"):
            world.scaler.tick(world.now_s)
        assert world.scaler.decision is None
        world.now_s += 2
    world.run(4)
    assert world.orders == [(2, 0)]


def test_an_order_of_a_poke_that_failed_is_given_again_by_the_next_one() -> None:
    world = World(Scaling(min_replicas=0), was_ready=True)
    world.report()
    world.scaler.tick(world.now_s)
    world.pool.num_held = 1
    world.num_failures = 1
    with pytest.raises(OSError, match="no more processes"):
        world.scaler.poke(world.now_s + 0.1)
    world.scaler.poke(world.now_s + 0.2)
    assert world.orders == [(0, 0), (1, 0)]


def test_a_request_at_zero_wakes_it_at_once_between_two_ticks() -> None:
    world = World(Scaling(min_replicas=0), was_ready=True)
    world.report()
    world.run(10)
    assert world.orders == [(0, 0)]
    world.now_s += 0.5
    world.pool.num_held = 1
    world.scaler.poke(world.now_s)
    assert world.orders == [(0, 0), (1, 0)]
    assert world.scaler.decision is not None
    assert world.scaler.decision.at_s == world.now_s


def test_the_reason_of_a_wake_is_the_request_that_waits() -> None:
    world = World(Scaling(min_replicas=0), was_ready=True)
    world.report()
    world.run(4)
    world.pool.num_held = 1
    world.scaler.poke(world.now_s + 0.1)
    assert world.scaler.decision is not None
    assert world.scaler.decision.reason == "1 request held"


def test_a_start_that_is_given_up_is_not_told_as_if_nothing_had_been_there() -> None:
    world = World(Scaling(min_replicas=0))
    world.report()
    world.scaler.tick(world.now_s)
    world.report(starting=1)
    world.scaler.to_zero_now(False, world.now_s)
    assert world.scaler.decision is not None
    assert world.scaler.decision.reason == "asked to go to zero; no load"


def test_a_poke_that_is_not_needed_decides_nothing() -> None:
    world = World(Scaling(min_replicas=1))
    world.report(ready=1)
    world.run(10)
    before = world.scaler.decision
    world.now_s += 0.5
    world.pool.num_held = 1
    world.scaler.poke(world.now_s)
    assert world.scaler.decision is before


def test_a_service_that_was_at_zero_stays_there_when_the_daemon_starts_anew() -> None:
    world = World(Scaling(min_replicas=0), was_ready=True)
    world.run(100)
    assert world.orders == [(0, 0)]


def test_adopted_replicas_are_kept_until_there_is_a_history() -> None:
    world = World(Scaling(min_replicas=0), was_ready=True)
    world.report(ready=4)
    world.run(60)
    assert world.orders == [(4, 0)]
    world.run(10)
    assert world.orders == [(4, 0), (2, 0)]


def test_a_start_that_never_gets_ready_is_given_up_after_its_deadline_unless_one_is_wanted_always() -> None:
    for min_replicas, last in [(0, (0, 0)), (1, (1, 0))]:
        world = World(Scaling(min_replicas=min_replicas))
        world.report()
        world.run(626)
        assert world.orders == [(1, 0)]
        world.run(10)
        assert world.orders[-1] == last


def test_the_load_of_several_replicas_brings_several() -> None:
    world = World(Scaling(max_replicas=8))
    world.report(ready=1)
    world.run(4)
    world.pool.in_flight = 21
    world.run(6)
    assert world.orders[-1] == (3, 0)
    assert world.scaler.target == pytest.approx(7)


def test_requests_a_second_scale_where_they_are_the_metric() -> None:
    world = World(Scaling(metric=ScaleMetric.RPS, target=10))
    world.report(ready=1)
    world.pool.rps = 21
    world.run(30)
    assert world.orders[-1] == (3, 0)


def test_what_does_not_fit_is_not_asked_for() -> None:
    world = World(Scaling(max_replicas=8))
    world.report(ready=1, capacity=2)
    world.pool.in_flight = 100
    world.run(20)
    assert world.orders[-1] == (2, 0)
    assert world.scaler.decision is not None
    assert "2 fit here" in world.scaler.decision.reason


def test_what_runs_is_not_stopped_because_memory_is_short_for_a_moment() -> None:
    world = World(Scaling(min_replicas=2))
    world.report(ready=2, capacity=1)
    world.run(100)
    assert world.orders == [(2, 0)]


def test_requests_that_pile_up_during_a_slow_start_do_not_ask_again() -> None:
    world = World(Scaling(min_replicas=0, max_replicas=8), was_ready=True)
    world.report()
    world.run(4)
    world.pool.num_held = 1
    world.scaler.poke(world.now_s)
    world.report(starting=1)
    world.run(10)
    world.pool.num_held = 70
    world.run(200)
    assert world.orders == [(0, 0), (1, 0)]
    world.report(ready=1)
    world.run(2)
    assert world.orders[-1] == (8, 0)


def test_a_surge_that_is_over_when_its_start_ends_brings_no_more_replicas() -> None:
    world = World(Scaling(min_replicas=0, max_replicas=8, scale_down_delay_s=600), was_ready=True)
    world.report()
    world.run(4)
    world.pool.num_held = 1
    world.scaler.poke(world.now_s)
    world.report(starting=1)
    world.run(10)
    world.pool.num_held = 70
    world.run(100)
    world.pool.num_held = 1
    world.run(100)
    world.report(ready=1)
    world.run(10)
    assert world.orders == [(0, 0), (1, 0)]


def test_it_is_parked_first_where_the_backend_can() -> None:
    world = World(Scaling(min_replicas=0), park_for_s=100, was_ready=True)
    world.report(ready=1)
    world.run(64)
    assert world.orders[-1] == (0, 1)
    world.report(parked=1)
    world.run(104)
    assert world.orders[-1] == (0, 0)


def test_the_manifest_s_park_for_replaces_the_backend_s() -> None:
    world = World(Scaling(min_replicas=0, park_for_s=0), park_for_s=100, was_ready=True)
    world.report(ready=1)
    world.run(64)
    assert world.orders[-1] == (0, 0)


def test_a_pin_holds_the_count_within_max_replicas_and_none_gives_it_back() -> None:
    world = World(Scaling(min_replicas=0, max_replicas=3), was_ready=True)
    world.report()
    world.run(4)
    world.scaler.pin(2)
    world.run(400)
    assert world.orders[-1] == (2, 0)
    world.scaler.pin(5)
    world.run(2)
    assert world.orders[-1] == (3, 0)
    assert world.scaler.decision is not None
    assert world.scaler.decision.reason == "pinned to 5; max replicas is 3"
    world.report(ready=3)
    world.scaler.pin(None)
    world.run(2)
    world.report(ready=1)
    world.run(100)
    assert world.orders[-1] == (0, 0)
    with pytest.raises(ValueError, match="at least 1"):
        world.scaler.pin(0)


def test_asked_to_go_to_zero_it_waits_for_the_requests_that_are_there() -> None:
    world = World(Scaling(min_replicas=1))
    world.report(ready=1)
    world.pool.in_flight = 2
    world.run(10)
    world.scaler.to_zero_now(park=False, now_s=world.now_s)
    assert world.orders == [(1, 0)]
    world.pool.in_flight = 0
    world.run(2)
    assert world.orders == [(1, 0), (0, 0)]
    world.run(300)
    assert world.orders == [(1, 0), (0, 0)]


def test_after_a_person_s_zero_one_request_brings_back_one_replica() -> None:
    world = World(Scaling(min_replicas=1))
    world.report(ready=4)
    world.pool.in_flight = 40
    world.run(100)
    world.pool.in_flight = 0
    world.scaler.to_zero_now(park=False, now_s=world.now_s)
    assert world.orders[-1] == (0, 0)
    world.report()
    world.pool.num_held = 1
    world.scaler.poke(world.now_s)
    assert world.orders[-1] == (1, 0)
    world.report(ready=1)
    world.pool.num_held = 0
    world.run(300)
    assert world.orders[-1] == (1, 0)


def test_asked_to_park_it_parks_and_asked_to_stop_what_is_parked_it_stops() -> None:
    world = World(Scaling(min_replicas=0), park_for_s=600)
    world.report(ready=1)
    world.run(4)
    world.scaler.to_zero_now(park=True, now_s=world.now_s)
    assert world.orders[-1] == (0, 1)
    world.report(parked=1)
    world.scaler.to_zero_now(park=False, now_s=world.now_s)
    assert world.orders[-1] == (0, 0)


def test_asked_to_park_without_a_time_of_its_own_it_stays_parked_until_a_request() -> None:
    world = World(Scaling(min_replicas=1))
    world.report(ready=1)
    world.run(4)
    world.scaler.to_zero_now(park=True, now_s=world.now_s)
    assert world.orders[-1] == (0, 1)
    world.report(parked=1)
    world.run(20_000)
    assert world.orders[-1] == (0, 1)
    world.pool.num_held = 1
    world.scaler.poke(world.now_s)
    assert world.orders[-1] == (1, 0)


def test_where_it_cannot_park_it_stops_and_says_why() -> None:
    world = World(Scaling(min_replicas=1))
    world.cannot_park = "llamacpp cannot park"
    world.report(ready=1)
    world.run(4)
    world.scaler.to_zero_now(park=True, now_s=world.now_s)
    assert world.orders[-1] == (0, 0)
    assert world.scaler.decision is not None
    assert world.scaler.decision.reason == "asked to go to zero; no load; llamacpp cannot park"


def test_a_person_may_stop_a_start_that_nobody_waits_for() -> None:
    world = World(Scaling(min_replicas=1))
    world.report(starting=1)
    world.run(4)
    world.scaler.to_zero_now(park=True, now_s=world.now_s)
    assert world.orders == [(1, 0), (0, 0)]


def test_a_new_manifest_takes_effect_at_the_next_tick() -> None:
    world = World(Scaling(min_replicas=1))
    world.report(ready=1)
    world.run(100)
    world.scaler.update(replace(world.serving, scaling=Scaling(min_replicas=2, stable_window_s=6)))
    world.run(2)
    assert world.orders[-1] == (2, 0)
    world.scaler.update(replace(world.serving, scaling=Scaling(min_replicas=0, stable_window_s=6)))
    world.report(ready=1)
    world.run(10)
    assert world.orders[-1] == (0, 0)


def test_a_clock_that_stands_still_changes_nothing() -> None:
    world = World(Scaling(min_replicas=0), was_ready=True)
    world.report(ready=1)
    for _ in range(5):
        world.scaler.tick(world.now_s)
    assert world.orders == [(1, 0)]
