"""`ironloom delete`: services go once their requests are answered, runs once they took a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from ironloom.cli.client import ApiError, Client
from ironloom.cli.cluster_runs import cluster_options, refuse_alone
from ironloom.cli.names import SERVICE_NAME
from ironloom.cli.output import put, put_data, result_option, say
from ironloom.cli.progress import Line
from ironloom.errors import UsageError


@click.command()
@click.argument("names", nargs=-1, type=SERVICE_NAME, metavar="[NAME]...")
@click.option("-f", "--file", "files", multiple=True, type=click.Path(path_type=Path, allow_dash=True), metavar="FILE",
              help="Delete what a manifest declares: a file, a folder or - for stdin; repeatable.")  # fmt: skip
@click.option("--all", "every", is_flag=True, help="Delete every service and run.")
@click.option("--ignore-not-found", is_flag=True, help="One that is not there is no error.")
@result_option
@cluster_options
def delete(
    names: tuple[str, ...],
    files: tuple[Path, ...],
    every: bool,
    ignore_not_found: bool,
    output: str,
    context: str | None,
    namespace: str | None,
) -> None:
    """Delete services and training runs.

    Requests in flight are answered first, then the replicas stop. A run takes a checkpoint first; its output stays.
    """
    if every and (names or files):
        raise UsageError(
            "--all takes no names and no -f.", hint="leave one of them out; `ironloom get` lists what there is."
        )
    refuse_alone(context, namespace)
    if context is not None:
        if every:
            raise UsageError("--all is for this machine.", hint="name what is to go of a cluster")
        wanted = [*names, *_named_in(files, is_clusters=True)]
        _of_cluster(context, namespace, wanted, ignore_not_found=ignore_not_found, output=output)
        return
    client = Client()
    wanted = _all(client) if every else [*names, *_named_in(files)]
    if not wanted and not every:
        raise UsageError("delete needs names of services or runs, -f FILE or --all.", hint="`ironloom get` lists them.")
    if not wanted:
        say("No services and no runs.")
    with _telling(output) as told:
        for name in dict.fromkeys(wanted):
            told(name, _delete(client, name, ignore_not_found=ignore_not_found))


@contextmanager
def _telling(output: str) -> Iterator[Callable[[str, str], None]]:
    """Takes each name and what it was, `service` or `run`, empty where it was not there. What went is told, also when
    the next one could not."""
    done: list[dict[str, object]] = []

    def told(name: str, deleted: str) -> None:
        done.append({"name": name, "deleted": bool(deleted)})
        if not deleted:
            say(f"service/{name} is not there.")
        elif output == "text":
            put(f"{deleted}/{name} deleted")

    try:
        yield told
    finally:
        if output != "text":
            put_data(done, output)


def _of_cluster(
    context: str, namespace: str | None, names: Sequence[str], *, ignore_not_found: bool, output: str
) -> None:
    """Services by the gateway, runs with the user's own rights; nothing before each name is known to be one's."""
    from ironloom.backends.kubernetes.training import NoSuchRunError
    from ironloom.cli.cluster_gateway import NONE_OF_THAT_NAME, neither, services_or_runs
    from ironloom.cli.cluster_runs import delete_runs, names_of_runs, options_of

    if not names:
        raise UsageError(
            "delete needs names of services or runs, or -f FILE.",
            hint=f"`ironloom get{options_of(context, namespace)}` lists them.",
        )
    wanted = list(dict.fromkeys(names))

    def delete_all(client: Client | None, services: Sequence[str], *, knows_services: bool = True) -> None:
        others = [name for name in wanted if name not in services]
        may_lack = ignore_not_found and knows_services
        runs = names_of_runs(context, namespace, others, ignore_not_found=may_lack) if others else []
        with _telling(output) as told:
            for name in services:
                assert client is not None
                told(name, _delete(client, name, ignore_not_found=ignore_not_found))
            if runs:
                delete_runs(context, namespace, runs, lambda name: told(name, "run"))
            for name in others:
                if name not in runs:
                    told(name, "")

    client = services_or_runs(
        context, namespace, wanted, lambda why: delete_all(None, (), knows_services=why is not None)
    )
    if client is None:
        return
    there = {view.name for view in client.services()}
    try:
        delete_all(client, [name for name in wanted if name in there])
    except NoSuchRunError as error:
        raise neither(error, NONE_OF_THAT_NAME) from None


def _delete(client: Client, name: str, *, ignore_not_found: bool) -> str:
    """`service` or `run` when it is gone, empty when it was not there and need not be."""
    with Line(f"Deleting {name}") as line:
        try:
            line.show("waiting for its requests")
            client.delete(name)
            return "service"
        except ApiError as error:
            if error.error_code != "service_not_found":
                raise
            not_there = error
        try:
            line.show("waiting for its checkpoint")
            client.delete_run(name)
            return "run"
        except ApiError as error:
            if error.status != 404:
                raise
    if not ignore_not_found:
        raise not_there
    return ""


def _all(client: Client) -> list[str]:
    return [*(view.name for view in client.services()), *(view.name for view in client.runs())]


def _named_in(files: tuple[Path, ...], *, is_clusters: bool = False) -> list[str]:
    """The services and runs that files declare; of a cluster's those too that run another program than ours."""
    if not files:
        return []
    from ironloom.cli.manifests import read

    found = read(files)
    others = [str(one.manifest["metadata"]["name"]) for one in found.other_runs] if is_clusters else []
    return [*(serving.name for serving in found.servings), *(job.name for job in found.trainings), *others]
