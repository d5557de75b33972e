"""How services, replicas, events and requests look as rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ironloom.cli.client import API, Client
from ironloom.cli.output import age, moment
from ironloom.cli.run_views import RUN_HEAD, RUN_WIDE_HEAD, run_row
from ironloom.serve.reason import one_line
from ironloom.server.control import EventView, ReplicaView, RequestView, ServiceView
from ironloom.units import format_duration

Objects = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of thing that `ironloom get` lists."""

    name: str
    """Singular, as `-o name` writes it."""
    plural: str
    aliases: tuple[str, ...]
    head: tuple[str, ...]
    wide_head: tuple[str, ...]
    fetch: Callable[[Client, Sequence[str], int], Objects]
    """(client, names, limit) → the objects as the daemon sends them, in the order they are shown."""
    row: Callable[[dict[str, Any]], tuple[str, ...]]
    """An object's cells, those of `wide_head` last."""
    identity: Callable[[dict[str, Any]], str]


def count_ready(replicas: Sequence[ReplicaView]) -> str:
    """`1/2`: ready of those there are."""
    return f"{sum(replica.state == 'ready' for replica in replicas)}/{len(replicas)}"


def replica_state(replica: ReplicaView) -> str:
    """`starting (loading)`: the state, and what it does in it."""
    return f"{replica.state} ({one_line(replica.phase)})" if replica.phase else replica.state


def event_object(event: EventView) -> str:
    """What an event is about."""
    if event.replica:
        return f"replica/{event.replica}"
    if event.kind.startswith("run."):
        return f"run/{event.service}"
    return f"service/{event.service}" if event.service else "daemon"


def rate(value: float) -> str:
    """A rate with one digit, or `0`."""
    return f"{value:.1f}" if value else "0"


def _services(client: Client, names: Sequence[str], _limit: int) -> Objects:
    if not names:
        return list(client.call("GET", f"{API}/services"))
    return [client.raw_service(name) for name in names]


def _runs(client: Client, names: Sequence[str], _limit: int) -> Objects:
    if not names:
        return list(client.call("GET", f"{API}/runs"))
    return [client.raw_run(name) for name in names]


def _replicas(client: Client, names: Sequence[str], limit: int) -> Objects:
    services = _services(client, names, limit)
    return [{**replica, "service": service["name"]} for service in services for replica in service["replicas"]]


def _events(client: Client, names: Sequence[str], limit: int) -> Objects:
    found = [event for name in names or (None,) for event in client.events(service=name, limit=limit)]
    return [msgspec.to_builtins(event) for event in sorted(found, key=lambda event: event.seq)[-limit:]]


def _requests(client: Client, names: Sequence[str], limit: int) -> Objects:
    found = [request for name in names or (None,) for request in client.requests(service=name, limit=limit)]
    return [msgspec.to_builtins(request) for request in sorted(found, key=lambda request: request.seq)[-limit:]]


def _service_row(item: dict[str, Any]) -> tuple[str, ...]:
    view = msgspec.convert(item, ServiceView)
    load = (str(view.in_flight), str(view.held))
    wide = (view.kind, view.model.uri, rate(view.tokens_per_s), view.url, one_line(view.reason) or "-")
    state = view.state.ljust(len("deleting"))  # the widest, so that a watched table keeps its columns
    return (view.name, state, count_ready(view.replicas), view.engine or "-", *load, age(view.created_s), *wide)


def _replica_row(item: dict[str, Any]) -> tuple[str, ...]:
    view = msgspec.convert(item, ReplicaView)
    where = (str(view.pid or "-"), str(view.port or "-"), ",".join(view.devices) or "-")
    wide = (str(view.generation), str(view.in_flight), one_line(view.reason) or "-")
    return (view.id, item["service"], replica_state(view), view.engine or "-", *where, age(view.since_s), *wide)


def _event_row(item: dict[str, Any]) -> tuple[str, ...]:
    view = msgspec.convert(item, EventView)
    wide = (str(view.seq), view.kind, moment(view.wall_time_s))
    return (age(view.wall_time_s), view.reason or view.kind, event_object(view), one_line(view.message), *wide)


def _request_row(item: dict[str, Any]) -> tuple[str, ...]:
    view = msgspec.convert(item, RequestView)
    spans = [format_duration(span) if span is not None else "-" for span in (view.ttft_s, view.duration_s)]
    tokens = f"{view.prompt_tokens}+{view.completion_tokens}"
    outcome = view.outcome or "running"
    wide = (view.path, view.replica or "-", format_duration(view.held_s) if view.held_s else "-", view.key_id or "-")
    return (
        view.request_id,
        view.service,
        outcome,
        str(view.status or "-"),
        tokens,
        *spans,
        age(view.wall_time_s),
        *wide,
    )


KINDS = (
    Kind(
        "service",
        "services",
        ("svc", "isvc", "inferenceservice", "inferenceservices", "llminferenceservice", "llminferenceservices"),
        ("NAME", "STATE", "READY", "ENGINE", "IN FLIGHT", "HELD", "AGE"),
        ("KIND", "MODEL", "TOKENS/S", "URL", "REASON"),
        _services,
        _service_row,
        lambda item: str(item["name"]),
    ),
    Kind(
        "run",
        "runs",
        ("trainjob", "trainjobs", "jobset", "jobsets", "pytorchjob", "pytorchjobs"),
        RUN_HEAD,
        RUN_WIDE_HEAD,
        _runs,
        run_row,
        lambda item: str(item["name"]),
    ),
    Kind(
        "replica",
        "replicas",
        ("pod", "pods"),
        ("NAME", "SERVICE", "STATE", "ENGINE", "PID", "PORT", "DEVICES", "AGE"),
        ("GENERATION", "IN FLIGHT", "REASON"),
        _replicas,
        _replica_row,
        lambda item: str(item["id"]),
    ),
    Kind(
        "event",
        "events",
        ("ev",),
        ("AGE", "REASON", "OBJECT", "MESSAGE"),
        ("SEQ", "KIND", "TIME"),
        _events,
        _event_row,
        lambda item: str(item["seq"]),
    ),
    Kind(
        "request",
        "requests",
        (),
        ("REQUEST", "SERVICE", "OUTCOME", "STATUS", "TOKENS", "TTFT", "TOOK", "AGE"),
        ("PATH", "REPLICA", "HELD", "KEY"),
        _requests,
        _request_row,
        lambda item: str(item["request_id"]),
    ),
)
SERVICE = KINDS[0]
RUN = KINDS[1]


def kind_of(word: str) -> Kind | None:
    """The kind that a word names (`services`, `svc`, `pod`), or None."""
    lower = word.lower()
    return next((kind for kind in KINDS if lower in (kind.name, kind.plural, *kind.aliases)), None)
