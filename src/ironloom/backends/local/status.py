"""What is told of a replica: its state as others see it, its events, its row.

The replica's owner changes it through here, so that no change goes untold: every transition is checked against the
drawing in serve/replica.py, written down, logged and reported.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

from ironloom.account.events import Event, EventKind
from ironloom.backends.local.devices import Need
from ironloom.backends.local.ground import Ground
from ironloom.backends.local.procfs import Identity
from ironloom.backends.local.store import Row
from ironloom.serve.replica import LIVE_STATES, TRANSITIONS, Replica
from ironloom.serve.replica import ReplicaState as State

_EVENTS = {
    State.STARTING: EventKind.REPLICA_STARTING,
    State.READY: EventKind.REPLICA_READY,
    State.PARKING: EventKind.REPLICA_PARKING,
    State.PARKED: EventKind.REPLICA_PARKED,
    State.WAKING: EventKind.REPLICA_WAKING,
    State.STOPPING: EventKind.REPLICA_STOPPING,
    State.STOPPED: EventKind.REPLICA_STOPPED,
    State.FAILED: EventKind.REPLICA_FAILED,
}


class Status:
    """One replica's. `recorded`: it has a row, so a process of it may exist."""

    def __init__(self, ground: Ground, replica: Replica, *, start_deadline_s: float) -> None:
        self.replica = replica
        self.need = Need()
        self.recorded = False
        self.cannot_park: str | None = None
        """Why it cannot be parked, once it is known how it was started; None where it can."""
        self.park_extra_s = 0.0
        """Seconds that parking it may take beyond the usual patience."""
        self._ground = ground
        self._start_deadline_s = start_deadline_s
        self._identity: Identity | None = None

    def adopt(self, row: Row, identity: Identity | None) -> None:
        """What the row of one found running knows of it."""
        known = row.launch or {}
        gpus = tuple(known.get("gpu_indexes", ()))
        self.need = Need(num_gpus=len(gpus), memory_bytes=int(known.get("memory_bytes", 0)), gpu_indexes=gpus or None)
        self.cannot_park = known.get("cannot_park")
        self.park_extra_s = float(known.get("park_extra_s", 0.0))
        self.recorded, self._identity = True, identity

    def update(self, **changes: Any) -> None:
        """Facts that are no change of state; not reported."""
        self.replica = replace(self.replica, **changes)

    def say(self, phase: str) -> None:
        """What it does now, for a person."""
        if phase != self.replica.phase and self.replica.state in LIVE_STATES:
            self.update(phase=phase)
            self.report()

    def report(self) -> None:
        self._ground.changed(self.replica.service)

    def record(self, identity: Identity | None = None) -> Awaitable[None]:
        """Write it down, with the process if there is one: awaited, it is written."""
        if identity is not None:
            self._identity = identity
            self.update(pid=identity.pid)
        self.recorded = True
        return self._ground.store.put(self._row())

    def move(self, state: State, *, reason: str, data: dict[str, object] | None = None) -> None:
        """Into another state. Written soon, logged and reported now."""
        assert state in TRANSITIONS[self.replica.state], f"{self.replica.id}: {self.replica.state} → {state}"
        self.update(state=state, reason=reason, phase="", since_s=self._ground.wall_s())
        if self.recorded and state in (*LIVE_STATES, State.STOPPING):
            self._ground.store.put_soon(self._row())
        # A waking is logged when it has its devices; what never had a process ends silently unless it failed.
        if (self.recorded or state is State.FAILED) and state is not State.WAKING:
            self.log(state, message=reason, data=data)
        self.report()

    def log(self, state: State, *, message: str, data: dict[str, object] | None = None) -> None:
        """An event of that kind, with the devices held from now on."""
        replica, data = self.replica, data or {}
        facts: dict[str, object] = {"engine": replica.engine, "generation": replica.generation}
        if replica.pid is not None:
            facts["pid"] = replica.pid
        self._ground.log.event(
            Event(
                kind=_EVENTS[state],
                service=replica.service,
                replica=replica.id,
                reason=_camel(str(data.get("code", state.value))),
                message=message,
                devices=replica.devices,
                data=facts | data,
            )
        )

    def _row(self) -> Row:
        replica, identity = self.replica, self._identity
        return Row(
            id=replica.id,
            service=replica.service,
            generation=replica.generation,
            engine=replica.engine,
            state=replica.state.value,
            pid=replica.pid,
            process_started=identity.started_ticks if identity else None,
            boot_id=self._ground.boot_id,
            port=replica.port,
            devices=replica.devices,
            log_path=str(self._ground.log_path(replica.service, replica.id)),
            launch={
                "max_concurrency": replica.max_concurrency,
                "cannot_park": self.cannot_park,
                "park_extra_s": self.park_extra_s,
                "memory_bytes": self.need.memory_bytes,
                "gpu_indexes": self.need.gpu_indexes or (),
                "start_deadline_s": self._start_deadline_s,
            },
            changed_s=replica.since_s,
        )


def _camel(code: str) -> str:
    """engine_exited → EngineExited, as kubectl shows reasons."""
    return "".join(word.capitalize() for word in code.split("_"))
