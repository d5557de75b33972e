"""`ironloom key`: the API keys that clients send."""

from __future__ import annotations

import click
import msgspec

from ironloom.cli.client import Client
from ironloom.cli.cluster_runs import cluster_options, refuse_alone
from ironloom.cli.names import SERVICE_NAME
from ironloom.cli.output import age, output_option, put, put_data, result_option, say, table
from ironloom.errors import UsageError
from ironloom.server.control import KeyView


@click.group()
def key() -> None:
    """Create, list and revoke API keys.

    Only a hash of each key is stored. A key is wanted from everyone off this machine, and on it with
    `ironloom up --require-keys`. With --context: the keys of a cluster's gateways, good at each of them.
    """


@key.command()
@click.argument("name")
@click.option("--scope", type=click.Choice(["inference", "control"]), default="inference", show_default=True,
              help="inference calls models; control also applies, scales, deletes and makes keys.")  # fmt: skip
@click.option("--service", "services", multiple=True, type=SERVICE_NAME, metavar="NAME",
              help="A service the key is good for; repeatable. [default: all]")  # fmt: skip
@output_option("table", "json", "yaml")
@cluster_options
def create(
    name: str, scope: str, services: tuple[str, ...], output: str, context: str | None, namespace: str | None
) -> None:
    """Create a key, and print it: it is shown this once.

    The key alone goes to stdout, so that KEY=$(ironloom key create NAME) holds it.
    """
    client = _client(context, namespace)
    made = client.create_key(name, scope, services)
    there = {view.name for view in client.services()} if services else set()
    if output != "table":
        put_data(msgspec.to_builtins(made), output)
        return
    reach = ", ".join(made.services) or "every service"
    put(made.key)
    say(f"\nThis is key {made.id} ({made.name}), with scope {made.scope}, for {reach}. It is not shown again.")
    for missing in [service for service in made.services if service not in there]:
        say(f"note: there is no service {missing} yet; the key is good for it once it is there.")
    say("\nhint: clients send it as `Authorization: Bearer KEY`; this command line reads IRONLOOM_API_KEY.")


@key.command("list")
@output_option("table", "json", "yaml")
@cluster_options
def list_keys(output: str, context: str | None, namespace: str | None) -> None:
    """List the keys, without their secrets."""
    client = _client(context, namespace)
    keys = client.keys()
    if output != "table":
        put_data(msgspec.to_builtins(keys), output)
        return
    if not keys:
        say(f"No keys.\n\nhint: `ironloom key create NAME{client.to.options}` makes one.")
        return
    rows = [
        (
            view.id,
            view.name,
            view.scope,
            ",".join(view.services) or "all",
            age(view.created_s),
            age(view.last_used_s) if view.last_used_s else "never",
        )
        for view in keys
    ]
    put(table(("ID", "NAME", "SCOPE", "SERVICES", "AGE", "LAST USED"), rows))


@key.command()
@click.argument("keys", nargs=-1, required=True, metavar="ID_OR_NAME...")
@result_option
@cluster_options
def revoke(keys: tuple[str, ...], output: str, context: str | None, namespace: str | None) -> None:
    """Revoke keys, by id or by name. They stop working at once."""
    client = _client(context, namespace)
    known = client.keys()
    done: list[dict[str, object]] = []
    try:
        for wanted in keys:
            view = _the_one(known, wanted, client.to.options)
            client.revoke_key(view.id)
            done.append({"id": view.id, "name": view.name})
            if output == "text":
                put(f"key/{view.id} ({view.name}) revoked")
    finally:  # what is revoked is told, also when the next one could not be
        if output != "text":
            put_data(done, output)


def _client(context: str | None, namespace: str | None) -> Client:
    """Of the daemon that commands act on, or of the gateway of a cluster that decides."""
    refuse_alone(context, namespace)
    if context is None:
        return Client()
    from ironloom.cli.cluster_gateway import gateway_of

    return gateway_of(context, namespace)


def _the_one(known: list[KeyView], wanted: str, options: str) -> KeyView:
    """The key of an id or a name; `options` reach the daemon that has it. Raises UsageError when there is none, or
    several."""
    found = [view for view in known if view.id == wanted] or [view for view in known if view.name == wanted]
    if not found:
        raise UsageError(f"There is no key {wanted!r}.", hint=f"`ironloom key list{options}` shows them.")
    if len(found) > 1:
        ids = ", ".join(view.id for view in found)
        raise UsageError(f"{len(found)} keys are named {wanted!r}: {ids}.", hint="name one by its id.")
    return found[0]
