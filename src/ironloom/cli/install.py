"""`ironloom install`, `uninstall`: the gateway in a cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ironloom.cli.dry_run import DryRun
from ironloom.cli.durations import seconds
from ironloom.cli.output import put, put_data, result_option, say, to_yaml
from ironloom.cli.progress import Line
from ironloom.errors import DaemonError, UsageError
from ironloom.units import format_duration

if TYPE_CHECKING:
    from ironloom.backends.kubernetes.install_apply import Done, Removed
    from ironloom.backends.kubernetes.kubeconfig import Target


def cluster_of(context: str, namespace: str | None) -> Target:
    """A kubeconfig's context, its namespace or another one. Raises UsageError and what reading a kubeconfig raises."""
    from dataclasses import replace

    from ironloom.backends.kubernetes.kubeconfig import load

    target = load().target(context)
    return replace(target, namespace=namespace) if namespace else target


MAX_NAMED = 5
"""Of the services that an uninstall leaves."""
_context = click.option("--context", required=True, metavar="NAME", help="The kubeconfig context of the cluster.")
_context_or_none = click.option(
    "--context", metavar="NAME", help="The kubeconfig context of the cluster. --dry-run=client and --helm need none."
)
_namespace = click.option(
    "-n", "--namespace", metavar="NAME", help="Of the gateway and its services. [default: context's]"
)


@click.command(cls=DryRun)
@_context_or_none
@_namespace
@click.option("--image", metavar="NAME", help="The gateway's image. [default: ironloom:VERSION]")
@click.option("--replicas", type=click.IntRange(1, 20), default=1, show_default=True, help="Gateways; one decides.")
@click.option("--gateway", default="", metavar="[NAMESPACE/]NAME", help="A Gateway (Gateway API) that leads to it.")
@click.option("--ingress-host", default="", metavar="HOST", help="The host of an Ingress that leads to it.")
@click.option("--state-size", default="", metavar="SIZE",
              help="A volume of that size for each gateway, as 10Gi. [default: state goes with its pod]")  # fmt: skip
@click.option("--state-class", default="", metavar="NAME", help="The volumes' StorageClass. [default: cluster's]")
@click.option("--cluster-reads", is_flag=True,
              help="Let it list nodes, their pools and pods of all namespaces, by a ClusterRole.")  # fmt: skip
@click.option("--dry-run", type=click.Choice(["client", "server"]), metavar="[=server]",
              help="Print the objects; change nothing. =server has the API server judge them.")  # fmt: skip
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), metavar="FORMAT",
              help="Print the objects as yaml or json.")  # fmt: skip
@click.option("--helm", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="Write a Helm chart of the same objects there; apply nothing.")  # fmt: skip
@click.option("--wait", is_flag=True, help="Return once the gateway's pods are ready and one of them decides.")
@click.option("--timeout", metavar="TIME", callback=seconds,
              help="How long --wait waits before it ends with status 1 and what is missing. [default: 5m]")  # fmt: skip
def install(
    context: str | None,
    namespace: str | None,
    image: str | None,
    replicas: int,
    gateway: str,
    ingress_host: str,
    state_size: str,
    state_class: str,
    cluster_reads: bool,
    dry_run: str | None,
    output: str | None,
    helm: Path | None,
    wait: bool,
    timeout: float | None,
) -> None:
    """Install the gateway in a cluster: its pods with least rights, their Role, a Service, and a way in.

    Applied again it changes what differs and nothing else. What the API server refuses is refused before anything is
    changed. The control key is made once, in the Secret ironloom-key. With --state-size it is a StatefulSet, and each
    gateway keeps its event log, files and batches on a volume of its own.

    \b
    ironloom install -n models --dry-run
    ironloom install --context prod -n models --image registry.example.com/ironloom:0.1.0
    """
    from ironloom.backends.kubernetes import install as made
    from ironloom.backends.kubernetes.chart import KEY_COMMAND, chart
    from ironloom.backends.kubernetes.install_apply import FOLLOWS_WITHIN_S
    from ironloom.backends.kubernetes.install_wait import WITHIN_S
    from ironloom.backends.kubernetes.installed import FORMS, is_up
    from ironloom.backends.kubernetes.kubeconfig import DEFAULT_NAMESPACE

    is_printed = helm is not None or dry_run == "client"
    if wait and (is_printed or dry_run):
        raise UsageError("--wait waits for what is installed, and this installs nothing", hint="leave it out")
    if timeout is not None and not wait:
        raise UsageError("--timeout says nothing without --wait", hint="leave it out, or wait")
    if context is None and not is_printed:
        raise UsageError(
            "An installation needs --context, the kubeconfig context of the cluster.",
            hint="`kubectl config get-contexts` lists them; --dry-run=client and --helm need none",
        )
    target = cluster_of(context, namespace) if context is not None else None
    setting = made.Setting(
        namespace=target.namespace if target is not None else namespace or DEFAULT_NAMESPACE,
        image=image or made.IMAGE,
        num_replicas=replicas,
        gateway=gateway,
        ingress_host=ingress_host,
        state_size=state_size,
        state_class=state_class,
        reads_cluster=cluster_reads,
    )
    objects = made.objects(setting)
    if image is None:
        say(f"note: the image {made.IMAGE} is in no registry: --image names where yours lies, or each node has it")
    if target is None or is_printed:
        if helm is not None:
            _write_chart(helm, chart(setting))
        else:
            _print(objects, output)
        say(
            f"note: the Secret {made.KEY_SECRET} is not among them, as a control key belongs into no file; an install "
            f"makes it once, and by hand it is\n  {KEY_COMMAND.format(namespace=setting.namespace)}"
        )
        return
    began_s = time.monotonic()
    patience_s = WITHIN_S if timeout is None else timeout
    follows_within_s = patience_s if wait else FOLLOWS_WITHIN_S
    done = asyncio.run(_applied(target, objects, is_trial=dry_run == "server", follows_within_s=follows_within_s))
    if output:
        _print([one for _, one in done if one], output)
    else:
        for one, _ in done:
            put(f"{_line(one)}{' (dry run)' if dry_run else ''}")
    if dry_run:
        return
    if not output:
        _say_way_in(target, gateway, ingress_host)
    kubectl = f"kubectl --context {target.context} -n {target.namespace}"
    followed = {one.action: one.kind for one, after in done if one.kind in FORMS and not after}
    ((form, is_seen),) = ((one.kind, is_up(after)) for one, after in done if one.kind in FORMS and after)
    if not wait and not is_seen and "deleted" not in followed:
        say(
            f"note: its pods do not answer yet: `{kubectl} rollout status {form.lower()}/ironloom` waits until they "
            f"do, `{kubectl} get pods` says what they wait for"
        )
    if "kept" in followed:
        old = followed["kept"].lower()
        say(f"note: {old}/ironloom goes on answering until the new pods do; the same install again removes it then")
    if followed.get("deleted") == "StatefulSet":
        say(f"note: the gateways' volumes stay: `{kubectl} get pvc -l app.kubernetes.io/name=ironloom` lists them")
    if wait:
        _wait(target, form, began_s=began_s, within_s=patience_s)


async def _applied(
    target: Target, objects: Sequence[dict[str, Any]], *, is_trial: bool, follows_within_s: float
) -> list[tuple[Done, Any]]:
    from ironloom.backends.kubernetes.client import Client
    from ironloom.backends.kubernetes.install_apply import install as applied

    async with Client(target) as client:
        return await applied(
            client, objects, namespace=target.namespace, is_trial=is_trial, follows_within_s=follows_within_s
        )


def _wait(target: Target, kind: str, *, began_s: float, within_s: float) -> None:
    """Until it works, and then it is said which one decides. Raises DaemonError with what is missing when `within_s`
    are over since `began_s` (monotonic). `kind` is what makes the gateway's pods."""
    from ironloom.backends.kubernetes import install_wait
    from ironloom.backends.kubernetes.client import Client

    async def waited(line: Line) -> install_wait.Works | install_wait.NotYet:
        async with Client(target) as client:
            return await install_wait.until_it_works(
                client, kind, target.namespace, within_s=began_s + within_s - time.monotonic(), on_wait=line.show
            )

    with Line("Waiting for the gateway") as line:
        found = asyncio.run(waited(line))
    if isinstance(found, install_wait.NotYet):
        pods = f"kubectl --context {target.context} -n {target.namespace} get pods -l app.kubernetes.io/name=ironloom"
        raise DaemonError(
            f"The gateway does not work after {format_duration(within_s)}: {found.why}",
            hint=f"it stays installed, and the same command waits on; `{pods}` shows what its pods do",
        )
    say(f"It works: {found.decides} decides.")


def _print(objects: Sequence[dict[str, Any]], output: str | None) -> None:
    """Objects as kubectl takes them: documents, or a List."""
    if output == "json":
        put_data({"apiVersion": "v1", "kind": "List", "items": list(objects)}, "json")
    else:
        put("\n---\n".join(to_yaml(one) for one in objects))


def _write_chart(folder: Path, files: dict[str, str]) -> None:
    """Raises UsageError for a folder that holds something else."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "Chart.yaml").is_file():
        raise UsageError(f"{folder} holds files and no chart", hint="name a folder that is empty or not there yet")
    for stale in (folder / "templates").glob("*.yaml"):
        if f"templates/{stale.name}" not in files:
            stale.unlink()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    put(str(folder))


def _line(one: Done) -> str:
    return f"{one.kind.lower()}/{one.name} {one.action}"


def _say_way_in(target: Target, gateway: str, ingress_host: str) -> None:
    context, namespace = target.context, target.namespace
    say(f"\nIn the cluster it answers at http://ironloom.{namespace}.svc/v1.")
    if gateway:
        say(f"The Gateway {gateway} leads to it.")
    elif ingress_host:
        say(f"The Ingress leads to it from http://{ingress_host}/v1.")
    else:
        say("From this machine:")
        say(f"  kubectl --context {context} -n {namespace} port-forward svc/ironloom 11500:80")
    say(f"\nhint: `ironloom get --context {context} --namespace {namespace}` asks it.")


@click.command()
@_context
@_namespace
@result_option
def uninstall(context: str, namespace: str | None, output: str) -> None:
    """Remove the gateway from a cluster, with its roles and its key. The services' pods stay as they are, and so do the
    gateways' own volumes.

    Without a gateway nothing scales them: delete the services first where they shall go too.
    """
    from ironloom.backends.kubernetes import install_check

    target = cluster_of(context, namespace)
    install_check.check_namespace(target.namespace)

    async def removed() -> Removed:
        from ironloom.backends.kubernetes.client import Client
        from ironloom.backends.kubernetes.install_apply import uninstall as remove

        async with Client(target) as client:
            return await remove(client, namespace=target.namespace)

    found = asyncio.run(removed())
    if output != "text":
        told = [*found.done, *found.left]
        put_data([{"kind": one.kind, "name": one.name, "action": one.action} for one in told], output)
    else:
        for one in found.done:
            put(_line(one))
    if not found.done:
        say(f"Namespace {target.namespace} has no gateway of Ironloom.")
    for note in _left_notes(found, context, target.namespace):
        say(f"note: {note}")


def _left_notes(found: Removed, context: str, namespace: str) -> list[str]:
    """What stays, and the command that removes it."""
    from ironloom.backends.kubernetes.install_apply import STORED

    notes = []
    where = f"kubectl --context {context} -n {namespace} delete"

    def named(kept: Sequence[Done], between: str) -> str:
        return between.join(f"{one.kind.lower()}/{one.name}" for one in kept)

    if found.left:
        notes.append(
            f"{named(found.left, ' and ')} stay, as you may not delete them; an administrator of the cluster does with "
            f"`{where} {named(found.left, ' ')}`"
        )
    if found.unseen and found.done:
        notes.append(
            f"whether there is {named(found.unseen, ' or ')} you may not see; an administrator sees to it "
            f"with `{where} --ignore-not-found {named(found.unseen, ' ')}`"
        )
    if found.claims:
        claims = " ".join(found.claims)
        notes.append(
            f"the gateways' volumes stay, with the event log, files and batches in them: `{where} pvc {claims}` "
            "removes them; a gateway that is installed again with --state-size takes its own up"
        )
    if found.services:
        first, more = found.services[:MAX_NAMED], len(found.services) - MAX_NAMED
        names = f"{', '.join(first)}{f' and {more} more' if more > 0 else ''}"
        notes.append(
            f"as applied stay, in ConfigMaps, the services {names}, and their pods as they are: a gateway that is "
            f"installed again runs them; `kubectl --context {context} -n {namespace} delete configmaps -l {STORED}` "
            "deletes them, with all that was made of them"
        )
    return notes
