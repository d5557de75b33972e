"""A service's replicas as the gateway uses them: who is in flight where, who is held, and who is next.

One ServicePool a service. It owns the counts; the backend's reports tell it which replicas there are; the scaler reads
its samples. Everything is synchronous and runs on the event loop: a request asks with `acquire`, and either has a
replica at once or is held in a queue, first come first served, until `granted` or `refused` is called on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

from ironloom.errors import RequestError
from ironloom.serve.choice import choose, preferred_for
from ironloom.serve.http.client import Upstream
from ironloom.serve.replica import LIVE_STATES, Replica, ReplicaState, ServiceReplicas
from ironloom.units import MIB
from ironloom.workload.serving import Serving

START_PATIENCE_S = 10.0
"""Requests wait for a failed start to be tried again if that is to happen within this long, and only once each."""
_MAX_PREFIXES = 4096
"""Prefixes whose preferred replica is remembered; beyond, all are forgotten and found anew."""
_SUSPECT_FIRST_S = 0.05
_SUSPECT_MAX_S = 2.0
"""A replica that refuses connections is left alone this long, doubled each time, until the backend says what it is."""


class Claim(Protocol):
    """A request that wants a replica. Its methods are called from the loop; it must not call back into `acquire`."""

    def granted(self, slot: Slot, /) -> None:
        """It was held, and now has this slot: to be given back by `release`."""
        ...

    def refused(self, error: RequestError, /) -> None:
        """It was held, and there will be no replica for it."""
        ...

    def prefix_hash(self) -> int | None:
        """A hash of how its prompt begins; None when that says nothing."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadSample:
    """A service's load since the last sample."""

    concurrency: float
    """Requests in flight and held, averaged over the time since the last sample."""
    rps: float
    """Requests that arrived, a second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldLimits:
    """How much may wait for one service's replicas."""

    max_requests: int = 1000
    max_bytes: int = 256 * MIB


class Slot:
    """A ready replica: its connections and what is in flight in it."""

    __slots__ = ("hash", "in_flight", "num_refusals", "replica", "suspect", "upstream")

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.upstream = Upstream(replica.host, replica.port, replica.path_prefix)
        self.in_flight = 0
        self.hash = crc32(replica.id.encode())
        self.suspect = False
        self.num_refusals = 0


class _Held:
    """A claim in the queue."""

    __slots__ = ("claim", "num_bytes", "num_failed_starts", "since_s")

    def __init__(self, claim: Claim, num_bytes: int, since_s: float) -> None:
        self.claim = claim
        self.num_bytes = num_bytes
        self.since_s = since_s
        self.num_failed_starts = 0


class ServicePool:
    """See the module. `on_hold` is called whenever a request is held: the scaler is poked by it."""

    def __init__(
        self,
        serving: Serving,
        *,
        on_hold: Callable[[], None] = lambda: None,
        hold_limits: HoldLimits | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.service = serving.name
        self.in_flight = 0
        """Requests that have a replica."""
        self.held_bytes = 0
        self.on_hold = on_hold
        self._hold_limits = hold_limits or HoldLimits()
        self._monotonic = monotonic
        self._wall = wall
        self._limit = serving.scaling.container_concurrency
        self._slots: dict[str, Slot] = {}
        """Ready replicas by id."""
        self._free: list[Slot] = []
        """Those of them that do not refuse connections."""
        self._preferred: dict[int, Slot] = {}
        """Of prefixes seen lately, the replica that knows each best."""
        self._leaving: dict[str, Slot] = {}
        """Replicas that take nothing new but still have requests in flight."""
        self._draining: set[str] = set()
        self._empty: dict[str, list[asyncio.Future[None]]] = {}
        """Who waits for a replica to have nothing in flight, by replica id."""
        self._held: dict[Claim, _Held] = {}
        self._queue: deque[_Held] = deque()
        """In order; entries whose claim is no longer in `_held` are skipped."""
        self._report = ServiceReplicas(service=serving.name)
        self._closed: RequestError | None = None
        now_s = monotonic()
        self._work_s = 0.0
        """Sum of the times at which requests left, less the sum of those at which they came: with n inside at t,
        the integral of (in flight + held) over time is this + n * t, in request-seconds."""
        self._sampled_work_s = 0.0
        self._sample_s = now_s
        self._num_arrived = 0

    # --- the backend's side ---

    def configure(self, serving: Serving) -> None:
        """Another manifest for the same service."""
        self._limit = serving.scaling.container_concurrency
        self._pump()

    def update(self, report: ServiceReplicas) -> None:
        """The backend's report: ready replicas get requests, others none; the held hear of failed starts."""
        was_coming, last, self._report = self._is_coming(), self._report, report
        ready = {replica.id: replica for replica in report.replicas if replica.state is ReplicaState.READY}
        states = {replica.id: replica.state for replica in report.replicas}
        for replica_id in [replica_id for replica_id in self._slots if replica_id not in ready]:
            self._retire(replica_id)
        for replica_id in [replica_id for replica_id in self._leaving if _is_dead(states.get(replica_id))]:
            self._leaving.pop(replica_id).upstream.abort()
        self._draining &= ready.keys()  # once it is reported as leaving, its state alone keeps requests away
        for replica_id, replica in ready.items():
            if replica_id not in self._draining:
                self._admit(replica)
        self._refresh_free()
        self._pump()
        if report.failure is not None and report.passes is not True and self._held and not self._is_coming():
            changed = (report.failure, report.retry_at_s) != (last.failure, last.retry_at_s)
            self._tell_failure(is_news=changed or was_coming)

    async def drain(self, replica: Replica, deadline_s: float) -> None:
        """Send the replica nothing more; return when nothing is in flight in it, or at `deadline_s` (monotonic)."""
        if any(known.id == replica.id and known.state is ReplicaState.READY for known in self._report.replicas):
            self._draining.add(replica.id)
        self._retire(replica.id)
        if replica.id not in self._leaving:
            return
        empty = asyncio.get_running_loop().create_future()
        self._empty.setdefault(replica.id, []).append(empty)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(empty, max(0.0, deadline_s - self._monotonic()))

    def close(self, error: RequestError) -> None:
        """The service is gone: refuse what is held, and what still comes, with this error."""
        self._closed = error
        for held in self._take_held():
            held.claim.refused(error)

    def _admit(self, replica: Replica) -> None:
        slot = self._slots.get(replica.id)
        if slot is None:
            slot = self._leaving.pop(replica.id, None)
            if slot is None:
                slot = Slot(replica)
            slot.upstream.closed = False
            self._slots[replica.id] = slot
        slot.replica = replica

    def _retire(self, replica_id: str) -> None:
        slot = self._slots.pop(replica_id, None)
        if slot is None:
            return
        self._refresh_free()
        slot.upstream.close()
        if slot.in_flight:
            self._leaving[replica_id] = slot
        else:
            self._tell_empty(replica_id)

    def _tell_empty(self, replica_id: str) -> None:
        for waiter in self._empty.pop(replica_id, ()):
            if not waiter.done():
                waiter.set_result(None)

    # --- the gateway's side ---

    @property
    def num_held(self) -> int:
        return len(self._held)

    @property
    def num_ready(self) -> int:
        return len(self._slots)

    @property
    def report(self) -> ServiceReplicas:
        """The backend's last report."""
        return self._report

    def in_flight_of(self, replica_id: str) -> int:
        """Requests in flight in one replica."""
        slot = self._slots.get(replica_id) or self._leaving.get(replica_id)
        return slot.in_flight if slot is not None else 0

    def acquire(self, claim: Claim, num_bytes: int, now_s: float) -> Slot | None:
        """A replica now, or None: the claim is held, and hears of it by `granted` or `refused`.

        `now_s` is monotonic. Raises RequestError 429 when too much is held already, 503 when no start is in sight.
        """
        self._num_arrived += 1
        if not self._held:
            slot = self._free_slot(claim)
            if slot is not None:
                self._work_s -= now_s
                self.in_flight += 1
                slot.in_flight += 1
                return slot
        if self._closed is not None:
            raise self._closed
        limits = self._hold_limits
        if len(self._held) >= limits.max_requests or self.held_bytes + num_bytes > limits.max_bytes:
            raise RequestError(
                429,
                f"{len(self._held)} requests already wait for {self.service}",
                type="rate_limit_error",
                code="queue_full",
                source="gateway",
                retry_after_s=1.0 if self._slots else 5.0,
            )
        if (self._report.is_final or self._report.passes is False) and not self._is_coming():
            raise self._start_failed()
        if self._report.retry_at_s is not None and not self._is_coming():
            wait_s = self._report.retry_at_s - self._wall()
            if wait_s > START_PATIENCE_S:
                self.on_hold()
                raise self._start_failed()
        self._work_s -= now_s
        self._hold(_Held(claim, num_bytes, now_s), first=False)
        return None

    def requeue(self, claim: Claim, slot: Slot, num_bytes: int, now_s: float) -> None:
        """The claim's replica failed it before its answer began: it is held again, ahead of all others, and may be
        granted another one (or the same) before this returns."""
        self._give_back(slot)
        if self._closed is not None:
            self._work_s += now_s
            claim.refused(self._closed)
            return
        self._hold(_Held(claim, num_bytes, now_s), first=True)
        self._pump()

    def release(self, slot: Slot, now_s: float) -> None:
        """A request is over, however it ended."""
        self._work_s += now_s
        if self._leaving or self._held:
            self._give_back(slot)
            self._pump()
        else:
            self.in_flight -= 1
            slot.in_flight -= 1

    def withdraw(self, claim: Claim, now_s: float) -> None:
        """A held claim wants nothing more. One that is not held is ignored."""
        held = self._held.pop(claim, None)
        if held is not None:
            self._work_s += now_s
            self.held_bytes -= held.num_bytes
            if len(self._queue) > 2 * len(self._held) + 16:
                self._queue = deque(entry for entry in self._queue if self._held.get(entry.claim) is entry)

    def suspect(self, slot: Slot) -> None:
        """The replica refused a connection: try others first, and this one again soon."""
        if slot.suspect:
            return
        slot.suspect = True
        self._refresh_free()
        pause_s = min(_SUSPECT_MAX_S, _SUSPECT_FIRST_S * 2**slot.num_refusals)
        slot.num_refusals += 1
        asyncio.get_running_loop().call_later(pause_s, self._trust, slot)

    def _trust(self, slot: Slot) -> None:
        slot.suspect = False
        self._refresh_free()
        self._pump()

    def sample(self, now_s: float) -> LoadSample:
        """The load since the last call; `now_s` is monotonic."""
        num_inside = self.in_flight + len(self._held)
        span_s = now_s - self._sample_s
        if span_s <= 0:
            return LoadSample(concurrency=float(num_inside), rps=0.0)
        work_s = self._work_s + num_inside * now_s
        concurrency = max(0.0, (work_s - self._sampled_work_s) / span_s)  # rounding may leave a hair below zero
        sample = LoadSample(concurrency=concurrency, rps=self._num_arrived / span_s)
        self._sampled_work_s = work_s
        self._num_arrived = 0
        self._sample_s = now_s
        return sample

    # --- inside ---

    def _give_back(self, slot: Slot) -> None:
        self.in_flight -= 1
        slot.in_flight -= 1
        if self._leaving and slot.in_flight == 0 and self._leaving.get(slot.replica.id) is slot:
            del self._leaving[slot.replica.id]
            self._tell_empty(slot.replica.id)

    def _hold(self, held: _Held, *, first: bool) -> None:
        self._held[held.claim] = held
        self.held_bytes += held.num_bytes
        if first:
            self._queue.appendleft(held)
        else:
            self._queue.append(held)
        self.on_hold()

    def _free_slot(self, claim: Claim) -> Slot | None:
        slots = self._free
        if self._limit:
            slots = [slot for slot in slots if slot.in_flight < self._limit]
        if len(slots) < 2:
            return slots[0] if slots else None
        prefix = claim.prefix_hash()
        if prefix is None:
            return choose(slots, None)
        preferred = self._preferred.get(prefix)
        if preferred is None:
            preferred = preferred_for(prefix, self._free)
            if len(self._preferred) >= _MAX_PREFIXES:
                self._preferred.clear()
            self._preferred[prefix] = preferred
        if self._limit and preferred.in_flight >= self._limit:
            preferred = None
        return choose(slots, preferred)

    def _refresh_free(self) -> None:
        """Which replicas may be chosen has changed."""
        self._free = [slot for slot in self._slots.values() if not slot.suspect]
        self._preferred.clear()

    def _pump(self) -> None:
        """Give free replicas to those who wait, in order."""
        while self._queue:
            held = self._queue[0]
            if self._held.get(held.claim) is not held:
                self._queue.popleft()
                continue
            slot = self._free_slot(held.claim)
            if slot is None:
                return
            self._queue.popleft()
            del self._held[held.claim]
            self.held_bytes -= held.num_bytes
            self.in_flight += 1
            slot.in_flight += 1
            held.claim.granted(slot)

    def _is_coming(self) -> bool:
        """True while a replica is ready, or on its way to be with a chance to get there."""
        report = self._report
        return report.passes is not False and any(replica.state in LIVE_STATES for replica in report.replicas)

    def _tell_failure(self, *, is_news: bool) -> None:
        """Starts fail and none is under way. Who waits hears of it, unless another try is near and it is their first
        failure."""
        retry_at_s = self._report.retry_at_s
        near = retry_at_s is not None and retry_at_s - self._wall() <= START_PATIENCE_S
        for held in list(self._queue):
            if self._held.get(held.claim) is not held:
                continue
            if is_news:
                held.num_failed_starts += 1
            if near and held.num_failed_starts <= 1:
                continue
            self.withdraw(held.claim, self._monotonic())
            held.claim.refused(self._start_failed())

    def _start_failed(self) -> RequestError:
        retry_at_s = self._report.retry_at_s
        return RequestError(
            503,
            f"no replica of {self.service} could be started: {self._report.failure}",
            type="server_error",
            code="start_failed",
            source="engine",
            retry_after_s=max(1.0, retry_at_s - self._wall()) if retry_at_s is not None else self._report.retry_after_s,
            hint=f"`ironloom describe {self.service}` shows its events"
            + ("; mend what it says, and apply the manifest again" if self._report.is_final else ""),
        )

    def _take_held(self) -> list[_Held]:
        entries = [held for held in self._queue if self._held.get(held.claim) is held]
        for held in entries:
            self.withdraw(held.claim, self._monotonic())
        self._queue.clear()
        return entries


def _is_dead(state: ReplicaState | None) -> bool:
    return state is None or state in {ReplicaState.STOPPED, ReplicaState.FAILED}
