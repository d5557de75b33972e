"""A service of the local backend: what was declared and ordered, its replicas, and what is reported of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from ironloom.backends.local.backoff import Backoff, BackoffLimits, after_failure, after_ready
from ironloom.backends.local.holdings import Holdings
from ironloom.backends.local.prepare import Preparation
from ironloom.backends.local.process import ReplicaOwner
from ironloom.backends.local.reconcile import Member
from ironloom.serve.reason import NOT_AGAIN, told_with
from ironloom.serve.replica import ReplicaState as State
from ironloom.serve.replica import ScaleOrder, ServiceReplicas
from ironloom.workload.serving import Serving

CAPACITY_AGE_S = 1.0
"""Free memory changes all the time: how many replicas fit is told anew this often at most."""


@dataclass(slots=True)
class Service:
    """A service as it was declared, and its replicas. Changed on the event loop only."""

    name: str
    serving: Serving | None = None
    """None for replicas that were found running, until the service is declared."""
    generation: int = 0
    order: ScaleOrder | None = None
    preparation: Preparation | None = None
    replicas: dict[str, ReplicaOwner] = field(default_factory=dict)
    backoff: Backoff = field(default_factory=Backoff)
    """In monotonic time: the wall clock may be set back, and a start must not wait for it to come round again."""
    retry_wall_s: float = 0.0
    """When the next start may be, as it is told to others: wall clock at the failure plus the wait."""
    failing: bool = False
    failure: str | None = None
    is_final: bool = False
    """The failure is one that another start would end in too: none is tried."""
    notes: list[str] = field(default_factory=list)
    deleting: bool = False
    reported: ServiceReplicas | None = None
    dirty: bool = False
    """A look at it is on its way."""
    timer: asyncio.TimerHandle | None = None
    warming: asyncio.Task[None] | None = None
    preload: tuple[str, ...] = ()
    """What its engine's launcher has imported."""
    capacity: int | None = None
    capacity_at_s: float = float("-inf")

    def members(self) -> list[Member]:
        """Its replicas as the decision sees them."""
        replicas = [owner.replica for owner in self.replicas.values()]
        return [Member(id=r.id, generation=r.generation, state=r.state, since_s=r.since_s) for r in replicas]

    def begin_generation(self, serving: Serving, generation: int, preparation: Preparation) -> None:
        """A new manifest: what went wrong with the last one is forgotten."""
        if generation != self.generation:
            self.begin_anew()
            self.notes = []
        self.serving, self.generation, self.preparation = serving, generation, preparation

    def begin_anew(self) -> None:
        """Forget what went wrong."""
        self.backoff, self.failing, self.failure, self.is_final = Backoff(), False, None, False

    def may_start(self, now_s: float) -> bool:
        """Whether a replica may be started at this monotonic time, by what went wrong before."""
        return not self.is_final and self.backoff.may_start(now_s)

    def take_notes(self, now_s: float, wall_now_s: float, limits: BackoffLimits) -> None:
        """What its replicas' last changes mean for it: backoff, failure, notes. `now_s` is monotonic."""
        for owner in self.replicas.values():
            replica = owner.replica
            if replica.generation == self.generation:
                if replica.state is State.READY and (self.failing or self.failure):
                    self.backoff, self.failing, self.failure = after_ready(self.backoff), False, None
                    self.is_final = False
                if replica.state is State.FAILED and not owner.counted:
                    owner.counted = True
                    ready_for_s = None if owner.ready_since_s is None else wall_now_s - owner.ready_since_s
                    self.backoff = after_failure(self.backoff, now_s, ready_for_s, limits)
                    self.retry_wall_s = wall_now_s + self.backoff.retry_at_s - now_s
                    self.failing = self.failing or ready_for_s is None
                    self.is_final = self.is_final or owner.is_final
                    self.failure = told_with(replica.reason, NOT_AGAIN) if owner.is_final else replica.reason
            self.notes += [note for note in _notes(owner) if note not in self.notes]

    def report(self, now_s: float, holdings: Holdings) -> ServiceReplicas:
        """The whole of it, as the rest of the program is told. `now_s` is monotonic."""
        waits = self.failure is not None and not self.is_final and self.backoff.retry_at_s > now_s
        return ServiceReplicas(
            service=self.name,
            replicas=tuple(owner.replica for owner in self.replicas.values()),
            failure=self.failure,
            is_final=self.is_final,
            retry_at_s=self.retry_wall_s if waits else None,
            capacity=self._capacity(now_s, holdings),
            notes=tuple(self.notes),
            extra=_told(self.preparation),
        )

    def _capacity(self, now_s: float, holdings: Holdings) -> int | None:
        owners = [owner for owner in self.replicas.values() if owner.launch.argv]
        if not owners:
            self.capacity = None
        elif now_s - self.capacity_at_s > CAPACITY_AGE_S or self.capacity is None:
            num_live = sum(bool(owner.replica.devices) for owner in owners)
            self.capacity = holdings.capacity(replace(owners[-1].status.need, gpu_indexes=None), num_live)
            self.capacity_at_s = now_s
        return self.capacity


def _notes(owner: ReplicaOwner) -> list[str]:
    """What is to be said of how a replica runs, in whole sentences."""
    ignored = [
        f"The engine {owner.replica.engine} ignores {name}: here it means nothing." for name in owner.launch.ignored
    ]
    return [note for note in (owner.gpu_note, owner.park_note, *owner.launch.notes, *ignored) if note]


def _told(preparation: Preparation | None) -> dict[str, object]:
    """What the service's page shows of its model and engine once they are known."""
    prepared = preparation.result if preparation is not None else None
    if prepared is None:
        return {}
    return {
        "engine": prepared.engine.name,
        "engine_reason": prepared.reason,
        "model_uri": prepared.model.uri,
        "model_note": prepared.model.note,
        "context_length": prepared.model.context_length,
        "model_size_bytes": prepared.model.size_bytes,
    }
