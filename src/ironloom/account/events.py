"""What the event log holds: events of services and replicas, and one record for each request.

Every record has wall time (when, for a person) and monotonic time (how long, true across clock changes). Monotonic
times compare only within one boot, so each record carries the boot's id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class EventKind(StrEnum):
    """What happened. Each stands in docs/reference/events.md."""

    DAEMON_STARTED = "daemon.started"
    DAEMON_STOPPED = "daemon.stopped"
    SERVICE_APPLIED = "service.applied"
    SERVICE_SCALED = "service.scaled"
    SERVICE_FAILED = "service.failed"
    SERVICE_DELETED = "service.deleted"
    SERVICE_DRIFTED = "service.drifted"
    REPLICA_STARTING = "replica.starting"
    REPLICA_READY = "replica.ready"
    REPLICA_PARKING = "replica.parking"
    REPLICA_PARKED = "replica.parked"
    REPLICA_WAKING = "replica.waking"
    REPLICA_STOPPING = "replica.stopping"
    REPLICA_STOPPED = "replica.stopped"
    REPLICA_FAILED = "replica.failed"
    REPLICA_ADOPTED = "replica.adopted"
    RUN_APPLIED = "run.applied"
    RUN_QUEUED = "run.queued"
    RUN_STARTING = "run.starting"
    RUN_RUNNING = "run.running"
    RUN_WAITING = "run.waiting"
    RUN_STOPPING = "run.stopping"
    RUN_STOPPED = "run.stopped"
    RUN_SUCCEEDED = "run.succeeded"
    RUN_FAILED = "run.failed"
    RUN_ADOPTED = "run.adopted"
    RUN_DELETED = "run.deleted"
    BATCH_CREATED = "batch.created"
    BATCH_ENDED = "batch.ended"
    LOG_RECOVERED = "log.recovered"


class Outcome(StrEnum):
    """How a request ended. Exactly one for each request."""

    OK = "ok"
    """Answered whole, whatever the engine said (an engine's 4xx answer is an answer)."""
    REJECTED = "rejected"
    """Refused by the gateway: bad request, no such model, no key, queue full."""
    CLIENT_GONE = "client_gone"
    """The client went away before the end."""
    ENGINE_FAILED = "engine_failed"
    """The engine died or answered garbage, and the client was told."""
    TIMED_OUT = "timed_out"
    """Its service's timeout was over before the answer was; the client was told."""
    CUT = "cut"
    """The daemon itself ended in the middle; closed at its next start, a stream with what was known a second before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened to a service or a replica."""

    kind: EventKind
    service: str = ""
    replica: str = ""
    reason: str = ""
    """One word in CamelCase, for programs, as kubectl shows it: ScaledToZero, EngineExited."""
    message: str = ""
    """A sentence for a person."""
    devices: tuple[str, ...] = ()
    """Devices held from this event on."""
    data: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredEvent:
    """An event as read back, with its place and times."""

    seq: int
    wall_time_s: float
    monotonic_s: float
    boot_id: str
    event: Event


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """What an earlier process told of replicas that it did not tell to be stopped."""

    events: tuple[StoredEvent, ...]
    """The last one of each."""
    last_s: float
    """Wall clock of its last record of any kind; 0 where there was none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestEnd:
    """How one request ended."""

    outcome: Outcome
    status: int
    """HTTP status the client got; 0 when it got none."""
    replica: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_s: float | None = None
    """Arrival at the gateway to the first token (of a stream) or to the answer's head."""
    held_s: float = 0.0
    num_retries: int = 0
