"""`ironloom delete`: services go, once their requests are answered."""

from __future__ import annotations

from pathlib import Path

import click

from ironloom.cli.client import ApiError, Client
from ironloom.cli.names import SERVICE_NAME
from ironloom.cli.output import put, put_data, result_option, say
from ironloom.cli.progress import Line
from ironloom.errors import UsageError


@click.command()
@click.argument("names", nargs=-1, type=SERVICE_NAME, metavar="[NAME]...")
@click.option("-f", "--file", "files", multiple=True, type=click.Path(path_type=Path, allow_dash=True), metavar="FILE",
              help="Delete the services of a manifest: a file, a folder or - for stdin; repeatable.")  # fmt: skip
@click.option("--all", "every", is_flag=True, help="Delete every service.")
@click.option("--ignore-not-found", is_flag=True, help="A service that is not there is no error.")
@result_option
def delete(names: tuple[str, ...], files: tuple[Path, ...], every: bool, ignore_not_found: bool, output: str) -> None:
    """Delete services: requests in flight are answered first, then the replicas stop."""
    if every and (names or files):
        raise UsageError(
            "--all takes no names and no -f.", hint="leave one of them out; `ironloom get` lists what there is."
        )
    client = Client()
    wanted = [view.name for view in client.services()] if every else [*names, *_named_in(files)]
    if not wanted and not every:
        raise UsageError("delete needs names of services, -f FILE or --all.", hint="`ironloom get` lists them.")
    if not wanted:
        say("No services.")
    done: list[dict[str, object]] = []
    try:
        for name in dict.fromkeys(wanted):
            deleted = _delete(client, name, ignore_not_found=ignore_not_found)
            done.append({"name": name, "deleted": deleted})
            if not deleted:
                say(f"service/{name} is not there.")
            elif output == "text":
                put(f"service/{name} deleted")
    finally:  # what went is told, also when the next one could not
        if output != "text":
            put_data(done, output)


def _delete(client: Client, name: str, *, ignore_not_found: bool) -> bool:
    """True when it is gone, False when it was not there and need not be."""
    try:
        with Line(f"Deleting {name}") as line:
            line.show("waiting for its requests")
            client.delete(name)
    except ApiError as error:
        if error.status != 404 or not ignore_not_found:
            raise
        return False
    return True


def _named_in(files: tuple[Path, ...]) -> list[str]:
    if not files:
        return []
    from ironloom.cli.manifests import read

    return [serving.name for serving in read(files).servings]
