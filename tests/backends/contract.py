"""What every backend must do: functions of a Ground, so that one list of checks serves all of them.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_the_contract(check, ground): run(check, ground)

What a backend has not it says itself, by what the Protocol gives (`can_park`, the objects of a trial); a check that
asks for more then looks for an honest refusal.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Protocol

import pytest

from ironloom.backends.local.probe import ask
from ironloom.errors import IronloomError
from ironloom.serve.replica import LIVE_STATES, Replica, ReplicaBackend, ReplicaState, ScaleOrder, ServiceReplicas
from ironloom.workload.serving import FieldNote, Serving

WITHIN_S = 60.0
CHECK_WITHIN_S = 240.0


class Ground(Protocol):
    """Where a backend under test stands. It outlives backend objects, as a disk or a cluster does."""

    def backend(self) -> AbstractAsyncContextManager[ReplicaBackend]:
        """A new backend object, not opened yet. Who leaves it has closed it."""
        ...

    async def declare(self, serving: Serving) -> None:
        """What the daemon does before it applies."""
        ...

    def serving(self, name: str) -> Serving:
        """One whose replicas get ready soon."""
        ...

    def broken(self, name: str) -> Serving:
        """One that may be applied, and whose replicas never get ready."""
        ...

    def unfit(self, name: str) -> Serving:
        """One that `check` refuses."""
        ...

    async def kill(self, replica: Replica) -> None:
        """End a replica as a machine does."""
        ...

    async def left(self, service: str) -> list[str]:
        """Whatever there is of a service, but for what is meant to outlive it."""
        ...


class Told:
    """What a backend reported, and whom it drained. While `holds` is not set, drains go on."""

    def __init__(self) -> None:
        self.reports: dict[str, ServiceReplicas] = {}
        self.drained: list[str] = []
        self.holds: asyncio.Event | None = None
        self._changed = asyncio.Event()

    def take(self, report: ServiceReplicas) -> None:
        self.reports[report.service] = report
        self._changed.set()

    async def drain(self, replica: Replica) -> None:
        assert replica.state in {ReplicaState.STOPPING, ReplicaState.PARKING}, "what is drained is told as going"
        self.drained.append(replica.id)
        self._changed.set()
        if self.holds is not None:
            await self.holds.wait()

    async def until(self, service: str, is_so: Callable[[ServiceReplicas], object]) -> ServiceReplicas:
        try:
            async with asyncio.timeout(WITHIN_S):
                while service not in self.reports or not is_so(self.reports[service]):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"it did not come to be: {self.reports.get(service)}") from None
        return self.reports[service]

    async def ready(self, service: str, number: int) -> tuple[Replica, ...]:
        """So many and no more live replicas, all of them ready."""
        report = await self.until(service, lambda one: len(ready(one)) == number == len(live(one)))
        return ready(report)


def ready(report: ServiceReplicas) -> tuple[Replica, ...]:
    return tuple(one for one in report.replicas if one.state is ReplicaState.READY)


def live(report: ServiceReplicas) -> tuple[Replica, ...]:
    return tuple(one for one in report.replicas if one.state in LIVE_STATES)


@asynccontextmanager
async def opened(ground: Ground, *, stop_replicas: bool = True) -> AsyncIterator[tuple[ReplicaBackend, Told]]:
    async with ground.backend() as backend:
        told = Told()
        await backend.open(on_change=told.take, drain=told.drain)
        try:
            yield backend, told
        finally:
            if told.holds is not None:
                told.holds.set()
            await backend.close(stop_replicas=stop_replicas)


async def applied(ground: Ground, backend: ReplicaBackend, serving: Serving, generation: int = 1) -> tuple[str, ...]:
    await ground.declare(serving)
    return await backend.apply(serving, generation)


async def answers(replica: Replica) -> bool:
    status, _ = await ask(replica.port, "GET", "/v1/models", timeout_s=10, host=replica.host)
    return status == 200


async def until_none_left(ground: Ground, service: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while found := await ground.left(service):
        assert time.monotonic() < deadline, f"there is still {found}"
        await asyncio.sleep(0.05)


# --- the checks ---


async def a_service_has_no_replica_until_one_is_ordered(ground: Ground) -> None:
    async with opened(ground) as (backend, told):
        await backend.check(ground.serving("quiet"))
        await applied(ground, backend, ground.serving("quiet"))
        report = await told.until("quiet", lambda _: True)
        assert report.replicas == ()
        assert report.failure is None
        backend.scale("quiet", ScaleOrder(num_ready=1))
        await told.until("quiet", live)
        await backend.delete("quiet")


async def an_order_brings_so_many_ready_replicas_that_answer_at_addresses_of_their_own(ground: Ground) -> None:
    async with opened(ground) as (backend, told):
        await applied(ground, backend, ground.serving("two"), 4)
        backend.scale("two", ScaleOrder(num_ready=2))
        found = await told.ready("two", 2)
        assert all([await answers(one) for one in found])
        assert len({(one.host, one.port) for one in found}) == len({one.id for one in found}) == 2
        assert {(one.service, one.generation) for one in found} == {("two", 4)}
        assert all(one.engine and one.devices for one in found)
        backend.scale("two", ScaleOrder(num_ready=2))  # the same order twice is the order once
        backend.scale("two", ScaleOrder(num_ready=3))
        more = await told.ready("two", 3)
        assert {one.id for one in found} < {one.id for one in more}
        await backend.delete("two")


async def fewer_are_drained_before_they_go_and_the_rest_stay(ground: Ground) -> None:
    async with opened(ground) as (backend, told):
        await applied(ground, backend, ground.serving("fewer"))
        backend.scale("fewer", ScaleOrder(num_ready=2))
        found = await told.ready("fewer", 2)
        told.holds = asyncio.Event()
        backend.scale("fewer", ScaleOrder(num_ready=1))
        report = await told.until("fewer", lambda one: len(ready(one)) == 1)
        (kept,) = ready(report)
        (going,) = [one for one in report.replicas if one.id != kept.id]
        assert going.state is ReplicaState.STOPPING
        await told.until("fewer", lambda _: told.drained == [going.id])
        assert await answers(going), "what is in flight in it goes on"
        told.holds.set()
        await told.until("fewer", lambda one: [each.id for each in one.replicas] == [kept.id])
        backend.scale("fewer", ScaleOrder(num_ready=0))
        await told.until("fewer", lambda one: not one.replicas)
        assert {*told.drained} == {one.id for one in found}
        await backend.delete("fewer")


async def a_replica_that_dies_is_replaced(ground: Ground) -> None:
    async with opened(ground) as (backend, told):
        await applied(ground, backend, ground.serving("mortal"))
        backend.scale("mortal", ScaleOrder(num_ready=1))
        (first,) = await told.ready("mortal", 1)
        await ground.kill(first)
        report = await told.until("mortal", lambda one: ready(one) and ready(one)[0].id != first.id)
        assert await answers(ready(report)[0])
        await backend.delete("mortal")


async def what_cannot_start_is_told_with_what_to_hope_for_until_it_is_mended(ground: Ground) -> None:
    async with opened(ground) as (backend, told):
        await applied(ground, backend, ground.broken("broken"))
        backend.scale("broken", ScaleOrder(num_ready=1))
        report = await told.until("broken", lambda one: one.failure)
        assert ready(report) == ()
        assert report.failure in report.waits_for
        # it is over, or somebody must mend it, or this is when it is tried again
        assert report.is_final or report.passes is False or report.retry_at_s is not None
        await applied(ground, backend, ground.serving("broken"), 2)
        (mended,) = ready(await told.until("broken", ready))
        assert mended.generation == 2
        await told.until("broken", lambda one: one.failure is None)
        await backend.delete("broken")


async def another_generation_gets_ready_before_the_old_one_goes(ground: Ground) -> None:
    async with opened(ground) as (backend, told):
        await applied(ground, backend, ground.serving("rolled"))
        backend.scale("rolled", ScaleOrder(num_ready=1))
        (old,) = await told.ready("rolled", 1)
        num_ready = [1]
        take = told.take

        def counted(report: ServiceReplicas) -> None:
            num_ready.append(len(ready(report)))
            take(report)

        told.take = counted  # type: ignore[method-assign]
        await applied(ground, backend, replace(ground.serving("rolled"), env={"A": "b"}), 2)
        await told.until("rolled", lambda one: [each.generation for each in live(one)] == [2] and ready(one))
        await told.until("rolled", lambda one: old.id not in {each.id for each in one.replicas})
        assert min(num_ready) >= 1, "there was always one"
        await backend.delete("rolled")


async def the_same_applied_again_changes_nothing_and_says_nothing(ground: Ground) -> None:
    async with opened(ground) as (backend, told):
        await applied(ground, backend, ground.serving("same"))
        backend.scale("same", ScaleOrder(num_ready=1))
        (first,) = await told.ready("same", 1)
        assert await applied(ground, backend, ground.serving("same")) == ()
        assert (await told.ready("same", 1))[0].id == first.id
        assert told.drained == []
        await backend.delete("same")


async def what_is_refused_is_refused_before_anything_is_made(ground: Ground) -> None:
    async with opened(ground) as (backend, told):
        with pytest.raises(IronloomError) as refused:
            await backend.check(ground.unfit("unfit"))
        assert str(refused.value)
        assert await ground.left("unfit") == []
        assert "unfit" not in told.reports


async def a_trial_tells_what_would_be_made_and_makes_nothing(ground: Ground) -> None:
    async with opened(ground) as (backend, told):
        await backend.check(ground.serving("tried"))
        trial = await backend.trial(ground.serving("tried"), 1)
        assert all(one["kind"] and one["metadata"]["name"] for one in trial.objects)
        assert await ground.left("tried") == []
        assert "tried" not in told.reports
        await applied(ground, backend, ground.serving("tried"))
        again = await backend.trial(ground.serving("tried"), 1)
        assert [one["kind"] for one in again.objects] == [one["kind"] for one in trial.objects]
        assert (await told.until("tried", lambda _: True)).replicas == ()
        await backend.delete("tried")


async def what_is_not_honoured_of_a_manifest_is_said_before_a_start(ground: Ground) -> None:
    async with opened(ground) as (backend, told):
        plain = ground.serving("noted")
        asking = replace(plain, not_honoured=(FieldNote(path="spec.x", message="spec.x is passed over"),))
        assert "spec.x is passed over" in backend.notes(asking)
        assert "spec.x is passed over" not in backend.notes(plain)
        assert "noted" not in told.reports


async def a_parked_replica_is_honoured_or_its_refusal_is_said(ground: Ground) -> None:
    async with opened(ground) as (backend, told):
        serving = ground.serving("parked")
        await applied(ground, backend, serving)
        backend.scale("parked", ScaleOrder(num_ready=1))
        (first,) = await told.ready("parked", 1)
        why_not = backend.can_park("parked")
        backend.scale("parked", ScaleOrder(num_ready=0, num_parked=1))
        if why_not is None:
            await told.until("parked", lambda one: [each.state for each in one.replicas] == [ReplicaState.PARKED])
            backend.scale("parked", ScaleOrder(num_ready=1))
            assert (await told.ready("parked", 1))[0].id == first.id
        else:
            wanted = replace(serving, scaling=replace(serving.scaling, park_for_s=60.0))
            assert any(why_not in note for note in backend.notes(wanted))
            await told.until("parked", lambda one: not one.replicas)
        assert told.drained == [first.id]
        await backend.delete("parked")


async def a_delete_drains_and_leaves_nothing(ground: Ground) -> None:
    async with opened(ground) as (backend, told):
        await applied(ground, backend, ground.serving("doomed"))
        backend.scale("doomed", ScaleOrder(num_ready=1))
        (first,) = await told.ready("doomed", 1)
        assert await ground.left("doomed")
        await backend.delete("doomed")
        assert told.drained == [first.id]
        await until_none_left(ground, "doomed")
        await backend.delete("doomed")  # no such service is fine
        await applied(ground, backend, ground.serving("doomed"))
        backend.scale("doomed", ScaleOrder(num_ready=1))
        (second,) = await told.ready("doomed", 1)
        assert second.id != first.id
        await backend.delete("doomed")


async def what_runs_is_adopted_by_the_next_one_and_not_doubled(ground: Ground) -> None:
    async with opened(ground, stop_replicas=False) as (backend, told):
        await applied(ground, backend, ground.serving("kept"))
        backend.scale("kept", ScaleOrder(num_ready=2))
        first = await told.ready("kept", 2)
    assert told.drained == []
    async with opened(ground) as (backend, told):
        await applied(ground, backend, ground.serving("kept"))
        backend.scale("kept", ScaleOrder(num_ready=2))
        second = await told.ready("kept", 2)
        assert {one.id for one in second} == {one.id for one in first}
        assert {(one.host, one.port) for one in second} == {(one.host, one.port) for one in first}
        backend.scale("kept", ScaleOrder(num_ready=1))
        await told.ready("kept", 1)
        await backend.delete("kept")
        await until_none_left(ground, "kept")


async def who_ends_it_with_its_replicas_leaves_none_running(ground: Ground) -> None:
    async with opened(ground) as (backend, told):
        await applied(ground, backend, ground.serving("ended"))
        backend.scale("ended", ScaleOrder(num_ready=1))
        (first,) = await told.ready("ended", 1)
    assert told.drained == [first.id]
    async with opened(ground) as (backend, told):
        await applied(ground, backend, ground.serving("ended"))
        await told.until("ended", lambda one: not live(one))
        await backend.delete("ended")


CHECKS: tuple[Callable[[Ground], Awaitable[None]], ...] = (
    a_service_has_no_replica_until_one_is_ordered,
    an_order_brings_so_many_ready_replicas_that_answer_at_addresses_of_their_own,
    fewer_are_drained_before_they_go_and_the_rest_stay,
    a_replica_that_dies_is_replaced,
    what_cannot_start_is_told_with_what_to_hope_for_until_it_is_mended,
    another_generation_gets_ready_before_the_old_one_goes,
    the_same_applied_again_changes_nothing_and_says_nothing,
    what_is_refused_is_refused_before_anything_is_made,
    a_trial_tells_what_would_be_made_and_makes_nothing,
    what_is_not_honoured_of_a_manifest_is_said_before_a_start,
    a_parked_replica_is_honoured_or_its_refusal_is_said,
    a_delete_drains_and_leaves_nothing,
    what_runs_is_adopted_by_the_next_one_and_not_doubled,
    who_ends_it_with_its_replicas_leaves_none_running,
)


def run(check: Callable[[Ground], Awaitable[None]], ground: Ground) -> None:
    """On a loop of its own, in bounded time."""

    async def bounded() -> None:
        async with asyncio.timeout(CHECK_WITHIN_S):
            await check(ground)

    asyncio.run(bounded())
