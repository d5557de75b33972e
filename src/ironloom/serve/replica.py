"""A replica as the rest of the program sees it, and the Protocol of what runs replicas.

States (DESIGN's words; the arrows are all there are):

    starting ──► ready ──► parking ──► parked ──► waking ──► ready
        │          │                     │          │
        │          └──────► stopping ◄───┴──────────┘
        │                      │
        └──► failed            └──► stopped

`failed` and `stopped` are final. A replica that dies in any state becomes `failed`, with the reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from ironloom.errors import IronloomError
from ironloom.workload.serving import Serving


class ReplicaState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    PARKING = "parking"
    PARKED = "parked"
    WAKING = "waking"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


LIVE_STATES = frozenset(
    {ReplicaState.STARTING, ReplicaState.READY, ReplicaState.PARKING, ReplicaState.PARKED, ReplicaState.WAKING}
)
TRANSITIONS: dict[ReplicaState, frozenset[ReplicaState]] = {
    ReplicaState.STARTING: frozenset({ReplicaState.READY, ReplicaState.STOPPING, ReplicaState.FAILED}),
    ReplicaState.READY: frozenset({ReplicaState.PARKING, ReplicaState.STOPPING, ReplicaState.FAILED}),
    ReplicaState.PARKING: frozenset({ReplicaState.PARKED, ReplicaState.STOPPING, ReplicaState.FAILED}),
    ReplicaState.PARKED: frozenset({ReplicaState.WAKING, ReplicaState.STOPPING, ReplicaState.FAILED}),
    ReplicaState.WAKING: frozenset({ReplicaState.READY, ReplicaState.STOPPING, ReplicaState.FAILED}),
    ReplicaState.STOPPING: frozenset({ReplicaState.STOPPED, ReplicaState.FAILED}),
    ReplicaState.STOPPED: frozenset(),
    ReplicaState.FAILED: frozenset(),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Replica:
    """One running copy of a service, as it is now."""

    id: str
    """Unique for ever: `<service>-<5 letters>`."""
    service: str
    state: ReplicaState
    generation: int
    """The service's generation (1, 2, …: how often its manifest changed) that this replica runs."""
    engine: str
    host: str = "127.0.0.1"
    port: int = 0
    pid: int | None = None
    """None on Kubernetes."""
    phase: str = ""
    """What a starting replica does now: pulling, converting, loading; with progress where known."""
    reason: str = ""
    """Why it is in this state, for a person."""
    devices: tuple[str, ...] = ()
    """Devices held: `cpu`, `gpu:0`, …"""
    since_s: float = 0.0
    """Wall clock of the last change of state, seconds since the epoch."""
    max_concurrency: int = 0
    """Requests the engine runs at once to good use; 0 is not known."""
    path_prefix: str = ""
    """Before the engine's own paths: KServe's Hugging Face server has them under `/openai`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleOrder:
    """What the one writer of a service's replica count wants: so many ready, so many parked, the rest stopped."""

    num_ready: int
    num_parked: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceReplicas:
    """A backend's report on one service."""

    service: str
    replicas: tuple[Replica, ...] = ()
    failure: str | None = None
    """Set while starts fail: the reason, with the engine's last lines. A later ready replica clears it."""
    is_final: bool = False
    """Another start would fail in the same way: none is tried until the service is applied again."""
    retry_at_s: float | None = None
    """Wall clock of the next start while a crash loop backs off."""
    passes: bool | None = None
    """Whether the failure passes by itself. True: requests go on being held. False: nothing gets ready before somebody
    mends something, and requests are refused at once. None: the next try says."""
    retry_after_s: float | None = None
    """What a client that was refused, or held in vain, is told to wait; None for no better guess than usual."""
    capacity: int | None = None
    """How many replicas of it fit here at once, those that are there included; None is not known."""
    notes: tuple[str, ...] = ()
    """What this backend does not honour of the manifest, each said once."""
    extra: dict[str, object] = field(default_factory=dict)

    @property
    def waits_for(self) -> str:
        """What a request that is held now waits for, as far as it is known: why starts fail, or what the first replica
        on its way does."""
        if self.failure is not None:
            return self.failure
        coming = (ReplicaState.STARTING, ReplicaState.WAKING)
        told = (one.phase or one.reason for one in self.replicas if one.state in coming)
        return next((one for one in told if one), "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What an apply would make."""

    objects: tuple[dict[str, Any], ...] = ()
    """Of an API, as it would have them; none where replicas are processes."""
    notes: tuple[str, ...] = ()
    put_back: tuple[str, ...] = ()
    """What others did to what was made of it and an apply would put back, a sentence each."""


class ReplicaBackend(Protocol):
    """Runs replicas, somewhere. `local` is processes on this machine; `kubernetes` is pods.

    All methods are called from the daemon's event loop. None blocks it.
    """

    name: str

    async def open(
        self,
        *,
        on_change: Callable[[ServiceReplicas], None],
        drain: Callable[[Replica], Awaitable[None]],
    ) -> None:
        """Take up what already runs (adopt it, or clean up exactly our own). Call once, before the rest.

        `on_change` is called at each change of a service's replicas, with the whole of it. `drain` is awaited
        before a ready replica is parked or stopped: it returns when no request is in flight in it, or its
        patience is over. A replica is reported as stopping or parking before its drain begins.
        """
        ...

    async def check(self, serving: Serving) -> None:
        """Look at a service before it is applied: raises IronloomError for a model that is known to be of no use (a
        folder that is not there, pickles alone, a corrupt file). Fetches and changes nothing."""
        ...

    async def trial(self, serving: Serving, generation: int) -> Trial:
        """What an apply would make, judged by whoever would judge it then. Changes nothing. Raises as `apply` does."""
        ...

    async def apply(self, serving: Serving, generation: int) -> tuple[str, ...]:
        """Declare a service, or its new generation; idempotent, but that one which failed for good is tried anew.
        Returns what others had done to what was made of it and was put back, a sentence each.

        Starts nothing by itself except a rollout: replicas of the new generation get ready before those of the old
        one drain; if they fail, the old stay."""
        ...

    def scale(self, service: str, order: ScaleOrder) -> None:
        """Say how many replicas there should be. Returns at once; the same order twice is the order once."""
        ...

    def notes(self, serving: Serving) -> tuple[str, ...]:
        """What this backend does not honour of a manifest, what is to be said of its fields there included, as far as
        it is known before a start; of the very one that was applied last also what was made of it."""
        ...

    def can_park(self, service: str) -> str | None:
        """None when replicas of this service can be parked here, else why not."""
        ...

    async def delete(self, service: str) -> None:
        """Stop its replicas, drained, and forget it. Returns when they are gone; no such service is fine."""
        ...

    def logs(
        self, service: str, replica: str | None, *, follow: bool, tail: int
    ) -> AsyncIterator[tuple[str, str | IronloomError]]:
        """Lines of (replica id, text), oldest first; with `follow` until the caller stops. An error in place of the
        text is why no more of that replica's can be read."""
        ...

    async def close(self, *, stop_replicas: bool) -> None:
        """Let go; with `stop_replicas` drain and stop them all first, without it leave them running for adoption."""
        ...
