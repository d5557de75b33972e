"""`ironloom fleet`: the nodes and GPUs that there are, as a table, a picture or data; what changed between two."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path

import click

from ironloom.cli.output import output_option, put, put_data
from ironloom.errors import UsageError
from ironloom.fleet.model import Fleet


def _words(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """`--levels a,b --levels c` as one tuple."""
    return tuple(word.strip() for value in values for word in value.split(",") if word.strip())


_levels_option = click.option(
    "--levels", multiple=True, callback=_words, metavar="KEY,...",
    help="Node labels of the topology's levels, coarse to fine; found by itself without.",
)  # fmt: skip


@click.group(invoke_without_command=True)
@click.option("--fleet", "files", multiple=True, metavar="SNAPSHOT", type=click.Path(path_type=Path, allow_dash=True),
              help="A file of `kubectl get -o json` or `ironloom snapshot`, or -; several are one fleet.")  # fmt: skip
@click.option("--context", metavar="NAME", help="The live cluster of this kubeconfig context.")
@click.option(
    "--parts",
    is_flag=True,
    help="What the cluster of --context has (KServe, Kueue, …) and how, what is lost without the rest.",
)
@click.option("-n", "--namespace", metavar="NAME", help="Of --parts: whose queues. [default: the context's]")
@_levels_option
@output_option("table", "wide", "json", "yaml", "svg")
@click.pass_context
def fleet(
    ctx: click.Context,
    files: tuple[Path, ...],
    context: str | None,
    parts: bool,
    namespace: str | None,
    levels: tuple[str, ...],
    output: str,
) -> None:
    """Show a fleet: domains, nodes, GPUs used and free.

    \b
    ironloom fleet                                   this machine
    kubectl get nodes,pods -A -o json > fleet.json
    ironloom fleet --fleet fleet.json                a table
    ironloom fleet --fleet fleet.json -o svg         a picture
    ironloom fleet --context NAME --parts            KServe, Kueue and the like
    ironloom fleet diff before.json after.json       what changed

    JSON and YAML have every node. Nothing is written to a cluster.
    """
    if ctx.invoked_subcommand is not None:
        if files or context or levels or parts or namespace:
            raise UsageError("--fleet, --context and --levels stand for no subcommand; `fleet diff` takes two files")
        return
    if parts:
        _put_parts(files, context, namespace, levels, output)
        return
    if namespace:
        raise UsageError("A fleet is of all namespaces, and --namespace is of --parts", hint="leave it out")
    found = _fleet(files, context, levels)
    if output in ("json", "yaml"):
        from ironloom.fleet.view import view

        put_data(view(found), output)
    elif output == "svg":
        from ironloom.fleet import picture

        put(picture.render(found).rstrip("\n"))
    else:
        from ironloom.fleet import table

        put(table.render(found, wide=output == "wide"))


@fleet.command("diff")
@click.argument("before", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("after", type=click.Path(path_type=Path, allow_dash=True))
@_levels_option
@output_option("table", "json", "yaml")
def diff(before: Path, after: Path, levels: tuple[str, ...], output: str) -> None:
    """Say what changed between two snapshots: nodes, GPUs, pods."""
    from ironloom.fleet import diff as differ
    from ironloom.fleet.snapshot import read_snapshot

    found = differ.diff(read_snapshot([before], levels=levels), read_snapshot([after], levels=levels))
    if output in ("json", "yaml"):
        put_data(_plain(asdict(found)), output)
    else:
        put(differ.render(found))


def _put_parts(
    files: tuple[Path, ...], context: str | None, namespace: str | None, levels: tuple[str, ...], output: str
) -> None:
    if context is None or files or levels:
        raise UsageError("--parts are those of a live cluster", hint="ironloom fleet --context NAME --parts")
    if output == "svg":
        raise UsageError("--parts have no picture", hint="-o table, json or yaml")
    from ironloom.backends.kubernetes.client import Client
    from ironloom.backends.kubernetes.parts import PartView, read_parts
    from ironloom.cli.install import cluster_of

    target = cluster_of(context, namespace)

    async def ask() -> tuple[PartView, ...]:
        async with Client(target) as client:
            return await read_parts(client, target.namespace)

    found = asyncio.run(ask())
    if output in ("json", "yaml"):
        put_data([_plain({**asdict(one), "state": one.state.value}) for one in found], output)
        return
    for one in found:
        put("\n".join([one.sentence, *(f"  {detail}" for detail in one.details)]))


def _plain(value: object) -> object:
    """Tuples as lists, which YAML has."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


def _fleet(files: tuple[Path, ...], context: str | None, levels: tuple[str, ...]) -> Fleet:
    if context is not None:
        if files:
            raise UsageError("--fleet and --context are two fleets, and one is shown")
        from ironloom.cli.cluster import live_fleet

        return live_fleet(context, levels)
    if files:
        from ironloom.fleet.snapshot import read_snapshot

        return read_snapshot(files, levels=levels)
    if levels:
        raise UsageError("--levels names labels of a cluster's nodes, and this machine has none",
                         hint="give a fleet with --fleet FILE or --context NAME")  # fmt: skip
    from ironloom.fleet.here import fleet_of
    from ironloom.fleet.machine import this_machine

    return fleet_of(this_machine())
