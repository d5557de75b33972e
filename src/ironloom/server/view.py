"""What the control API shows of a service: pure functions of its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ironloom.account.events import StoredEvent
from ironloom.errors import IronloomError
from ironloom.fleet.node import Node
from ironloom.serve.replica import Replica, ReplicaState, ServiceReplicas
from ironloom.server.control import (
    EventView,
    GpuView,
    LogLine,
    MachineView,
    ModelView,
    ReplicaView,
    RequestView,
    RunView,
    ScalingView,
    ServiceState,
    ServiceView,
    SnapshotView,
    TotalsView,
)
from ironloom.workload.serving import Serving

WAKING = frozenset({ReplicaState.STARTING, ReplicaState.WAKING})
PARKED = frozenset({ReplicaState.PARKING, ReplicaState.PARKED})


def service_state(report: ServiceReplicas, *, num_held: int, deleting: bool) -> tuple[ServiceState, str]:
    """A service's state and its reason, from its replicas.

    Ready outranks all but deleting: a rollout or a crash beside a ready replica leaves the service ready.
    """
    if deleting:
        return "deleting", ""
    states = {replica.state for replica in report.replicas}
    if ReplicaState.READY in states:
        return "ready", report.failure or ""
    if report.failure is not None:
        return "failed", report.failure
    if states & WAKING or num_held:
        return "waking", report.waits_for
    if states & PARKED:
        return "parked", ""
    return "zero", ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What passes through a service now."""

    in_flight: int = 0
    held: int = 0
    requests_per_s: float = 0.0
    tokens_per_s: float = 0.0
    in_flight_of: Callable[[str], int] = lambda _replica: 0


def service_view(
    serving: Serving,
    report: ServiceReplicas,
    load: Load,
    *,
    url: str,
    namespace: str,
    engine: str,
    generation: int,
    created_s: float,
    pinned: int | None,
    cannot_park: str | None,
    deleting: bool,
    model_note: str | None,
    notes: Sequence[str],
    reason: str = "",
) -> ServiceView:
    """One service as `get -o json` prints it. `reason` is the autoscaler's, shown when the state has none."""
    state, why = service_state(report, num_held=load.held, deleting=deleting)
    scaling = serving.scaling
    return ServiceView(
        name=serving.name,
        namespace=namespace,
        kind=serving.kind,
        state=state,
        reason=why or reason,
        url=url,
        engine=engine or serving.runtime or "",
        model=ModelView(uri=serving.model_uri, note=model_note),
        generation=generation,
        created_s=created_s,
        replicas=[replica_view(replica, load.in_flight_of(replica.id)) for replica in report.replicas],
        scaling=ScalingView(
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            metric=scaling.metric.value,
            target=scaling.target,
            stable_window_s=scaling.stable_window_s,
            park_for_s=scaling.park_for_s,
            cannot_park=cannot_park,
            pinned=pinned,
        ),
        in_flight=load.in_flight,
        held=load.held,
        requests_per_s=round(load.requests_per_s, 3),
        tokens_per_s=round(load.tokens_per_s, 3),
        notes=list(notes),
        manifest=serving.manifest,
    )


def replica_view(replica: Replica, in_flight: int) -> ReplicaView:
    """One replica as it is now."""
    return ReplicaView(
        id=replica.id,
        pid=replica.pid,
        state=replica.state.value,
        phase=replica.phase,
        reason=replica.reason,
        port=replica.port,
        devices=list(replica.devices),
        engine=replica.engine,
        generation=replica.generation,
        since_s=replica.since_s,
        in_flight=in_flight,
    )


def log_line(replica: str, line: str | IronloomError) -> LogLine:
    """What a replica wrote, or why it cannot be read."""
    if isinstance(line, IronloomError):
        return LogLine(replica=replica, line="", error=line.message, hint=line.hint or "")
    return LogLine(replica=replica, line=line)


def snapshot_view(services: Sequence[ServiceView], runs: Sequence[RunView] = ()) -> SnapshotView:
    """All services and their totals, and the training runs."""
    return SnapshotView(
        services=list(services),
        runs=list(runs),
        totals=TotalsView(
            num_services=len(services),
            num_replicas=sum(len(service.replicas) for service in services),
            in_flight=sum(service.in_flight for service in services),
            held=sum(service.held for service in services),
            requests_per_s=round(sum(service.requests_per_s for service in services), 3),
            tokens_per_s=round(sum(service.tokens_per_s for service in services), 3),
        ),
    )


def machine_view(node: Node) -> MachineView:
    """The machine as the API tells it."""
    return MachineView(
        name=node.name,
        num_cpus=node.num_cpus,
        memory_bytes=node.memory_bytes,
        available_memory_bytes=node.available_memory_bytes,
        gpus=[
            GpuView(
                index=gpu.index,
                name=gpu.name,
                uuid=gpu.uuid,
                memory_bytes=gpu.memory_bytes,
                free_memory_bytes=gpu.free_memory_bytes,
            )
            for gpu in node.gpus
        ],
    )


def event_view(stored: StoredEvent) -> EventView:
    """One event as the API tells it."""
    event = stored.event
    return EventView(
        seq=stored.seq,
        wall_time_s=stored.wall_time_s,
        kind=event.kind.value,
        service=event.service,
        replica=event.replica,
        reason=event.reason,
        message=event.message,
        devices=list(event.devices),
        data=dict(event.data),
    )


def request_view(row: Mapping[str, Any]) -> RequestView:
    """One request of the event log as the API tells it."""
    return RequestView(
        seq=row["seq"],
        request_id=row["request_id"],
        wall_time_s=row["wall_time_s"],
        service=row["service"],
        path=row["path"],
        stream=bool(row["stream"]),
        key_id=row["key_id"],
        outcome=row["outcome"],
        status=row["status"] or 0,
        replica=row["replica"] or "",
        prompt_tokens=row["prompt_tokens"] or 0,
        completion_tokens=row["completion_tokens"] or 0,
        ttft_s=row["ttft_s"],
        held_s=row["held_s"] or 0.0,
        duration_s=row["duration_s"],
        num_retries=row["num_retries"] or 0,
    )
