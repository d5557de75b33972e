"""`ironloom logs`: what a service's engines, or a training run's ranks, wrote."""

from __future__ import annotations

import json
import sys

import click

from ironloom.cli.client import ApiError, Client
from ironloom.cli.cluster_runs import cluster_options, refuse_alone
from ironloom.cli.describe import find_run
from ironloom.cli.names import SERVICE_NAME
from ironloom.cli.output import output_option, put, say, to_yaml
from ironloom.errors import ClusterError, UsageError, as_sentence
from ironloom.server.control import LogLine


@click.command()
@click.argument("name", type=SERVICE_NAME)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on; of a run to its end.")
@click.option("--replica", metavar="ID", help="One replica (of a run: rank-K) only.")
@click.option(
    "--tail", type=click.IntRange(0, 1_000_000), default=200, show_default=True, help="Lines of each replica."
)
@click.option("--prefix/--no-prefix", default=None, help="Begin each line with the replica. [default: when several]")
@output_option("text", "json", "yaml", default="text")
@cluster_options
def logs(
    name: str,
    follow: bool,
    replica: str | None,
    tail: int,
    prefix: bool | None,
    output: str,
    context: str | None,
    namespace: str | None,
) -> None:
    """Print what a service's engines, or a training run's ranks, wrote, oldest first.

    With -o each line is an object: JSON lines, or YAML documents.
    """
    refuse_alone(context, namespace)
    client = None
    if context is not None:
        from ironloom.cli.cluster_gateway import services_or_runs
        from ironloom.cli.cluster_runs import logs_of_run

        where, prefixes = context, prefix

        def of_run(_: str | None) -> None:
            if output != "text":
                raise UsageError("Logs of a cluster's training run are text.", hint="leave -o out")
            logs_of_run(where, namespace, name, follow=follow, rank=replica, tail=tail, prefix=prefixes)

        client = services_or_runs(context, namespace, [name], of_run)
        if client is None:
            return
    client = client or Client()
    try:
        num_writers = len(client.service(name).replicas)
    except ApiError as error:
        if error.error_code != "service_not_found" or (run := find_run(client, name)) is None:
            raise
        num_writers = int(run["num_ranks"])
        lines = client.run_logs(name, rank=replica, follow=follow, tail=tail)
    else:
        lines = client.logs(name, replica=replica, follow=follow, tail=tail)
        num_writers += follow  # another one may come
    if prefix is None:
        prefix = replica is None and num_writers > 1
    empty = True
    unread: list[ClusterError] = []
    for entry in lines:
        empty = False
        if entry.error:
            unread.append(ClusterError(entry.error, hint=entry.hint or None))
            continue
        put(_shown(entry, output, prefix=prefix))
        if follow:
            sys.stdout.flush()
    if empty:
        say(f"{name} has written nothing yet.")
    for number, one in enumerate(unread, start=1):  # once what the others wrote is told
        if number == len(unread):
            raise one
        say(as_sentence(one.message))


def _shown(entry: LogLine, output: str, *, prefix: bool) -> str:
    if output == "text":
        return f"[{entry.replica}] {entry.line}" if prefix else entry.line
    data = {"replica": entry.replica, "line": entry.line}
    return f"---\n{to_yaml(data)}" if output == "yaml" else json.dumps(data, ensure_ascii=False)
