"""`ironloom get`: what there is, as kubectl lists it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from ironloom.cli.client import ApiError, Client
from ironloom.cli.cluster_runs import cluster_options, refuse_alone
from ironloom.cli.names import SERVICE_NAME, complete_service
from ironloom.cli.output import output_option, plural, put, put_data, say, table, to_yaml
from ironloom.cli.views import KINDS, RUN, SERVICE, Kind, Objects, kind_of
from ironloom.errors import UsageError
from ironloom.serve.reason import one_line

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

WATCH_S = 1.0
FAILED_TOLD = 3
"""Runs whose failure a list tells; a run stays there until it is deleted."""
_NEVER_STILL = frozenset({"AGE", "TOKENS/S", "LEFT", "DEVICE TIME"})


def _complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    from click.shell_completion import CompletionItem

    kinds = [CompletionItem(kind.plural) for kind in KINDS if kind.plural.startswith(incomplete)]
    return kinds + complete_service(incomplete)


@click.command()
@click.argument("what", nargs=-1, metavar="[KIND] [NAME]...", shell_complete=_complete)
@output_option("table", "wide", "json", "yaml", "name")
@click.option("-w", "--watch", is_flag=True, help="Go on, and print what changes.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Events or requests.")
@cluster_options
def get(
    what: tuple[str, ...], output: str, watch: bool, limit: int, context: str | None, namespace: str | None
) -> None:
    """List services, training runs, replicas, events or requests.

    \b
    ironloom get                    every service
    ironloom get chat               one service, or one run
    ironloom get runs               every training run
    ironloom get replicas chat      the replicas of a service
    ironloom get events             what happened, newest last
    ironloom get requests chat      the last requests of a service, newest last
    ironloom get --context prod     the services of a cluster, or its runs where it has none
    ironloom get runs --context prod

    JSON and YAML are always a list, even of one.
    """
    kind, names = _read(what)
    refuse_alone(context, namespace)
    if context is None:
        client = Client()
    else:
        is_named = bool(what) and not names
        found = _client_of(context, namespace, kind, names, is_named=is_named, watch=watch, output=output)
        if found is None:
            return
        client = found
    objects = _fetched(client, kind, names, limit)
    for_people = not what and output in ("table", "wide")
    if for_people and not objects and (runs := RUN.fetch(client, (), limit)):
        kind, objects = RUN, runs
    elif kind is SERVICE and objects and "num_steps" in objects[0]:
        kind = RUN
    if output in ("json", "yaml"):
        if not watch:
            put_data(objects, output)
            return
        _put_stream(objects, output)
    elif output == "name":
        _put_names(kind, objects)
    elif objects or watch:
        put(_table(kind, objects, wide=output == "wide"))
        if for_people and not watch and kind is SERVICE and (runs := RUN.fetch(client, (), limit)):
            put("\n" + _table(RUN, runs, wide=output == "wide"))
            _explain_failures(RUN, runs, client.to.options)
    elif kind is SERVICE:
        maker = f"apply -f FILE{client.to.options}" if context is not None else "serve MODEL"
        say(f"No services.\n\nhint: `ironloom {maker}` makes one.")
    else:
        say(f"No {kind.plural}.")
    _explain_failures(kind, objects, client.to.options)
    if watch:
        _watch(client, kind, names, limit, output, objects)


def _client_of(
    context: str, namespace: str | None, kind: Kind, names: list[str], *, is_named: bool, watch: bool, output: str
) -> Client | None:
    """The gateway of a cluster; None where its training runs were asked for, and have been listed. `is_named`: the kind
    is, and no object."""
    from ironloom.cli.cluster_gateway import gateway_of, services_or_runs
    from ironloom.cli.cluster_runs import get_runs

    def runs(no_service: str | None = "") -> None:
        if watch:
            raise UsageError("A cluster's training runs are listed once.", hint="`kubectl get -w` goes on")
        get_runs(context, namespace, names, output, no_service=no_service)

    if kind is RUN:
        runs()
        return None
    if kind is SERVICE and not is_named:
        return services_or_runs(context, namespace, names, runs)
    return gateway_of(context, namespace)


def _fetched(client: Client, kind: Kind, names: list[str], limit: int) -> Objects:
    """What is there; a name that is no service's may be a run's."""
    try:
        return kind.fetch(client, names, limit)
    except ApiError as error:
        if kind is not SERVICE or error.error_code != "service_not_found" or not names:
            raise
        try:
            return RUN.fetch(client, names, limit)
        except ApiError:
            raise error from None


def _read(what: tuple[str, ...]) -> tuple[Kind, list[str]]:
    """`[KIND] [NAME]...` → kind and names. A first word that names no kind is a service's name."""
    kind = kind_of(what[0]) if what else SERVICE
    rest = what if kind is None else what[1:]
    return kind or SERVICE, [SERVICE_NAME.convert(name, None, None) for name in rest]


def _table(kind: Kind, objects: Objects, *, wide: bool) -> str:
    head = _head(kind, wide=wide)
    return table(head, [kind.row(item)[: len(head)] for item in objects])


def _head(kind: Kind, *, wide: bool) -> tuple[str, ...]:
    return kind.head + kind.wide_head if wide else kind.head


def _put_names(kind: Kind, objects: Objects) -> None:
    for item in objects:
        put(f"{kind.name}/{kind.identity(item)}")


def _put_stream(objects: Objects, output: str) -> None:
    for item in objects:
        put(f"---\n{to_yaml(item)}" if output == "yaml" else json.dumps(item, ensure_ascii=False))


def _explain_failures(kind: Kind, objects: Objects, options: str) -> None:
    """A table has no room for reasons: tell those of failed services, and of the runs that failed last. `options` reach
    the daemon that has them."""
    failed = [item for item in objects if item.get("state") == "failed"] if kind in (SERVICE, RUN) else []
    if kind is RUN:
        failed.sort(key=lambda item: item.get("since_s") or 0.0, reverse=True)
    told = failed[:FAILED_TOLD] if kind is RUN else failed
    for item in told:
        say(f"\n{item['name']} failed: {one_line(item.get('reason') or '') or 'no reason is known'}")
    if len(failed) > len(told):
        say(f"\n{plural(len(failed) - len(told), 'more run')} failed before.")
    if failed:
        say(f"\nhint: `ironloom describe {failed[0]['name']}{options}` says all of it.")


def _watch(client: Client, kind: Kind, names: list[str], limit: int, output: str, shown: Objects) -> None:
    """Print each object again when it changes, until interrupted."""
    head = _head(kind, wide=output == "wide")
    rows = [kind.row(item)[: len(head)] for item in shown]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    known = {kind.identity(item): _fingerprint(kind, item, head, output) for item in shown}
    while True:
        time.sleep(WATCH_S)
        try:
            objects = kind.fetch(client, names, limit)
        except ApiError as error:
            if error.status != 404:
                raise
            objects = []  # the service that was watched is gone
        now = {kind.identity(item): _fingerprint(kind, item, head, output) for item in objects}
        changed = [item for item in objects if known.get(name := kind.identity(item)) != now[name]]
        if output in ("json", "yaml"):
            _put_stream(changed, output)
        elif output == "name":
            _put_names(kind, changed)
        else:
            for item in changed:
                put(_line(kind.row(item)[: len(head)], widths))
            if kind.name in ("service", "run", "replica"):
                for name in known.keys() - now.keys():
                    put(_line((name, "gone"), widths))
        known = now


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    return "   ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)).rstrip()


def _fingerprint(kind: Kind, item: dict[str, Any], head: tuple[str, ...], output: str) -> object:
    """What of an object is worth a new line: all of it but what never stands still, its age and its rates."""
    if output in ("table", "wide"):
        cells = zip(head, kind.row(item), strict=False)
        return [cell for name, cell in cells if name not in _NEVER_STILL]
    return {name: value for name, value in item.items() if name not in ("requests_per_s", "tokens_per_s", "device_s")}
