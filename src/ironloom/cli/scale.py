"""`ironloom scale`: a person sets the replica count, and gives it back."""

from __future__ import annotations

import click
import msgspec

from ironloom.cli.client import Client
from ironloom.cli.cluster_runs import cluster_options, refuse_alone
from ironloom.cli.names import SERVICE_NAME
from ironloom.cli.output import plural, result_option, say, tell
from ironloom.errors import UsageError
from ironloom.server.control import MAX_REPLICAS


@click.command()
@click.argument("name", type=SERVICE_NAME)
@click.argument("count", type=click.IntRange(0, MAX_REPLICAS), required=False)
@click.option("--replicas", type=click.IntRange(0, MAX_REPLICAS), help="The same as COUNT, in kubectl's spelling.")
@click.option(
    "--park",
    is_flag=True,
    help="Go to zero, and keep a process parked, where its engine can; a cluster's pods are stopped.",
)
@click.option("--auto", is_flag=True, help="Give the count back to the autoscaler.")
@result_option
@cluster_options
def scale(
    name: str,
    count: int | None,
    replicas: int | None,
    park: bool,
    auto: bool,
    output: str,
    context: str | None,
    namespace: str | None,
) -> None:
    """Set a service's replica count.

    \b
    ironloom scale chat 2         two replicas, until --auto
    ironloom scale chat 0         to zero now; the next request brings it back
    ironloom scale chat --park    parked now, where that can be; the next request wakes it
    ironloom scale chat --auto    the autoscaler decides again
    """
    if sum((count is not None, replicas is not None, park, auto)) != 1:
        raise UsageError(
            "scale takes one of COUNT, --replicas COUNT, --park and --auto.",
            hint=f"`ironloom scale {name} 0` sends it to zero.",
        )
    wanted = count if count is not None else replicas
    refuse_alone(context, namespace)
    client = Client() if context is None else _gateway(context, namespace)
    if auto:
        view = client.scale(name, None)
        words = "is scaled by its load again."
    elif wanted:
        view = client.scale(name, wanted)
        words = f"is fixed at {plural(wanted, 'replica')}."
    else:
        view = client.scale(name, 0, park=park)
        words = f"{_to_zero(view.scaling.cannot_park) if park else 'goes to zero'}; the next request brings it back."
    tell(f"service/{name} {words}", msgspec.to_builtins(view), output)
    most = view.scaling.max_replicas
    if wanted and 0 < most < wanted:
        say(f"note: its manifest allows {most} at most, so there will be {most}.")


def _to_zero(cannot_park: str | None) -> str:
    """What comes of a wish to park."""
    return "is asked to park" if cannot_park is None else f"goes to zero and is not parked: {cannot_park}"


def _gateway(context: str, namespace: str | None) -> Client:
    from ironloom.cli.cluster_gateway import gateway_of

    return gateway_of(context, namespace)
