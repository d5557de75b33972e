"""`ironloom describe`: one service or training run, with its parts and what happened to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import msgspec

from ironloom.account.events import EventKind
from ironloom.cli.client import ApiError, Client
from ironloom.cli.cluster_runs import cluster_options, refuse_alone
from ironloom.cli.names import SERVICE_NAME
from ironloom.cli.output import age, moment, output_option, put, put_data, table
from ironloom.cli.run_views import render_run
from ironloom.cli.views import count_ready, event_object, rate, replica_state
from ironloom.serve.reason import MAX_LINE, one_line, printable_lines
from ironloom.server.control import EventView, RunView, ScalingView, ServiceView
from ironloom.units import format_duration

NUM_EVENTS = 30


@click.command()
@click.argument("name", type=SERVICE_NAME)
@output_option("table", "json", "yaml")
@cluster_options
def describe(name: str, output: str, context: str | None, namespace: str | None) -> None:
    """Show one service with its replicas and events, or one training run with its ranks and events.

    With --context: a service of a cluster's gateway, or a training run there, with its pods, and why it waits;
    of a service also what its pools of nodes can still give, and what an empty node costs.
    """
    refuse_alone(context, namespace)
    client = None
    if context is not None:
        from ironloom.cli.cluster_gateway import services_or_runs
        from ironloom.cli.cluster_runs import describe_run

        where = context
        client = services_or_runs(where, namespace, [name], lambda _: describe_run(where, namespace, name, output))
        if client is None:
            return
    client = client or Client()
    try:
        service = client.raw_service(name)
    except ApiError as error:
        if error.error_code != "service_not_found" or (run := find_run(client, name)) is None:
            raise
        _describe_run(client, run, output)
        return
    events = since_creation(client.events(service=name, limit=NUM_EVENTS))
    nodes: tuple[str, ...] = ()
    if context is not None:
        from ironloom.cli.cluster_nodes import nodes_told

        nodes = nodes_told(context, namespace, name)
    if output != "table":
        more = {"nodes": list(nodes)} if context is not None else {}
        put_data({**service, **more, "events": msgspec.to_builtins(events)}, output)
        return
    put(render(msgspec.convert(service, ServiceView), events, nodes))


def _describe_run(client: Client, run: dict[str, Any], output: str) -> None:
    events = client.events(service=run["name"], limit=NUM_EVENTS)
    made = [number for number, event in enumerate(events) if event.reason == "Created"]
    events = events[made[-1] :] if made else events
    if output != "table":
        put_data({**run, "events": msgspec.to_builtins(events)}, output)
        return
    put(render_run(msgspec.convert(run, RunView), events))


def find_run(client: Client, name: str) -> dict[str, Any] | None:
    """The training run of this name, None where there is none."""
    try:
        return client.raw_run(name)
    except ApiError as error:
        if error.status == 404:
            return None
        raise


def render(view: ServiceView, events: list[EventView], nodes: Sequence[str] = ()) -> str:
    """The page that a person reads. `nodes` are sentences on a cluster's nodes."""
    facts = [
        ("Name", view.name),
        ("Namespace", view.namespace),
        ("Kind", view.kind),
        ("State", f"{view.state}: {one_line(view.reason)}" if view.reason else view.state),
        ("URL", view.url),
        ("Model", view.model.uri),
        ("", view.model.note or ""),
        ("Engine", view.engine or "not chosen yet"),
        ("Generation", str(view.generation)),
        ("Created", f"{moment(view.created_s)} ({age(view.created_s)} ago)" if view.created_s else ""),
        ("Scaling", scaling_text(view.scaling)),
        ("Load", _load(view)),
    ]
    lines = [f"{f'{label}:' if label else '':<12} {text}" for label, text in facts if text]
    if whole := _whole(view.reason):
        lines += ["Reason:", *whole]
    lines += _section(
        f"Replicas ({count_ready(view.replicas)} ready)" if view.replicas else "Replicas",
        ("NAME", "STATE", "PID", "PORT", "DEVICES", "GENERATION", "IN FLIGHT", "AGE"),
        [
            (
                replica.id,
                replica.state if replica.phase == replica.reason else replica_state(replica),  # a line below tells it
                str(replica.pid or "-"),
                str(replica.port or "-"),
                ",".join(replica.devices) or "-",
                str(replica.generation),
                str(replica.in_flight),
                age(replica.since_s),
            )
            for replica in view.replicas
        ],
    )
    for replica in view.replicas:
        if replica.reason and replica.state not in ("ready", "parked"):
            lines.append(f"  {replica.id}: {one_line(replica.reason)}")
            if replica.reason != view.reason:
                lines += [f"  {line}" for line in _whole(replica.reason)]
    if view.notes:
        lines += ["Notes:", *(f"  - {note}" for note in view.notes)]
    if nodes:
        lines += ["Nodes:", *(f"  - {sentence}" for sentence in nodes)]
    lines += _section(
        "Events",
        ("AGE", "REASON", "OBJECT", "MESSAGE"),
        [
            (age(event.wall_time_s), event.reason or event.kind, event_object(event), one_line(event.message))
            for event in events
        ],
    )
    return "\n".join(lines)


def since_creation(events: list[EventView]) -> list[EventView]:
    """The events of this service, without those of one of the same name that was deleted before it was made."""
    made = [
        index
        for index, event in enumerate(events)
        if event.kind == EventKind.SERVICE_APPLIED and event.reason == "Created"
    ]
    return events[made[-1] :] if made else events


def scaling_text(scaling: ScalingView) -> str:
    """`0 to 4 replicas, 8 concurrency each, window 1m`."""
    if scaling.pinned is not None:
        return f"fixed at {scaling.pinned} by `ironloom scale`; `--auto` frees it"
    most = str(scaling.max_replicas) if scaling.max_replicas else "as many as fit"
    parts = [most if scaling.max_replicas == scaling.min_replicas > 0 else f"{scaling.min_replicas} to {most}"]
    if scaling.target is not None:
        unit = "requests a second" if scaling.metric == "rps" else "requests at once"
        parts.append(f"for {scaling.target:g} {unit} each")
    parts.append(f"window {format_duration(scaling.stable_window_s)}")
    if scaling.park_for_s and scaling.cannot_park:
        parts.append(f"not parked: {scaling.cannot_park}")
    elif scaling.park_for_s:
        parts.append(f"parked {format_duration(scaling.park_for_s)} before it stops")
    return ", ".join(parts)


def _load(view: ServiceView) -> str:
    rates = f"{rate(view.requests_per_s)} requests/s, {rate(view.tokens_per_s)} tokens/s"
    return f"{view.in_flight} in flight, {view.held} held, {rates}"


def _whole(reason: str) -> list[str]:
    """All lines of a reason that one line cannot hold, indented."""
    lines = printable_lines(reason)
    return [f"  {line}" for line in lines] if len(lines) > 1 or len(reason) > MAX_LINE else []


def _section(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    if not rows:
        return [f"{title + ':':<12} none"]
    return [f"{title}:", *(f"  {line}" for line in table(head, rows).splitlines())]
