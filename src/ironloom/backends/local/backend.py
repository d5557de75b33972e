"""Replicas as processes on this machine: the ReplicaBackend called `local`.

Decisions are pure functions (rollout.py, backoff.py, devices.py, adopt.py); each process has its owner (process.py).
Here is what holds them together: which services there are, what was ordered, and who is told.
"""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

from ironloom.account.database import Database
from ironloom.account.log import boot_id
from ironloom.backends.local.devices import Inventory, cpu_threads, missing_gpus
from ironloom.backends.local.ground import Ground, Log, Timing
from ironloom.backends.local.holdings import Holdings
from ironloom.backends.local.launcher import Launchers
from ironloom.backends.local.logfile import forget_old, read_logs
from ironloom.backends.local.ports import Ports
from ironloom.backends.local.prepare import Preparation, Preparer
from ironloom.backends.local.process import ReplicaOwner
from ironloom.backends.local.reconcile import Actions
from ironloom.backends.local.rollout import decide
from ironloom.backends.local.runs import LocalRuns
from ironloom.backends.local.service import Service
from ironloom.backends.local.spawn import keep_descriptors
from ironloom.backends.local.store import Store
from ironloom.backends.local.take_up import take_up
from ironloom.errors import IronloomError
from ironloom.fleet.node import Node
from ironloom.serve.engines import ENGINES
from ironloom.serve.engines import engine as find_engine
from ironloom.serve.engines.base import Engine, LaunchOrder
from ironloom.serve.models.cache import default_cache_dir
from ironloom.serve.replica import LIVE_STATES, Replica, ScaleOrder, ServiceReplicas, Trial
from ironloom.serve.replica import ReplicaState as State
from ironloom.workload.serving import Ground as RunsOn
from ironloom.workload.serving import Serving

logger = logging.getLogger(__name__)

ID_LETTERS = "bcdfghjklmnpqrstvwxz"
"""No vowels, as in Kubernetes' generated names: no words come out."""
PREPARE_MARK = "prepare"
"""What a child that prepares a model carries in place of a replica's id; one left by a dead daemon is ended."""
LOOK_AGAIN_S = 1.0
"""While a replica parks, what is missing is looked at again this often."""


class LocalBackend:
    """See ReplicaBackend for what the methods promise."""

    name = "local"

    def __init__(
        self,
        *,
        db: Database,
        log: Log,
        state_dir: Path,
        node: Callable[[], Node],
        inventory: Inventory | None = None,
        engines: tuple[Engine, ...] | None = None,
        prepare: Preparer | None = None,
        cache_dir: Path | None = None,
        claims: Callable[[str], Mapping[str, Path]] = lambda _: {},
        timing: Timing | None = None,
        clock: Callable[[], float] = time.time,
        python: str = sys.executable,
        train_program: tuple[str, ...] | None = None,
    ) -> None:
        """`node` is called often and must be quick (find GPUs once). `inventory` replaces what the node has to give,
        for tests with simulated GPUs. `claims` gives the folders that stand for a service's volume claims. `clock`
        gives seconds since the epoch. `train_program` replaces the command of a training run's ranks, for tests."""
        self._db = db
        self._log = log
        self._state_dir = state_dir
        self._node = node
        self._inventory = inventory
        self._engines = {engine.name: engine for engine in engines} if engines is not None else None
        self._prepare = prepare
        self._cache_dir = cache_dir or default_cache_dir()
        self._claims = claims
        self._timing = timing or Timing()
        self._clock = clock
        self._python = python
        self.runs = LocalRuns(
            database=db, folder=state_dir / "runs", cache_dir=self._cache_dir, python=python, program=train_program
        )
        """Training runs, which share the devices with the services' replicas."""
        self._services: dict[str, Service] = {}
        self._on_change: Callable[[ServiceReplicas], None]
        self._closing = False
        self._ground: Ground

    # The Protocol.

    async def open(
        self,
        *,
        on_change: Callable[[ServiceReplicas], None],
        drain: Callable[[Replica], Awaitable[None]],
    ) -> None:
        self._on_change = on_change
        keep_descriptors()
        log_dir = self._state_dir / "logs"
        log_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        state_id = _state_id(self._state_dir)
        ground = self._ground = Ground(
            store=Store(self._db),
            log=self._log,
            log_dir=log_dir,
            cache_dir=self._cache_dir,
            state_id=state_id,
            boot_id=boot_id(),
            timing=self._timing,
            launchers=Launchers(
                python=self._python,
                env=lambda: ground.environment("", {}),
                state_id=state_id,
                log_path=log_dir / "launcher.log",
            ),
            holdings=Holdings(self._what_is_here, lambda: self._node().available_memory_bytes),
            ports=Ports(),
            wall_s=self._clock,
            num_threads=self._num_threads,
            num_gpus_here=lambda: len(self._what_is_here().gpus),
            drain=drain,
            changed=self._changed,
        )
        self.runs.stand_on(ground)
        await take_up(ground, self._adopt)
        for service in self._services.values():
            self._look(service)

    async def check(self, serving: Serving) -> None:
        await self._preparer().check(serving)

    async def trial(self, serving: Serving, generation: int) -> Trial:  # noqa: ARG002
        return Trial()

    async def apply(self, serving: Serving, generation: int) -> tuple[str, ...]:
        service = self._services.setdefault(serving.name, Service(serving.name))
        if service.serving == serving and service.generation == generation and not service.is_final:
            return ()
        if service.is_final:  # what it failed for may have been mended
            service.begin_anew()
        prepare = self._preparer()
        preparation = Preparation(lambda say: prepare(serving, say))
        service.begin_generation(serving, generation, preparation)
        self._changed(serving.name)
        if service.warming is not None:
            service.warming.cancel()
        service.warming = asyncio.create_task(self._warm(service, serving, preparation), name=f"warm-{serving.name}")
        return ()

    def scale(self, service: str, order: ScaleOrder) -> None:
        found = self._services.get(service)
        if found is not None:
            found.order = order
            self._look(found)

    def notes(self, serving: Serving) -> tuple[str, ...]:
        note = missing_gpus(serving.resources, len(self._what_is_here().gpus))
        told = tuple(one.message for one in serving.notes_on(RunsOn.LOCAL))
        return told if note is None else (*told, note)

    def can_park(self, service: str) -> str | None:
        found = self._services.get(service)
        owners = list(found.replicas.values()) if found else []
        why_not = next((owner.status.cannot_park for owner in owners if owner.status.cannot_park), None)
        if why_not is not None:
            return why_not
        names = {owner.replica.engine for owner in owners}
        prepared = found.preparation.result if found and found.preparation else None
        engines = {name: self._engine(name) for name in names if name}
        if prepared is not None:
            engines[prepared.engine.name] = prepared.engine
        if not engines:
            return "its engine is not known before its first start"
        return next((f"the engine {name} cannot park" for name, engine in engines.items() if not engine.parks), None)

    async def delete(self, service: str) -> None:
        found = self._services.get(service)
        if found is None:
            return
        found.deleting = True
        await self._stop_all(found, "the service was deleted")
        if found.timer is not None:
            found.timer.cancel()
        await self._cool(found)
        self._services.pop(service, None)
        await asyncio.to_thread(shutil.rmtree, self._ground.log_dir / service, ignore_errors=True)

    async def logs(
        self, service: str, replica: str | None, *, follow: bool, tail: int
    ) -> AsyncIterator[tuple[str, str]]:
        async for line in read_logs(self._ground.log_dir / service, replica, follow=follow, tail=tail):
            yield line

    async def close(self, *, stop_replicas: bool) -> None:
        if self._closing:
            return
        self._closing = True
        services = list(self._services.values())
        runs_closed = asyncio.create_task(self.runs.close(stop=stop_replicas), name="close-runs")
        if stop_replicas:
            await asyncio.gather(*(self._stop_all(service, "the daemon ends") for service in services))
        tasks = [owner.task for service in services for owner in service.replicas.values() if owner.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for service in services:
            if service.timer is not None:
                service.timer.cancel()
            await self._cool(service)
        await runs_closed
        await self._ground.launchers.close_but(())
        self._ground.holdings.close()

    def _adopt(self, owner: ReplicaOwner) -> None:
        replica = owner.replica
        service = self._services.setdefault(replica.service, Service(replica.service))
        service.generation = max(service.generation, replica.generation)
        service.replicas[replica.id] = owner
        self._begin(service, owner)

    # Deciding and doing.

    def _changed(self, name: str) -> None:
        """A replica or the service itself changed: look at it once the present callback is through, and report."""
        service = self._services.get(name)
        if service is not None and not service.dirty:
            service.dirty = True
            asyncio.get_running_loop().call_soon(self._look, service)

    def _look(self, service: Service) -> None:
        """Decide on the next actions, do them, report."""
        service.dirty = False
        service.take_notes(time.monotonic(), self._clock(), self._timing.backoff)
        known = service.name in self._services and not self._closing
        if known and not service.deleting and service.serving is not None and service.order is not None:
            self._do(service, self._decide(service))
        self._report(service)

    def _decide(self, service: Service) -> Actions:
        assert service.order is not None
        members = service.members()
        may_start = service.may_start(time.monotonic())
        wait_s = service.backoff.retry_at_s - time.monotonic()
        if any(member.state is State.PARKING for member in members):
            wait_s = LOOK_AGAIN_S
        if service.timer is not None:
            service.timer.cancel()
            service.timer = None
        if wait_s > 0:
            service.timer = asyncio.get_running_loop().call_later(wait_s + 0.001, self._look, service)
        return decide(
            members,
            service.order,
            generation=service.generation,
            failing=service.failing,
            may_start=may_start,
            now_s=self._clock(),
        )

    def _do(self, service: Service, actions: Actions) -> None:
        assert service.order is not None
        reason = service.order.reason or "ordered"
        for replica in actions.stop:
            service.replicas[replica].request_stop(self._why_stop(service, replica, reason))
        for replica in actions.park:
            service.replicas[replica].request_park(reason)
        for replica in actions.wake:
            service.replicas[replica].request_wake(reason)
        for _ in range(actions.num_starts):
            self._start(service, reason)

    def _why_stop(self, service: Service, replica: str, reason: str) -> str:
        generation = service.replicas[replica].replica.generation
        if generation != service.generation:
            return f"generation {service.generation} took over from {generation}"
        return reason

    def _start(self, service: Service, reason: str) -> None:
        assert service.serving is not None
        assert service.preparation is not None
        replica = Replica(
            id=self._new_id(service.name),
            service=service.name,
            state=State.STARTING,
            generation=service.generation,
            engine=service.serving.runtime or "",
            reason=reason,
            phase="preparing",
            since_s=self._clock(),
        )
        owner = ReplicaOwner(
            self._ground,
            replica,
            serving=service.serving,
            prepare=service.preparation.get,
            start_deadline_s=service.serving.start_deadline_s,
        )
        live = {owner.replica.id for owner in service.replicas.values()}
        forget_old(self._ground.log_dir / service.name, live)
        service.replicas[replica.id] = owner
        self._begin(service, owner)

    def _begin(self, service: Service, owner: ReplicaOwner) -> None:
        owner.begin()
        assert owner.task is not None
        owner.task.add_done_callback(lambda _: self._over(service, owner))

    def _over(self, service: Service, owner: ReplicaOwner) -> None:
        """An owner is through: its replica is gone, or let go of."""
        replica = owner.replica
        if replica.state in LIVE_STATES or self._closing:
            return
        service.replicas.pop(replica.id, None)
        if service.name in self._services:
            self._look(service)

    def _report(self, service: Service) -> None:
        report = service.report(time.monotonic(), self._ground.holdings)
        if report != service.reported:
            service.reported = report
            self._on_change(report)

    async def _warm(self, service: Service, serving: Serving, preparation: Preparation) -> None:
        """Have the launcher of a service's engine up before its first start, if that costs neither download nor
        conversion: a start from zero then does not wait for imports."""
        try:
            if not await self._preparer().is_quick(serving):
                return
            prepared = await preparation.get(lambda _: None)
            order = LaunchOrder(model=prepared.model, serving=serving, port=1, cache_dir=self._cache_dir)
            service.preload = prepared.engine.launch(order).preload
            self._ground.launchers.warm(service.preload)
        except IronloomError:
            pass  # a start will say why
        except Exception:
            logger.exception("warming up for %s failed", serving.name)

    async def _cool(self, service: Service) -> None:
        """The end of a service's warming; a launcher that no other service needs ends too."""
        if service.warming is not None:
            service.warming.cancel()
            await asyncio.gather(service.warming, return_exceptions=True)
        needed = {other.preload for other in self._services.values() if other is not service}
        await self._ground.launchers.close_but(needed)

    async def _stop_all(self, service: Service, reason: str) -> None:
        tasks = [owner.task for owner in service.replicas.values() if owner.task is not None]
        for owner in list(service.replicas.values()):
            owner.request_stop(reason)
        await asyncio.gather(*tasks, return_exceptions=True)

    # What the ground asks.

    def _what_is_here(self) -> Inventory:
        return self._inventory if self._inventory is not None else Inventory.of(self._node())

    def _num_threads(self) -> int:
        """By what is wanted now, on CPU, over all services: the one that starts counts too."""
        num_wanted = 0
        for service in self._services.values():
            ready = [
                o for o in service.replicas.values() if o.replica.state in LIVE_STATES and not o.status.need.num_gpus
            ]
            num_wanted += len([o for o in ready if o.replica.state is not State.PARKED])
        return cpu_threads(self._node(), num_wanted)

    def _preparer(self) -> Preparer:
        if self._prepare is None:
            from ironloom.backends.local.prepare_model import ModelPreparer

            self._prepare = ModelPreparer(
                python=self._python,
                engines=lambda: tuple(self._engine(name) for name in self._engine_names()),
                cache_dir=self._cache_dir,
                node=self._node,
                claims=self._claims,
                env=lambda: self._ground.environment(PREPARE_MARK, {}),
            )
        return self._prepare

    def _engine_names(self) -> tuple[str, ...]:
        return tuple(self._engines) if self._engines is not None else tuple(ENGINES)

    def _engine(self, name: str) -> Engine:
        return self._engines[name] if self._engines is not None else find_engine(name)

    def _new_id(self, service: str) -> str:
        return f"{service}-{''.join(random.choices(ID_LETTERS, k=5))}"


def _state_id(state_dir: Path) -> str:
    """The state folder's own id (see server/state_dir.py); made here where no daemon did."""
    file = state_dir / "id"
    if not file.exists():
        file.write_text(uuid.uuid4().hex)
    return file.read_text().strip()
