"""`ironloom scale`: a person sets the replica count, and gives it back."""

from __future__ import annotations

import click

from ironloom.cli.client import Client
from ironloom.cli.names import SERVICE_NAME
from ironloom.cli.output import plural, put, say
from ironloom.errors import UsageError
from ironloom.server.control import MAX_REPLICAS


@click.command()
@click.argument("name", type=SERVICE_NAME)
@click.argument("count", type=click.IntRange(0, MAX_REPLICAS), required=False)
@click.option("--replicas", type=click.IntRange(0, MAX_REPLICAS), help="The same as COUNT, in kubectl's spelling.")
@click.option("--park", is_flag=True, help="Go to zero, and keep a process parked, where its engine can.")
@click.option("--auto", is_flag=True, help="Give the count back to the autoscaler.")
def scale(name: str, count: int | None, replicas: int | None, park: bool, auto: bool) -> None:
    """Set a service's replica count.

    \b
    ironloom scale chat 2         two replicas, until --auto
    ironloom scale chat 0         to zero now; the next request brings it back
    ironloom scale chat --park    parked now; the next request wakes it
    ironloom scale chat --auto    the autoscaler decides again
    """
    if sum((count is not None, replicas is not None, park, auto)) != 1:
        raise UsageError(
            "scale takes one of COUNT, --replicas COUNT, --park and --auto.",
            hint=f"`ironloom scale {name} 0` sends it to zero.",
        )
    wanted = count if count is not None else replicas
    client = Client()
    if auto:
        client.scale(name, None)
        put(f"service/{name} is scaled by its load again.")
    elif wanted:
        most = client.scale(name, wanted).scaling.max_replicas
        put(f"service/{name} is fixed at {plural(wanted, 'replica')}.")
        if 0 < most < wanted:
            say(f"note: its manifest allows {most} at most, so there will be {most}.")
    else:
        client.scale(name, 0, park=park)
        put(f"service/{name} {'is asked to park' if park else 'goes to zero'}; the next request brings it back.")
