"""What the gateway that decides hears from the others: their load, and what they still have in replicas that go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from ironloom.serve.pool import LoadSample, ServicePool
from ironloom.server.control import PeerLoad, PeerReport

FRESH_S: Final = 5.0
"""A gateway that was not heard for so long has nothing in flight any more."""
MAX_GATEWAYS: Final = 100


class Peers:
    """The last report of each other gateway. Lives on the event loop."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._reports: dict[str, tuple[float, PeerReport]] = {}
        self._news = asyncio.Event()

    def take(self, report: PeerReport) -> None:
        now_s = self._now()
        self._reports = {name: one for name, one in self._reports.items() if now_s - one[0] < FRESH_S}
        if report.gateway in self._reports or len(self._reports) < MAX_GATEWAYS:
            self._reports[report.gateway] = (now_s, report)
        self._news.set()

    def loads(self, service: str) -> list[PeerLoad]:
        """Of a service, a gateway each, as far as they were heard lately."""
        now_s = self._now()
        fresh = [report for at_s, report in self._reports.values() if now_s - at_s < FRESH_S]
        return [report.services.get(service, PeerLoad()) for report in fresh]

    async def drained(self, service: str, replica: str, until_s: float) -> None:
        """Return when every gateway that was heard lately has nothing in flight in the replica and sends it nothing
        new, or at `until_s` (monotonic)."""
        while self._now() < until_s:
            if all(load.draining.get(replica) == 0 for load in self.loads(service)):
                return
            self._news.clear()
            wait = asyncio.create_task(self._news.wait())
            await asyncio.wait({wait}, timeout=min(1.0, until_s - self._now()))
            wait.cancel()


class SharedLoad:
    """A service's load over all gateways, as its scaler asks for it."""

    def __init__(self, pool: ServicePool, peers: Peers) -> None:
        self._pool = pool
        self._peers = peers

    @property
    def in_flight(self) -> int:
        return self._pool.in_flight + sum(load.in_flight for load in self._peers.loads(self._pool.service))

    @property
    def num_held(self) -> int:
        return self._pool.num_held + sum(load.held for load in self._peers.loads(self._pool.service))

    def sample(self, now_s: float) -> LoadSample:
        own, others = self._pool.sample(now_s), self._peers.loads(self._pool.service)
        return LoadSample(
            concurrency=own.concurrency + sum(load.concurrency for load in others),
            rps=own.rps + sum(load.rps for load in others),
        )


def load_of(pool: ServicePool, draining: Mapping[str, int], now_s: float) -> PeerLoad:
    """A follower's load of one service since its last report."""
    sample = pool.sample(now_s)
    return PeerLoad(
        concurrency=sample.concurrency,
        rps=sample.rps,
        in_flight=pool.in_flight,
        held=pool.num_held,
        draining=dict(draining),
    )
