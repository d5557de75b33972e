"""The pool: who gets a replica, who waits, who is told; and that its counts are right whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ironloom.errors import RequestError
from ironloom.serve.pool import HoldLimits, ServicePool, Slot
from ironloom.serve.replica import Replica, ReplicaState, ServiceReplicas
from ironloom.workload.serving import Scaling, Serving

READY, FAILED, STARTING = ReplicaState.READY, ReplicaState.FAILED, ReplicaState.STARTING


class FakeClaim:
    """A request that remembers what it was told."""

    def __init__(self, prefix: int | None = None) -> None:
        self.slot: Slot | None = None
        self.error: RequestError | None = None
        self.prefix = prefix
        self.num_told = 0

    def granted(self, slot: Slot) -> None:
        self.slot = slot
        self.num_told += 1

    def refused(self, error: RequestError) -> None:
        self.error = error
        self.num_told += 1

    def prefix_hash(self) -> int | None:
        return self.prefix


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def replica(name: str, state: ReplicaState = READY, service: str = "m") -> Replica:
    return Replica(id=name, service=service, state=state, generation=1, engine="fake", port=1)


def report(*replicas: Replica, failure: str | None = None, retry_at_s: float | None = None) -> ServiceReplicas:
    return ServiceReplicas(service="m", replicas=replicas, failure=failure, retry_at_s=retry_at_s)


def make(
    *replicas: Replica,
    limit: int = 0,
    hold_limits: HoldLimits | None = None,
    on_hold: Callable[[], None] = lambda: None,
) -> tuple[ServicePool, Clock]:
    clock = Clock()
    serving = Serving(name="m", kind="InferenceService", scaling=Scaling(container_concurrency=limit))
    pool = ServicePool(serving, on_hold=on_hold, hold_limits=hold_limits, monotonic=clock, wall=clock)
    pool.update(report(*replicas))
    return pool, clock


def test_the_average_counts_what_is_in_flight_and_what_is_held() -> None:
    pool, clock = make(replica("a"), limit=1)
    assert pool.sample(clock.now_s).concurrency == 0
    first, second = FakeClaim(), FakeClaim()
    slot = pool.acquire(first, 1, clock.now_s)
    assert slot is not None
    clock.now_s += 4
    assert pool.acquire(second, 1, clock.now_s) is None
    clock.now_s += 6
    sample = pool.sample(clock.now_s)
    assert sample.concurrency == pytest.approx((4 * 1 + 6 * 2) / 10)
    assert sample.rps == pytest.approx(0.2)
    pool.release(slot, clock.now_s)
    assert second.slot is slot
    clock.now_s += 5
    assert pool.sample(clock.now_s).concurrency == pytest.approx(1.0)
    pool.release(slot, clock.now_s)
    clock.now_s += 5
    assert pool.sample(clock.now_s).concurrency == pytest.approx(0.0)


def test_each_held_request_pokes_the_scaler() -> None:
    pokes: list[int] = []
    pool, clock = make(on_hold=lambda: pokes.append(1))
    for _ in range(3):
        pool.acquire(FakeClaim(), 1, clock.now_s)
    assert len(pokes) == 3
    assert pool.num_held == 3


def test_held_requests_are_served_first_come_first_served_and_before_new_ones() -> None:
    pool, clock = make(limit=1)
    claims = [FakeClaim() for _ in range(3)]
    for claim in claims:
        assert pool.acquire(claim, 1, clock.now_s) is None
    pool.update(report(replica("a")))
    assert [claim.slot is not None for claim in claims] == [True, False, False]
    late = FakeClaim()
    assert pool.acquire(late, 1, clock.now_s) is None
    for done, expected in ((claims[0], claims[1]), (claims[1], claims[2]), (claims[2], late)):
        assert done.slot is not None
        pool.release(done.slot, clock.now_s)
        assert expected.slot is not None


def test_a_retry_goes_ahead_of_who_waited() -> None:
    pool, clock = make(replica("a"), limit=1)
    first, second = FakeClaim(), FakeClaim()
    slot = pool.acquire(first, 1, clock.now_s)
    assert slot is not None
    pool.acquire(second, 1, clock.now_s)
    pool.requeue(first, slot, 1, clock.now_s)
    assert first.slot is slot
    assert second.slot is None


def test_a_higher_limit_lets_the_queue_in() -> None:
    pool, clock = make(replica("a"), limit=1)
    claims = [FakeClaim() for _ in range(3)]
    for claim in claims:
        pool.acquire(claim, 1, clock.now_s)
    pool.configure(Serving(name="m", kind="InferenceService", scaling=Scaling(container_concurrency=0)))
    assert [claim.slot is not None for claim in claims[1:]] == [True, True]
    assert pool.in_flight == 3


@pytest.mark.parametrize("limits", [HoldLimits(max_requests=1), HoldLimits(max_bytes=15)])
def test_beyond_its_bounds_nothing_is_held(limits: HoldLimits) -> None:
    pool, clock = make(hold_limits=limits)
    pool.acquire(FakeClaim(), 10, clock.now_s)
    with pytest.raises(RequestError) as refused:
        pool.acquire(FakeClaim(), 10, clock.now_s)
    assert refused.value.status == 429
    assert refused.value.retry_after_s
    assert (pool.num_held, pool.held_bytes) == (1, 10)


def test_a_prefix_stays_with_its_replica_and_spills_over_when_that_is_busy() -> None:
    pool, clock = make(replica("a"), replica("b"), replica("c"))
    slots = [pool.acquire(FakeClaim(prefix=7), 1, clock.now_s) for _ in range(3)]
    assert len({slot.replica.id for slot in slots if slot}) == 1
    many = [pool.acquire(FakeClaim(prefix=7), 1, clock.now_s) for _ in range(60)]
    loads = sorted(pool.in_flight_of(name) for name in "abc")
    assert loads[0] >= 15, loads
    assert len(many) == 60


def test_a_parked_replica_that_wakes_serves_again() -> None:
    async def main() -> None:
        pool, clock = make(replica("a"))
        pool.update(report(replica("a", ReplicaState.PARKING)))
        await pool.drain(replica("a", ReplicaState.PARKING), clock.now_s + 1)
        pool.update(report(replica("a", ReplicaState.PARKED)))
        claim = FakeClaim()
        assert pool.acquire(claim, 1, clock.now_s) is None
        pool.update(report(replica("a", ReplicaState.WAKING)))
        assert claim.slot is None
        pool.update(report(replica("a")))
        assert claim.slot is not None

    asyncio.run(main())


def test_a_drain_before_the_report_of_leaving_keeps_requests_away() -> None:
    async def main() -> None:
        pool, clock = make(replica("a"), replica("b"))
        await pool.drain(replica("a"), clock.now_s + 1)
        pool.update(report(replica("a"), replica("b")))  # an old report, still in flight
        slots = [pool.acquire(FakeClaim(), 1, clock.now_s) for _ in range(4)]
        assert {slot.replica.id for slot in slots if slot} == {"b"}
        pool.update(report(replica("a", ReplicaState.STOPPING), replica("b")))
        pool.update(report(replica("b")))
        assert pool.in_flight_of("b") == 4

    asyncio.run(main())


def test_who_waits_hears_of_a_start_that_fails_for_good_at_once() -> None:
    pool, clock = make(replica("a", STARTING))
    claim = FakeClaim()
    pool.acquire(claim, 1, clock.now_s)
    pool.update(report(failure="no such model"))
    assert claim.error is not None
    assert "no such model" in claim.error.message
    assert claim.error.source == "engine"
    assert pool.num_held == 0


def test_who_waits_outlasts_one_failed_start_that_is_soon_tried_again() -> None:
    pool, clock = make(replica("a", STARTING))
    claim = FakeClaim()
    pool.acquire(claim, 1, clock.now_s)
    pool.update(report(failure="killed", retry_at_s=clock.now_s + 1))
    pool.update(report(failure="killed", retry_at_s=clock.now_s + 1))  # the same news again
    assert claim.num_told == 0
    pool.update(report(replica("b", STARTING), failure="killed"))
    pool.update(report(failure="killed", retry_at_s=clock.now_s + 1))  # the same words, another failure
    assert claim.error is not None
    assert claim.error.retry_after_s == pytest.approx(1.0)


def test_a_start_that_would_fail_again_is_told_at_once_to_who_waits_and_to_who_comes() -> None:
    pokes: list[int] = []
    pool, clock = make(replica("a", STARTING), on_hold=lambda: pokes.append(1))
    waiting = FakeClaim()
    pool.acquire(waiting, 1, clock.now_s)
    final = ServiceReplicas(service="m", failure="pickles alone", is_final=True)
    pool.update(final)
    assert waiting.error is not None
    assert waiting.error.retry_after_s is None
    pokes.clear()
    with pytest.raises(RequestError, match="pickles alone") as caught:
        pool.acquire(FakeClaim(), 1, clock.now_s)
    assert (caught.value.status, caught.value.error_code, caught.value.retry_after_s) == (503, "start_failed", None)
    assert "apply the manifest again" in str(caught.value.hint)
    assert (pool.num_held, pokes) == (0, [])
    pool.update(report(replica("b", STARTING)))
    assert pool.acquire(FakeClaim(), 1, clock.now_s) is None
    assert pool.num_held == 1


def test_a_failed_start_beside_a_ready_replica_is_nobodys_trouble() -> None:
    pool, clock = make(replica("a"), limit=1)
    pool.acquire(FakeClaim(), 1, clock.now_s)
    waiting = FakeClaim()
    pool.acquire(waiting, 1, clock.now_s)
    pool.update(report(replica("a"), replica("b", FAILED), failure="no room"))
    assert waiting.num_told == 0


def test_a_closed_pool_tells_everybody() -> None:
    pool, clock = make()
    waiting = FakeClaim()
    pool.acquire(waiting, 1, clock.now_s)
    error = RequestError(404, "gone")
    pool.close(error)
    assert waiting.error is error
    with pytest.raises(RequestError, match="gone"):
        pool.acquire(FakeClaim(), 1, clock.now_s)


def test_a_replica_that_refuses_connections_is_left_alone_for_longer_each_time() -> None:
    async def main() -> None:
        pool, clock = make(replica("a"), replica("b"))
        slot = pool.acquire(FakeClaim(), 1, clock.now_s)
        assert slot is not None
        pool.suspect(slot)
        others = [pool.acquire(FakeClaim(), 1, clock.now_s) for _ in range(3)]
        assert slot not in others
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while slot.suspect:  # noqa: ASYNC110 (the pool has no event for it, and should not)
            await asyncio.sleep(0.005)
        assert loop.time() - begun < 1
        pool.suspect(slot)
        assert slot.num_refusals == 2

    asyncio.run(main())


class PoolMachine(RuleBasedStateMachine):
    """Anything in any order: requests come, end, give up, fail over; replicas come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.clock = make(limit=2, hold_limits=HoldLimits(max_requests=5))
        self.replicas: dict[str, ReplicaState] = {}
        self.running: list[FakeClaim] = []
        self.waiting: list[FakeClaim] = []
        self.integral = 0.0
        self.failed = 0

    def _settle(self) -> None:
        for claim in list(self.waiting):
            assert claim.num_told <= 1
            if claim.num_told:
                self.waiting.remove(claim)
                if claim.slot is not None:
                    self.running.append(claim)

    def _tell(self, failure: str | None = None) -> None:
        self.pool.update(report(*(replica(name, state) for name, state in self.replicas.items()), failure=failure))
        self._settle()

    @rule(seconds=st.floats(0.01, 10))
    def wait(self, seconds: float) -> None:
        self.integral += seconds * (len(self.running) + len(self.waiting))
        self.clock.now_s += seconds

    @rule(prefix=st.none() | st.integers(0, 5))
    def come(self, prefix: int | None) -> None:
        claim = FakeClaim(prefix)
        try:
            claim.slot = self.pool.acquire(claim, 10, self.clock.now_s)
        except RequestError as error:
            assert error.status == 429  # noqa: PT017
            assert len(self.waiting) >= 5  # retries are held beyond the bound
            return
        (self.running if claim.slot else self.waiting).append(claim)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: Any) -> None:
        claim = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.pool.release(claim.slot, self.clock.now_s)
        self._settle()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fail_over(self, data: Any) -> None:
        claim = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        slot, claim.slot, claim.num_told = claim.slot, None, 0
        self.waiting.append(claim)
        self.pool.requeue(claim, slot, 10, self.clock.now_s)  # type: ignore[arg-type]
        self._settle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: Any) -> None:
        claim = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.pool.withdraw(claim, self.clock.now_s)
        self.pool.withdraw(claim, self.clock.now_s)

    @rule(name=st.sampled_from("abc"), state=st.sampled_from(ReplicaState))
    def change(self, name: str, state: ReplicaState) -> None:
        self.replicas[name] = state
        self._tell()

    @rule(name=st.sampled_from("abc"))
    def vanish(self, name: str) -> None:
        self.replicas.pop(name, None)
        self._tell()

    @rule()
    def start_fails(self) -> None:
        self._tell(failure="no")

    @invariant()
    def counts_are_right(self) -> None:
        pool = self.pool
        assert pool.in_flight == len(self.running)
        assert pool.num_held == len(self.waiting)
        assert pool.held_bytes == 10 * len(self.waiting)
        for name in "abc":
            running = sum(1 for claim in self.running if claim.slot and claim.slot.replica.id == name)
            assert pool.in_flight_of(name) <= running  # fewer once it has died: those requests are failing over
            if self.replicas.get(name) is READY:
                assert pool.in_flight_of(name) <= 2 or running > 2

    @invariant()
    def nobody_waits_beside_a_free_replica(self) -> None:
        ready = [name for name, state in self.replicas.items() if state is READY]
        if self.waiting:
            assert all(self.pool.in_flight_of(name) >= 2 for name in ready)

    @invariant()
    def the_integral_is_right(self) -> None:
        if self.clock.now_s > self.pool._sample_s:
            span_s = self.clock.now_s - self.pool._sample_s
            sample = self.pool.sample(self.clock.now_s)
            assert sample.concurrency * span_s == pytest.approx(self.integral, abs=1e-6)
            self.integral = 0.0


PoolMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestPoolMachine = PoolMachine.TestCase


@given(st.integers(1, 20))
def test_a_drain_of_an_idle_replica_ends_at_once(seconds: int) -> None:
    pool, clock = make(replica("a"))
    asyncio.run(asyncio.wait_for(pool.drain(replica("a"), clock.now_s + seconds), 1))
    assert pool.num_ready == 0


def test_what_somebody_has_to_mend_first_is_told_at_once_to_who_waits_and_to_who_comes() -> None:
    pool, clock = make(replica("a", STARTING))
    waiting = FakeClaim()
    pool.acquire(waiting, 1, clock.now_s)
    stuck = ServiceReplicas(
        service="m", replicas=(replica("a", STARTING),), failure="no such image", passes=False, retry_after_s=30.0
    )
    pool.update(stuck)
    assert waiting.error is not None
    assert (waiting.error.status, waiting.error.retry_after_s) == (503, 30.0)
    with pytest.raises(RequestError, match="no such image"):
        pool.acquire(FakeClaim(), 1, clock.now_s)
    pool.update(report(replica("a")))
    assert pool.acquire(FakeClaim(), 1, clock.now_s) is not None


def test_a_failure_that_passes_by_itself_is_waited_out() -> None:
    pool, clock = make()
    waiting = FakeClaim()
    pool.acquire(waiting, 1, clock.now_s)
    away = ServiceReplicas(service="m", failure="the API server is away", passes=True)
    pool.update(away)
    assert pool.acquire(FakeClaim(), 1, clock.now_s) is None
    assert (waiting.num_told, pool.num_held) == (0, 2)
    pool.update(report(replica("a")))
    assert waiting.num_told == 1
