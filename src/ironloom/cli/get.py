"""`ironloom get`: what there is, as kubectl lists it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from ironloom.cli.client import ApiError, Client
from ironloom.cli.names import SERVICE_NAME, complete_service
from ironloom.cli.output import output_option, put, put_data, say, table, to_yaml
from ironloom.cli.views import KINDS, SERVICE, Kind, Objects, kind_of

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

WATCH_S = 1.0


def _complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[Any]]:
    from click.shell_completion import CompletionItem

    kinds = [CompletionItem(kind.plural) for kind in KINDS if kind.plural.startswith(incomplete)]
    return kinds + complete_service(incomplete)


@click.command()
@click.argument("what", nargs=-1, metavar="[KIND] [NAME]...", shell_complete=_complete)
@output_option("table", "wide", "json", "yaml", "name")
@click.option("-w", "--watch", is_flag=True, help="Go on, and print what changes.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Events or requests.")
def get(what: tuple[str, ...], output: str, watch: bool, limit: int) -> None:
    """List services, replicas, events or requests.

    \b
    ironloom get                    every service
    ironloom get chat               one service
    ironloom get replicas chat      the replicas of a service
    ironloom get events             what happened, newest last
    ironloom get requests chat      the last requests of a service

    JSON and YAML are always a list, even of one.
    """
    kind, names = _read(what)
    client = Client()
    objects = kind.fetch(client, names, limit)
    if output in ("json", "yaml"):
        if not watch:
            put_data(objects, output)
            return
        _put_stream(objects, output)
    elif output == "name":
        _put_names(kind, objects)
    elif objects or watch:
        put(_table(kind, objects, wide=output == "wide"))
    else:
        say(f"No {kind.plural}." if kind is not SERVICE else "No services.\n\nhint: `ironloom serve MODEL` makes one.")
    _explain_failures(kind, objects)
    if watch:
        _watch(client, kind, names, limit, output, objects)


def _read(what: tuple[str, ...]) -> tuple[Kind, list[str]]:
    """`[KIND] [NAME]...` → kind and names. A first word that names no kind is a service's name."""
    kind = kind_of(what[0]) if what else SERVICE
    rest = what if kind is None else what[1:]
    return kind or SERVICE, [SERVICE_NAME.convert(name, None, None) for name in rest]


def _table(kind: Kind, objects: Objects, *, wide: bool) -> str:
    head = kind.head + kind.wide_head if wide else kind.head
    return table(head, [kind.row(item)[: len(head)] for item in objects])


def _put_names(kind: Kind, objects: Objects) -> None:
    for item in objects:
        put(f"{kind.name}/{kind.identity(item)}")


def _put_stream(objects: Objects, output: str) -> None:
    for item in objects:
        put(f"---\n{to_yaml(item)}" if output == "yaml" else json.dumps(item, ensure_ascii=False))


def _explain_failures(kind: Kind, objects: Objects) -> None:
    """A table has no room for reasons: tell those of failed services."""
    failed = [item for item in objects if item.get("state") == "failed"] if kind is SERVICE else []
    for item in failed:
        say(f"\n{item['name']} failed: {item.get('reason') or 'no reason is known'}")
    if failed:
        say(f"\nhint: `ironloom describe {failed[0]['name']}` shows its events, `ironloom logs` its last lines.")


def _watch(client: Client, kind: Kind, names: list[str], limit: int, output: str, shown: Objects) -> None:
    """Print each object again when it changes, until interrupted."""
    known = {kind.identity(item): _fingerprint(item) for item in shown}
    widths = kind.head + kind.wide_head if output == "wide" else kind.head
    pad = [
        max(map(len, column)) for column in zip(widths, *(kind.row(item)[: len(widths)] for item in shown), strict=True)
    ]
    while True:
        time.sleep(WATCH_S)
        try:
            now = kind.fetch(client, names, limit)
        except ApiError as error:
            if error.status != 404:
                raise
            now = []  # the service that was watched is gone
        changed = [item for item in now if known.get(kind.identity(item)) != _fingerprint(item)]
        gone = [name for name in known if name not in {kind.identity(item) for item in now}]
        if output in ("json", "yaml"):
            _put_stream(changed, output)
        elif output == "name":
            _put_names(kind, changed)
        else:
            for item in changed:
                cells = kind.row(item)[: len(pad)]
                put("   ".join(cell.ljust(width) for cell, width in zip(cells, pad, strict=True)).rstrip())
            if kind.name in ("service", "replica"):
                for name in gone:
                    put(f"{name.ljust(pad[0])}   gone")
        for name in gone:
            del known[name]
        known.update((kind.identity(item), _fingerprint(item)) for item in changed)


def _fingerprint(item: dict[str, Any]) -> str:
    """What of an object is worth a new line: all of it but its rates, which never stand still."""
    return json.dumps({k: v for k, v in item.items() if k not in ("requests_per_s", "tokens_per_s")}, sort_keys=True)
