"""A local backend in a folder of its own, with everything it told, for tests to order things of and to wait on."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.fakes.fake_engine import FakePreparer

from ironloom.account.database import Database
from ironloom.account.events import Event, EventKind
from ironloom.backends.local import procfs
from ironloom.backends.local.backend import LocalBackend
from ironloom.backends.local.backoff import BackoffLimits
from ironloom.backends.local.devices import Inventory
from ironloom.backends.local.ground import Timing
from ironloom.backends.local.store import Row, Store
from ironloom.fleet.node import Node
from ironloom.serve.replica import Replica, ScaleOrder, ServiceReplicas
from ironloom.serve.replica import ReplicaState as State
from ironloom.units import GIB
from ironloom.workload.serving import Serving

QUICK = Timing(
    stop_grace_s=0.3,
    park_timeout_s=1.0,
    probe_timeout_s=1.0,
    tick_s=0.1,
    hung_after_s=0.3,
    backoff=BackoffLimits(first_s=0.05, max_s=0.4),
)
PATIENCE_S = 15.0
NODE = Node(name="test", num_cpus=4, memory_bytes=32 * GIB, available_memory_bytes=16 * GIB)


class World:
    """See the module. `drained` lists the replicas that were drained; `hold_drain` makes drains wait."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.reports: dict[str, ServiceReplicas] = {}
        self.history: list[ServiceReplicas] = []
        self.drained: list[str] = []
        self.hold_drain: asyncio.Event | None = None
        self.db = Database.open(folder / "state.db")
        options.setdefault("timing", QUICK)
        options.setdefault("prepare", FakePreparer())
        options.setdefault("node", lambda: NODE)
        self.backend = LocalBackend(db=self.db, log=self, state_dir=folder, **options)

    def event(self, event: Event) -> None:
        self.events.append(event)

    def kinds(self, replica: str | None = None) -> list[str]:
        return [event.kind.value for event in self.events if replica in (None, event.replica)]

    async def declare(self, name: str) -> None:
        """As the daemon does before it applies."""
        sql = "INSERT OR REPLACE INTO services VALUES (?, 1, '{}', 0, NULL, 0)"
        await self.db.write(lambda connection: connection.execute(sql, (name,)))

    async def open(self) -> None:
        await self.backend.open(on_change=self._on_change, drain=self._drain)

    def _on_change(self, report: ServiceReplicas) -> None:
        self.reports[report.service] = report
        self.history.append(report)

    async def _drain(self, replica: Replica) -> None:
        self.drained.append(replica.id)
        if self.hold_drain is not None:
            await self.hold_drain.wait()

    async def apply(self, serving: Serving, generation: int = 1, *, ready: int | None = None) -> None:
        await self.declare(serving.name)
        await self.backend.apply(serving, generation)
        if ready is not None:
            self.order(serving.name, ready)

    def order(self, name: str, ready: int, parked: int = 0) -> None:
        self.backend.scale(name, ScaleOrder(num_ready=ready, num_parked=parked, reason="test"))

    def replicas(self, name: str = "a") -> tuple[Replica, ...]:
        report = self.reports.get(name)
        return report.replicas if report else ()

    def in_state(self, state: State, name: str = "a") -> list[Replica]:
        return [replica for replica in self.replicas(name) if replica.state is state]

    async def until(self, condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> None:
        try:
            async with asyncio.timeout(patience_s):
                while not condition():  # noqa: ASYNC110 (conditions of all kinds)
                    await asyncio.sleep(0.003)
        except TimeoutError:
            raise AssertionError(f"never came to it; {self.reports=}, {self.events=}") from None

    async def ready(self, count: int = 1, name: str = "a") -> list[Replica]:
        await self.until(lambda: len(self.in_state(State.READY, name)) == count)
        return self.in_state(State.READY, name)

    async def gone(self, name: str = "a") -> None:
        await self.until(lambda: not self.replicas(name))

    async def failed(self, name: str = "a") -> str:
        """The failure that the backend reports."""
        await self.until(lambda: name in self.reports and self.reports[name].failure)
        return self.reports[name].failure or ""

    async def rows(self) -> list[Row]:
        await self.db.write(lambda connection: None)  # what was to be written soon is written now
        return await Store(self.db).rows()

    @property
    def state_id(self) -> str:
        return (self.folder / "id").read_text()

    def processes(self, replica: str | None = None) -> list[int]:
        """Everything alive that carries this world's marks, launchers not counted."""
        return [
            pid
            for pid, owner in procfs.ours(self.state_id)
            if not owner.startswith("launcher") and replica in (None, owner)
        ]


@asynccontextmanager
async def world(folder: Path, **options: Any) -> AsyncIterator[World]:
    """An open world; whatever it runs is stopped at the end."""
    made = World(folder, **options)
    await made.open()
    try:
        yield made
    finally:
        await made.backend.close(stop_replicas=True)
        made.db.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run it, on a loop of its own."""

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(bounded())


def is_alive(pid: int) -> bool:
    """Alive and no zombie."""
    return procfs.identity(pid) is not None


def is_gone(pid: int, within_s: float = 30.0) -> bool:
    """No longer alive, at once or soon: what is killed ends when the machine has time for it."""
    deadline = time.monotonic() + within_s
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def gpus(num_gpus: int) -> Inventory:
    from ironloom.fleet.node import Gpu

    return Inventory(
        gpus=tuple(
            Gpu(index=n, uuid=f"GPU-{n}", name="Sim", memory_bytes=80 * GIB, free_memory_bytes=80 * GIB)
            for n in range(num_gpus)
        ),
        memory_bytes=32 * GIB,
    )


__all__ = ["EventKind", "World", "gpus", "is_alive", "os", "run", "world"]
