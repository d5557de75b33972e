"""Days of bursty load on a fake clock: requests, replicas that take time to start, and starts that fail."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from ironloom.serve.autoscale.scaler import TICK_S, ServiceScaler
from ironloom.serve.replica import Replica, ReplicaState, ScaleOrder, ServiceReplicas
from ironloom.workload.serving import Scaling, Serving

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
STEP_S = 0.5


@dataclass
class FakeReplica:
    id: int
    state: ReplicaState
    until_s: float
    """End of the start or the wake."""
    ends_s: list[float] = field(default_factory=list)
    """When each request in it ends."""


@dataclass(frozen=True)
class Sample:
    concurrency: float
    rps: float


class Cluster:
    """Pool and backend in one, in steps of half a second. It does what it is ordered, and drains before it stops."""

    def __init__(
        self, scaling: Scaling, *, seed: int, start_s: float, fail_share: float = 0.0, park_for_s: float = 0.0
    ) -> None:
        self.scaling = scaling
        self.random = random.Random(seed)
        self.start_s = start_s
        self.fail_share = fail_share
        self.now_s = 0.0
        self.replicas: list[FakeReplica] = []
        self.held: deque[float] = deque()
        self.area = 0.0
        self.sampled_s = 0.0
        self.num_arrived = 0
        self.num_answered = 0
        self.num_starts = 0
        self.retry_at_s = 0.0
        self.num_fails = 0
        self.waits_s: list[float] = []
        self.orders: list[tuple[float, ScaleOrder]] = []
        self.scaler = ServiceScaler(
            Serving(name="m", kind="InferenceService", scaling=scaling),
            pool=self,
            order=self.take,
            can_park=lambda: None,
            default_park_for_s=park_for_s,
        )

    @property
    def in_flight(self) -> int:
        return sum(len(replica.ends_s) for replica in self.replicas)

    @property
    def num_held(self) -> int:
        return len(self.held)

    def sample(self, now_s: float) -> Sample:
        elapsed_s = now_s - self.sampled_s
        area, self.area, self.sampled_s = self.area, 0.0, now_s
        return Sample(concurrency=area / elapsed_s if elapsed_s else 0.0, rps=0.0)

    def take(self, order: ScaleOrder) -> None:
        busy = self.in_flight + self.num_held
        starting = [r for r in self.replicas if r.state in (ReplicaState.STARTING, ReplicaState.WAKING)]
        assert not (order.num_ready == 0 and busy), "zero with work"
        assert not (order.num_ready == 0 and starting and self.orders), "zero while starting"
        assert order.num_ready <= self.scaling.max_replicas
        assert order.num_ready >= self.scaling.min_replicas
        self.orders.append((self.now_s, order))

    def report(self) -> None:
        replicas = tuple(
            Replica(id=str(r.id), service="m", state=r.state, generation=1, engine="fake", max_concurrency=8)
            for r in self.replicas
        )
        self.scaler.observe(ServiceReplicas(service="m", replicas=replicas), self.now_s)

    def arrive(self) -> None:
        self.num_arrived += 1
        self.held.append(self.now_s)
        self.scaler.poke(self.now_s)
        assert self.orders
        assert self.orders[-1][1].num_ready >= 1, "a request waits and no replica is on its way"

    def step(self) -> None:
        self.area += (self.in_flight + self.num_held) * STEP_S
        self.now_s += STEP_S
        changed = self._advance()
        if self._follow_order() or changed:
            self.report()
        for replica in self.replicas:
            while self.held and replica.state is ReplicaState.READY and len(replica.ends_s) < 8:
                self.waits_s.append(self.now_s - self.held.popleft())
                heapq.heappush(replica.ends_s, self.now_s + self.random.expovariate(1 / 12))
        if self.now_s % TICK_S == 0:
            self.scaler.tick(self.now_s)

    def _advance(self) -> bool:
        changed = False
        for replica in list(self.replicas):
            while replica.ends_s and replica.ends_s[0] <= self.now_s:
                heapq.heappop(replica.ends_s)
                self.num_answered += 1
            if replica.state in (ReplicaState.STARTING, ReplicaState.WAKING) and self.now_s >= replica.until_s:
                changed = True
                if replica.state is ReplicaState.STARTING and self.random.random() < self.fail_share:
                    self.replicas.remove(replica)
                    self.num_fails += 1
                    self.retry_at_s = self.now_s + min(300.0, 10.0 * 2**self.num_fails)
                else:
                    replica.state = ReplicaState.READY
                    self.num_fails = 0
            elif replica.state in (ReplicaState.STOPPING, ReplicaState.PARKING) and not replica.ends_s:
                changed = True
                if replica.state is ReplicaState.PARKING:
                    replica.state = ReplicaState.PARKED
                else:
                    self.replicas.remove(replica)
        return changed

    def _follow_order(self) -> bool:
        if not self.orders:
            return False
        order = self.orders[-1][1]
        ready = [r for r in self.replicas if r.state is ReplicaState.READY]
        starting = [r for r in self.replicas if r.state in (ReplicaState.STARTING, ReplicaState.WAKING)]
        parked = [r for r in self.replicas if r.state in (ReplicaState.PARKED, ReplicaState.PARKING)]
        changed = False
        missing = order.num_ready - len(ready) - len(starting)
        for _ in range(missing):
            asleep = next((r for r in parked if r.state is ReplicaState.PARKED), None)
            if asleep is not None:
                parked.remove(asleep)
                asleep.state, asleep.until_s = ReplicaState.WAKING, self.now_s + 1
            elif self.now_s >= self.retry_at_s:
                self.num_starts += 1
                self.replicas.append(FakeReplica(self.num_starts, ReplicaState.STARTING, self.now_s + self.start_s))
            else:
                continue
            changed = True
        spare = (starting + ready)[: max(0, -missing)]
        for replica in spare:
            to_park = len(parked) < order.num_parked and replica.state is ReplicaState.READY
            replica.state = ReplicaState.PARKING if to_park else ReplicaState.STOPPING
            parked += [replica] if to_park else []
        for replica in parked[order.num_parked :] if order.num_ready == 0 else []:
            replica.state = ReplicaState.STOPPING
            spare.append(replica)
        return changed or bool(spare)


def bursts(rng: random.Random, end_s: float) -> list[float]:
    """Arrival times: nights without a request, quiet stretches, and bursts of some minutes."""
    times, now_s = [], 0.0
    while now_s < end_s:
        hour = now_s % DAY_S / HOUR_S
        if hour < 7:
            now_s += rng.uniform(HOUR_S / 2, HOUR_S)
            if rng.random() < 0.3:
                times.append(now_s)
            continue
        rate = rng.choice([0.002, 0.02, 0.2, 2.0])
        until_s = now_s + rng.uniform(60, 1500)
        while now_s < until_s:
            now_s += rng.expovariate(rate)
            times.append(now_s)
    return [time for time in times if time < end_s]


def simulate(cluster: Cluster, days: float) -> None:
    end_s = days * DAY_S
    arrivals = deque(bursts(random.Random(cluster.random.random()), end_s))
    cluster.report()
    cluster.scaler.tick(0.0)
    while cluster.now_s < end_s + HOUR_S:
        cluster.step()
        while arrivals and arrivals[0] <= cluster.now_s:
            arrivals.popleft()
            cluster.arrive()


SCALINGS = {
    "plain": Scaling(min_replicas=0, max_replicas=4),
    "delay": Scaling(min_replicas=0, max_replicas=6, scale_down_delay_s=120, retention_s=90),
    "floor": Scaling(min_replicas=1, max_replicas=3, activation_scale=2, stable_window_s=20),
}


def check(cluster: Cluster) -> None:
    """What must hold at the end. `take` and `arrive` have checked each order and each request on the way."""
    scaling = cluster.scaling
    assert cluster.num_answered == cluster.num_arrived > 100
    assert not cluster.held
    last = cluster.orders[-1][1]
    assert last.num_ready == scaling.min_replicas
    if scaling.min_replicas == 0:
        zeros = [at for at, order in cluster.orders if order.num_ready == 0]
        assert len(zeros) >= 3
    # No flapping: what was scaled up does not come down before the window or the delay, whichever is longer, is over.
    ups_s = -float("inf")
    for (_, before), (at, after) in zip(cluster.orders, cluster.orders[1:], strict=False):
        if after.num_ready > before.num_ready:
            ups_s = at
        elif after.num_ready < before.num_ready:
            assert at - ups_s >= max(
                scaling.panic_window_fraction * scaling.stable_window_s, scaling.scale_down_delay_s - TICK_S
            )


@pytest.mark.parametrize("name", SCALINGS)
def test_a_day_of_bursts(name: str) -> None:
    cluster = Cluster(SCALINGS[name], seed=7, start_s=40, park_for_s=300)
    simulate(cluster, 0.6)
    check(cluster)
    assert sorted(cluster.waits_s)[len(cluster.waits_s) // 2] < 40


def test_starts_that_fail_are_tried_again_while_requests_wait() -> None:
    cluster = Cluster(SCALINGS["plain"], seed=3, start_s=40, fail_share=0.4)
    simulate(cluster, 0.6)
    check(cluster)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_days_of_bursts(name: str, seed: int) -> None:
    cluster = Cluster(SCALINGS[name], seed=seed, start_s=240, fail_share=0.1, park_for_s=600)
    simulate(cluster, 3)
    check(cluster)
