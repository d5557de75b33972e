"""`ironloom apply -f`: what the manifests ask for is shown, and then done."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ironloom.cli.client import Client, DaemonNotRunning
from ironloom.cli.cluster_runs import cluster_options, refuse_alone
from ironloom.cli.dry_run import DryRun
from ironloom.cli.folded import folded, named, of_many
from ironloom.cli.launch import ensure_daemon
from ironloom.cli.manifests import note_text, objects, read, refuse_unknown_models, text
from ironloom.cli.output import plural, put, put_data, say, table
from ironloom.cli.run_views import ending
from ironloom.cli.run_waiting import until_ended
from ironloom.cli.waiting import now_seq, until_ready
from ironloom.errors import ClusterError, DaemonError, IronloomError, UsageError
from ironloom.server.control import AppliedRun, AppliedView, RunView, ServiceView
from ironloom.units import format_duration
from ironloom.workload.serving import FieldNote, Ground, Serving
from ironloom.workload.training_job import TrainingJob

if TYPE_CHECKING:
    from ironloom.backends.kubernetes.rendering import Rendered
    from ironloom.cli.train_cluster import Looked, Order


def _claims(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    claims: dict[str, str] = {}
    for value in values:
        claim, equals, folder = value.partition("=")
        if not equals or not claim or not Path(folder).expanduser().is_dir():
            raise click.BadParameter(f"{value!r} is not CLAIM=FOLDER with a folder that is there")
        claims[claim] = str(Path(folder).expanduser().absolute())
    return claims


@click.command(cls=DryRun)
@click.option("-f", "--file", "files", multiple=True, required=True, metavar="FILE",
              type=click.Path(path_type=Path, allow_dash=True),
              help="A file, a folder or - for stdin; repeatable.")  # fmt: skip
@click.option("-y", "--yes", is_flag=True, help="Do not ask. Without a terminal nothing is asked.")
@click.option("--dry-run", type=click.Choice(["client", "server"]), metavar="[=server]",
              help="Show what would be done; do nothing. =server asks the daemon, and it the cluster.")  # fmt: skip
@click.option(
    "--wait", is_flag=True, help="Return once every service is ready (or at zero on purpose) and every run has ended."
)
@click.option(
    "--pvc", multiple=True, metavar="CLAIM=FOLDER", callback=_claims, help="The folder that stands for a claim."
)
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), metavar="FORMAT",
              help="Print what was done (with --dry-run: the objects) as yaml or json.")  # fmt: skip
@click.option("--force", is_flag=True, help="With --context: also with findings of severity error.")
@cluster_options
def apply(
    files: tuple[Path, ...],
    yes: bool,
    dry_run: str | None,
    wait: bool,
    pvc: dict[str, str],
    output: str | None,
    force: bool,
    context: str | None,
    namespace: str | None,
) -> int:
    """Apply manifests: InferenceService, LLMInferenceService, a Deployment or LeaderWorkerSet of a vLLM or Hugging Face
    image; and TrainJob, JobSet or PyTorchJob that run ironloom.train.run, in a cluster also another program.

    What will happen is shown first, and what of the manifest this machine cannot honour. Either all of it is applied
    or, when a field is wrong, none. With --context the gateway of a cluster applies services, and training runs are
    made there with your own rights, as `ironloom train -f` makes them; what `ironloom check` finds and the room that
    the nodes have come first, as far as you may look, and an error stops it.

    --dry-run (which is --dry-run=client) shows what would be done, with -o the objects. With --context they are
    rendered here, with your own rights, from what the cluster's API says that it has: no gateway is needed, and nothing
    is sent to be judged. --dry-run=server has the gateway and its API server judge them.
    """
    refuse_alone(context, namespace)
    if force and context is None:
        raise UsageError("--force is over findings, and those are with --context.", hint="leave it out")
    found = read(files)
    servings, trainings = found.servings, found.trainings
    runs, skipped = [job.manifest for job in trainings], list(found.skipped)
    if context is not None:  # a cluster trains with other programs too
        runs += [one.manifest for one in found.other_runs]
        skipped = [note for note in skipped if note not in [one.note for one in found.other_runs]]
    if not servings and not runs:
        for note in skipped:
            say(f"note: {note_text(note)}")
        raise UsageError(
            "The manifests declare no service and no training run.",
            hint="apply takes InferenceService, LLMInferenceService, Deployments of vLLM or Hugging Face images, and "
            "TrainJob, JobSet and PyTorchJob that run ironloom.train.run.",
        )
    client = _gateway(context, namespace, is_needed=dry_run != "client") if context is not None and servings else None
    is_local = context is None and _backend() == "local"
    if trainings and context is None and not is_local:
        raise UsageError(
            f"The daemon's replicas are pods of a cluster, and it trains nothing: {trainings[0].name} is a run.",
            hint="`ironloom apply -f FILE --context NAME` trains it in the cluster",
        )
    grounds = (Ground.LOCAL,) if is_local else (Ground.PLAIN, Ground.KSERVE)
    if is_local:
        refuse_unknown_models(servings)
    manifests = [*objects(servings), *(runs if context is None else ())]
    lacking = _lacking(servings) if is_local else {}
    there = _there(client or Client()) if client is not None or context is None else None
    made_here = _rendered(context, namespace, servings, dry_run) if context is not None else None
    looked = _looked(context, namespace, runs, dry_run, force=force) if context is not None and runs else None
    tried = _trial(client or Client(), manifests, pvc) if dry_run == "server" and manifests else None
    put_back = _put_back(context, namespace, servings, there, made_here) if context is not None else {}
    actions = _tried_actions(tried) if isinstance(tried, AppliedView) else _actions(servings, there, put_back)
    plans = [_plan(servings, actions, lacking, grounds, is_whole=bool(output))] if servings else []
    plans += [_run_plan(trainings, _runs_there())] if trainings and context is None else []
    plans += [_cluster_run_plan(looked)] if looked is not None else []
    plan = "\n\n".join(plans)
    if dry_run and not output:
        put(plan)  # the plan is the data then
    else:
        say(plan)
    for note in skipped:
        say(f"note: {note_text(note)}")
    if context is not None and (made_here is not None or looked is not None):
        judged = servings if made_here is not None else ()
        _judged(context, files, judged, made_here or (), looked, dry_run, force=force, is_whole=bool(output))
    refusal = tried if isinstance(tried, IronloomError) else looked.refusal if looked is not None else None
    if refusal is not None:
        raise refusal
    if dry_run:
        made, notes = _would_be(
            servings, made_here, put_back, tried if isinstance(tried, AppliedView) else None, manifests
        )
        made += looked.objects if looked is not None else ()
        told = {note.message for serving in servings for note in serving.notes_on(*grounds)}
        unsaid = ((name, said) for name, said in notes if said not in told)
        for names, said in folded(unsaid, is_whole=bool(output)):
            say(f"note: {named(names)}: {said}")
        if output:
            put(text(made, output))
        return 0
    ask = not yes and sys.stdin.isatty() and Path("-") not in files
    if ask and not click.confirm("Apply?", default=True, err=True):
        say("Nothing was applied.")
        return 1
    client = client or (ensure_daemon() if context is None else None)
    seq = now_seq(client) if client is not None else 0
    done = client.apply(manifests, pvc=pvc) if client is not None else AppliedView(services=[])
    if context is not None and looked is not None:
        done.runs.extend(_runs_applied(looked, context, namespace, trainings, force=force))
    shown = {note.message for serving in servings for note in serving.notes_on(*grounds)}
    shown |= {note.message for job in trainings for note in job.not_honoured}
    shown |= set(lacking.values())
    untold = [
        (one.name, said) for one in done.services for said in one.notes if not any(said in told for told in shown)
    ]
    alike = {} if output else of_many(untold)
    for service in done.services:
        if not output:
            put(f"service/{service.name} {service.action}")
        for said in service.notes:
            if said not in alike and not any(said in told for told in shown):
                say(f"  note: {said}")
    for said, names in alike.items():
        say(f"note: {named(names)}: {said}")
    for run in done.runs:
        if not output:
            put(f"run/{run.name} {run.action}")
    status = 0
    if wait and client is not None:
        for service in done.services:
            waited = until_ready(
                client, service.name, service.generation, after_seq=0 if service.action == "unchanged" else seq
            )
            how = f"ready after {format_duration(waited.took_s)}" if waited.ready else f"at {waited.view.state}"
            say(f"service/{service.name} is {how}.")
        for run in done.runs if context is None else ():
            ended = until_ended(client, run.name)
            say(ending(ended))
            status = max(status, int(ended.state != "succeeded"))
    if wait and context is not None and looked is not None:
        from ironloom.cli.train_cluster import follow_runs

        states = follow_runs(looked, _order(context, namespace, force=force))
        status = int(any(state.state != "succeeded" for state in states))
    if output:
        put_data(msgspec.to_builtins(done), output)
    return status


def _trial(client: Client, manifests: list[dict[str, Any]], pvc: dict[str, str]) -> AppliedView | IronloomError:
    """What all who will judge it say would be done; or why they refuse it, which is raised once the rest is said."""
    try:
        return client.apply(manifests, pvc=pvc, is_trial=True)
    except IronloomError as error:
        return error


def _would_be(
    servings: Sequence[Serving],
    made_here: Sequence[Rendered] | None,
    put_back: dict[str, tuple[str, ...]],
    tried: AppliedView | None,
    manifests: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """The objects that an apply would make, and what is to be said of each service: a cluster's objects, or the
    manifests themselves where replicas are processes. `tried` is what those say who will judge it, where they were
    asked; `made_here` is what was rendered here of a cluster's objects."""
    if tried is not None:
        notes = [(one.name, note) for one in tried.services for note in one.notes]
        objects = [made for one in tried.services for made in one.objects]
    elif made_here is not None:
        from ironloom.cli.cluster_services import objects_of

        said = zip(servings, made_here, strict=True)
        notes = [(one.name, note) for one, made in said for note in (*put_back.get(one.name, ()), *made.notes)]
        objects = objects_of(made_here)
    else:
        return manifests, []
    return objects or manifests, notes


def _rendered(
    context: str, namespace: str | None, servings: Sequence[Serving], dry_run: str | None
) -> Sequence[Rendered] | None:
    """What the cluster would get of services; None where this user may not read what that takes, which is said, and the
    gateway may."""
    from ironloom.cli.cluster_services import rendered

    if not servings:
        return ()
    try:
        return rendered(context, namespace, servings)
    except ClusterError as error:
        if error.status != 403 or dry_run == "client":
            raise
        say(f"note: it is not checked before: {error}")
        return None


def _put_back(
    context: str,
    namespace: str | None,
    servings: Sequence[Serving],
    there: dict[str, ServiceView] | None,
    made: Sequence[Rendered] | None,
) -> dict[str, tuple[str, ...]]:
    """By service that is there, what others changed of it; nothing where that may not be read, which is said."""
    from ironloom.cli.cluster_services import put_back

    pairs = zip(servings, made or (), strict=made is not None)
    known = {serving.name: one for serving, one in pairs if serving.name in (there or {})}
    if not known:
        return {}
    try:
        return put_back(context, namespace, known)
    except ClusterError as error:
        if error.status != 403:
            raise
        say(f"note: what others changed is not known: {error}")
        return {}


def _order(context: str, namespace: str | None, *, force: bool) -> Order:
    from ironloom.cli.train_cluster import Order

    return Order(context=context, namespace=namespace, is_forced=force)


def _looked(
    context: str, namespace: str | None, runs: Sequence[dict[str, Any]], dry_run: str | None, *, force: bool
) -> Looked:
    """What the cluster would make of training runs, judged by its API server unless nobody is to be asked."""
    from ironloom.cli.train_cluster import look

    return look(runs, _order(context, namespace, force=force), asks=dry_run != "client")


def _runs_applied(
    looked: Looked, context: str, namespace: str | None, jobs: Sequence[TrainingJob], *, force: bool
) -> list[AppliedRun]:
    """What was done with each run, which is the cluster's own from then on: no gateway has it."""
    from ironloom.cli.train_cluster import apply_runs

    outputs = {job.name: job.training.output for job in jobs}
    made = apply_runs(looked, _order(context, namespace, force=force))
    return [
        AppliedRun(
            name=one.run.name,
            action=done.action,
            generation=int(done.object["metadata"].get("generation") or 1),
            output=outputs.get(one.run.name, ""),
        )
        for one, done in zip(looked.runs, made, strict=True)
    ]


def _cluster_run_plan(looked: Looked) -> str:
    """What an apply would do to a cluster's training runs, a line each, its notes under it."""
    from ironloom.cli.train_cluster import made_of

    rows = [
        (one.run.name, _VERBS.get(looked.actions.get(one.run.name, ""), "apply"), one.run.kind, made_of(one))
        for one in looked.runs
    ]
    head, *lines = table(("NAME", "ACTION", "KIND", "PODS"), rows).splitlines()
    out = [head]
    for line, one in zip(lines, looked.runs, strict=True):
        out += [line, *(f"  note: {note}" for note in one.setting.notes)]
    return "\n".join(out)


def _judged(
    context: str,
    files: Sequence[Path],
    servings: Sequence[Serving],
    made: Sequence[Rendered],
    runs: Looked | None,
    dry_run: str | None,
    *,
    force: bool,
    is_whole: bool,
) -> None:
    """Say what is found. Raises UsageError for findings of severity error, which stop an apply."""
    from ironloom.cli.cluster_findings import judge

    num_errors = judge(context, files, servings, made, runs, is_whole=is_whole)
    if num_errors and not dry_run and not force:
        raise UsageError(
            f"{plural(num_errors, 'finding')} of severity error: nothing was applied.",
            hint="mend the manifest (`ironloom explain RULE` says how), or --force",
        )


def _run_plan(jobs: Sequence[TrainingJob], there: dict[str, RunView]) -> str:
    """What an apply would do to training runs, a line each, its notes under it."""
    rows = [(job.name, _run_action(job, there), job.kind, job.training.model, _ranks(job)) for job in jobs]
    head, *lines = table(("NAME", "ACTION", "KIND", "MODEL", "RANKS"), rows).splitlines()
    out = [head]
    for line, job in zip(lines, jobs, strict=True):
        out += [line, *(f"  note: {note_text(note)}" for note in job.not_honoured)]
    return "\n".join(out)


def _run_action(job: TrainingJob, there: dict[str, RunView]) -> str:
    old = there.get(job.name)
    if old is None:
        return "train"
    if old.manifest != job.manifest:
        return "configure"
    return "resume" if old.state in ("stopped", "failed") else "unchanged"


def _ranks(job: TrainingJob) -> str:
    return f"{job.min_ranks} to {job.num_ranks}" if job.min_ranks < job.num_ranks else str(job.num_ranks)


def _runs_there() -> dict[str, RunView]:
    """The training runs that a running daemon has; none when no daemon runs."""
    client = Client()
    try:
        return {view.name: view for view in client.runs()}
    except DaemonNotRunning:
        if client.to.remote:
            raise
        return {}


def _backend() -> str:
    """What runs the replicas of the daemon that commands act on; `local` where one is yet to be started."""
    client = Client()
    try:
        return client.status().backend
    except DaemonNotRunning:
        if client.to.remote:
            raise
        return "local"


def _gateway(context: str, namespace: str | None, *, is_needed: bool) -> Client | None:
    """The gateway of a cluster; None where it is not needed and there is none, or none that may be asked, which is
    said."""
    from ironloom.cli.cluster_gateway import CLOSED, gateway_of, gateway_or_none, install_command

    if is_needed:
        return gateway_of(context, namespace)
    try:
        found = gateway_or_none(context, namespace)
    except (ClusterError, DaemonError) as error:
        if isinstance(error, ClusterError) and error.status in CLOSED:
            raise
        say(f"note: what is applied already is not known: {error}")
        return None
    if found is None:
        say(f"note: there is no gateway to apply it yet: `{install_command(context, namespace)}` makes one")
    return found


def _there(client: Client) -> dict[str, ServiceView]:
    """The services that a running daemon has; none when no daemon runs."""
    try:
        return {view.name: view for view in client.services()}
    except DaemonNotRunning:
        if client.to.remote:
            raise
        return {}


def _lacking(servings: Sequence[Serving]) -> dict[str, str]:
    """Service, and what is said of GPUs that it asks for where there are none."""
    asking = [serving for serving in servings if serving.resources.num_gpus]
    if not asking:
        return {}
    from ironloom.backends.local.devices import missing_gpus

    num_gpus = _num_gpus()
    notes = {serving.name: missing_gpus(serving.resources, num_gpus) for serving in asking}
    return {name: note for name, note in notes.items() if note is not None}


def _num_gpus() -> int:
    """Of the daemon's machine, or of this one while no daemon runs."""
    client = Client()
    try:
        return len(client.status().machine.gpus)
    except DaemonNotRunning:
        if client.to.remote:
            raise
    from ironloom.fleet.gpus import gpus

    return len(gpus())


def _plan(
    servings: Sequence[Serving],
    actions: dict[str, str],
    lacking: dict[str, str],
    grounds: tuple[Ground, ...],
    *,
    is_whole: bool,
) -> str:
    """What an apply would do, a line a service, its notes under it, and those of many services once at the end: notes
    that hold on all grounds that it may run on. `is_whole` has each under its service."""
    notes = {serving.name: serving.notes_on(*grounds) for serving in servings}
    said = [(name, (note.path, note.message)) for name, own in notes.items() for note in own]
    said += [(name, ("", note)) for name, note in lacking.items()]
    alike = {} if is_whole else of_many(said)
    rows = [(s.name, actions.get(s.name, "apply"), s.kind, s.model_uri or "-", _replicas(s)) for s in servings]
    head, *lines = table(("NAME", "ACTION", "KIND", "MODEL", "REPLICAS"), rows).splitlines()
    out = [head]
    for line, serving in zip(lines, servings, strict=True):
        own = [note for note in notes[serving.name] if (note.path, note.message) not in alike]
        out += [line, *(f"  note: {note_text(note)}" for note in own)]
        if (lack := lacking.get(serving.name)) and ("", lack) not in alike:
            out.append(f"  note: {lack}")
    for (path, message), names in alike.items():
        out.append(f"note: {named(names)}: {note_text(FieldNote(path=path, message=message))}")
    return "\n".join(out)


def _actions(
    servings: Sequence[Serving], there: dict[str, ServiceView] | None, put_back: dict[str, tuple[str, ...]]
) -> dict[str, str]:
    """By service. `there` is None where nobody says what is applied already: then nothing is known of any."""
    if there is None:
        return {}
    return {one.name: _action(one, there.get(one.name), bool(put_back.get(one.name))) for one in servings}


def _action(serving: Serving, old: ServiceView | None, is_put_back: bool) -> str:
    if old is None:
        return "create"
    return "configure" if is_put_back or old.manifest != serving.manifest else "unchanged"


_VERBS = {"created": "create", "configured": "configure", "unchanged": "unchanged"}


def _tried_actions(tried: AppliedView) -> dict[str, str]:
    """As those say who judged it."""
    return {one.name: _VERBS[one.action] for one in tried.services}


def _replicas(serving: Serving) -> str:
    scaling = serving.scaling
    if scaling.max_replicas == scaling.min_replicas > 0:
        return str(scaling.min_replicas)
    return f"{scaling.min_replicas} to {scaling.max_replicas or 'what fits'}"
