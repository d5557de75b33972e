"""`ironloom train … --context NAME`: what a cluster makes of the run is shown, applied, and followed to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ironloom.cli.cluster_findings import findings, say_found
from ironloom.cli.cluster_runs import as_data
from ironloom.cli.output import plural, put, put_data, say
from ironloom.errors import ClusterError, IronloomError, UsageError

if TYPE_CHECKING:
    from ironloom.backends.kubernetes.client import Client
    from ironloom.backends.kubernetes.discovery import Served
    from ironloom.backends.kubernetes.render.training import Setting
    from ironloom.backends.kubernetes.training import AppliedObject, ClusterRuns
    from ironloom.backends.kubernetes.training_pods import RunPods
    from ironloom.backends.kubernetes.training_view import RunState
    from ironloom.fleet.model import Fleet
    from ironloom.workload.manifests.schema import Schema

Object = dict[str, Any]
T = TypeVar("T")

POLL_S = 2.0
AWAY_WITHIN_S = 600.0
"""How long a cluster that does not answer is asked again while a run is followed."""
LOG_TAIL = 200
WRITTEN = "train.yaml"
"""What findings call the manifest of the short way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What the command line asks for."""

    context: str
    namespace: str | None
    queue: str = ""
    topology: str = ""
    image: str = ""
    dry_run: str | None = None
    """client, server, or None to do it."""
    is_forced: bool = False
    """Also with findings of severity error."""
    waits: bool = True
    form: str | None = None
    """yaml or json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """One run, ready to be applied."""

    run: RunPods
    setting: Setting
    objects: list[Object]


def train_on_cluster(manifests: Sequence[Object], texts: Mapping[str, str], order: Order) -> int:
    """Show, apply and follow the runs of these manifests; the exit status. `texts` are the files they stand in, by
    name, as findings have them."""
    from ironloom.backends.kubernetes import kubeconfig
    from ironloom.cli.cluster import live_schema
    from ironloom.cli.cluster_runs import fleet_of

    target = kubeconfig.load().target(order.context)
    fleet, schema = fleet_of(order.context), live_schema(order.context)
    return asyncio.run(_train(manifests, texts, order, target, fleet, schema))


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What a cluster would make of runs."""

    runs: tuple[Rendered, ...]
    fleet: Fleet
    schema: Schema | None
    actions: Mapping[str, str]
    """By run, what its API server says that it would do: created, configured or unchanged. Empty where it was not
    asked."""
    objects: tuple[Object, ...]
    """Of all of them, as the server would have them, or as they would be sent where it was not asked."""
    refusal: IronloomError | None = None
    """Why the server would not take them."""


def look(manifests: Sequence[Object], order: Order, *, asks: bool) -> Looked:
    """What the cluster would make of these runs. `asks` has its API server judge them, and change nothing. Raises
    ClusterError where it cannot be read, UsageError for a run that it cannot have."""
    from ironloom.backends.kubernetes import kubeconfig
    from ironloom.cli.cluster import live_schema
    from ironloom.cli.cluster_runs import fleet_of

    target = kubeconfig.load().target(order.context)
    fleet, schema = fleet_of(order.context), live_schema(order.context)

    async def run() -> Looked:
        async with _opened(target) as (client, served):
            rendered = await _rendered(manifests, order, target, fleet, client, served)
            actions: dict[str, str] = {}
            objects: list[Object] = []
            refusal: IronloomError | None = None
            try:
                for runs, one in rendered if asks else ():
                    done = await runs.apply(one.objects, is_trial=True, forces=order.is_forced)
                    actions[one.run.name] = done[0].action
                    objects += [_bare(made.object) for made in done]
            except IronloomError as error:
                refusal = error
            return Looked(
                runs=tuple(one for _, one in rendered),
                fleet=fleet,
                schema=schema,
                actions=actions,
                objects=tuple(objects if asks else [obj for _, one in rendered for obj in one.objects]),
                refusal=refusal,
            )

    return asyncio.run(run())


def apply_runs(looked: Looked, order: Order) -> list[AppliedObject]:
    """Apply what was looked at: of each run what became of the object that is the run."""

    async def apply(runs: ClusterRuns, one: Rendered) -> AppliedObject:
        return (await runs.apply(one.objects, forces=order.is_forced))[0]

    return _of_each(looked, order, apply)


def follow_runs(looked: Looked, order: Order) -> list[RunState]:
    """Runs that were applied, once they have ended."""
    return _of_each(looked, order, lambda runs, one: _followed(runs, one, order, looked.fleet))


def _of_each(looked: Looked, order: Order, ask: Callable[[ClusterRuns, Rendered], Coroutine[Any, Any, T]]) -> list[T]:
    from ironloom.backends.kubernetes import kubeconfig
    from ironloom.backends.kubernetes.training import ClusterRuns

    target = kubeconfig.load().target(order.context)

    async def run() -> list[T]:
        async with _opened(target) as (client, served):
            return [await ask(ClusterRuns(client, served, one.setting.namespace), one) for one in looked.runs]

    return asyncio.run(run())


@asynccontextmanager
async def _opened(target: Any) -> AsyncIterator[tuple[Client, Served]]:
    from ironloom.backends.kubernetes.client import Client
    from ironloom.backends.kubernetes.discovery import discover

    async with Client(target) as client:
        yield client, await discover(client)


async def _rendered(
    manifests: Sequence[Object], order: Order, target: Any, fleet: Fleet, client: Client, served: Served
) -> list[tuple[ClusterRuns, Rendered]]:
    """Each run, ready to be applied, with the runs of its namespace."""
    from ironloom.backends.kubernetes import capabilities
    from ironloom.backends.kubernetes.render import training as render
    from ironloom.backends.kubernetes.training import ClusterRuns
    from ironloom.backends.kubernetes.training_output import refuse_one_output
    from ironloom.backends.kubernetes.training_pods import run_pods
    from ironloom.backends.kubernetes.training_setting import Wish, setting_of

    has = capabilities.of(served)
    wanted = [(_namespace(order, run, target.namespace), run) for run in map(run_pods, manifests)]
    refuse_one_output(wanted)
    found: list[tuple[ClusterRuns, Rendered]] = []
    for namespace, run in wanted:
        runs = ClusterRuns(client, served, namespace)
        wish = Wish(namespace=namespace, queue=order.queue, topology=order.topology, image=order.image)
        groups = run.num_nodes > 1 and await runs.takes_pod_groups()
        setting = setting_of(run, wish, has, fleet, has_pod_groups=groups)
        found.append((runs, Rendered(run=run, setting=setting, objects=render.objects(run, setting))))
    return found


async def _train(
    manifests: Sequence[Object],
    texts: Mapping[str, str],
    order: Order,
    target: Any,
    fleet: Fleet,
    schema: Schema | None,
) -> int:
    from ironloom.check.inputs import read_texts

    async with _opened(target) as (client, served):
        rendered = await _rendered(manifests, order, target, fleet, client, served)
        all_rendered = [one for _, one in rendered]
        for one in all_rendered:
            say(_plan(one, wish_namespace=one.setting.namespace))
        by_name = {one.run.name: one.objects for one in all_rendered}
        num_errors = say_found(findings(read_texts(texts), by_name, fleet, schema))
        objects = [obj for one in all_rendered for obj in one.objects]
        if order.dry_run == "client":
            put(_text(objects, order.form or "yaml"))
            return 0
        if num_errors and not order.is_forced and order.dry_run is None:
            raise UsageError(
                f"{plural(num_errors, 'finding')} of severity error: nothing was applied.",
                hint="mend the manifest (`ironloom explain RULE` says how), or --force",
            )
        done = [
            applied
            for runs, one in rendered
            for applied in await runs.apply(one.objects, is_trial=order.dry_run == "server", forces=order.is_forced)
        ]
        if order.dry_run == "server":
            if order.form:
                put(_text([_bare(made.object) for made in done], order.form))
            else:
                for made in done:
                    put(f"{made.kind.lower()}/{made.name} {made.action} (server dry run)")
            return 0
        for made in done:
            say(f"{made.kind.lower()}/{made.name} {made.action}")
        states = [await _followed(runs, one, order, fleet) for runs, one in rendered]
        if order.form:
            put_data([as_data(state) for state in states], order.form)
        return int(order.waits and any(state.state != "succeeded" for state in states))


def _namespace(order: Order, run: RunPods, of_context: str) -> str:
    if order.namespace and run.namespace and order.namespace != run.namespace:
        raise UsageError(
            f"{run.name} belongs to namespace {run.namespace}, and --namespace says {order.namespace}.",
            hint="leave one of them out",
        )
    return order.namespace or run.namespace or of_context or "default"


def _plan(one: Rendered, *, wish_namespace: str) -> str:
    lines = [f"run/{one.run.name} in {wish_namespace}: {made_of(one)}"]
    return "\n".join([*lines, *(f"  note: {note}" for note in one.setting.notes)])


def made_of(one: Rendered) -> str:
    """`2 pods of 8 processes, as Job, Service`."""
    number = one.run.procs_per_node
    procs = f"{number} process{'es' if number != 1 else ''}"
    return f"{plural(one.run.num_nodes, 'pod')} of {procs}, as {', '.join(made['kind'] for made in one.objects)}"


def _text(objects: list[Object], form: str) -> str:
    from ironloom.cli.manifests import text

    return text(objects, form)


def _bare(one: Object) -> Object:
    """Without who owns which field: pages of it, and nobody applies them."""
    metadata = {key: value for key, value in one["metadata"].items() if key != "managedFields"}
    return {**one, "metadata": metadata}


async def _followed(runs: ClusterRuns, one: Rendered, order: Order, fleet: Fleet) -> RunState:
    """The run once applied, or once ended where that is waited for: its states and rank 0's log are said as they
    come."""
    name = one.run.name
    if not order.waits:
        return await runs.state(name)
    told: set[str] = set()
    last = ""
    log: asyncio.Task[None] | None = None
    logged = ""
    try:
        while True:
            state = await _state_of(runs, name)
            line = f"{name}: {state.state}{f': {state.reason}' if state.reason else ''}"
            if line != last:
                say(line)
                last = line
            if state.state == "queued" and "room" not in told:
                told.add("room")
                for said in explained(one, fleet):
                    say(f"  {said}")
            for pod in state.pods:
                said = f"  {pod.name}{f' on {pod.node}' if pod.node else ''}: {pod.state}"
                if said not in told and pod.state not in ("waiting", "starting"):
                    told.add(said)
                    say(f"{said}{f', {pod.reason}' if pod.reason else ''}")
            first = next((pod for pod in state.pods if pod.rank in (0, None)), None)
            if first is not None and first.name != logged and first.state in ("running", "succeeded", "failed"):
                if log is not None:
                    log.cancel()
                logged = first.name
                log = asyncio.create_task(_say_log(runs, first.name))
            if state.state in ("succeeded", "failed", "stopped"):
                if log is not None:
                    await asyncio.wait([log], timeout=POLL_S)
                return state
            await asyncio.sleep(POLL_S)
    except asyncio.CancelledError:
        say(f"\n{name} goes on training.")
        raise
    finally:
        if log is not None:
            log.cancel()


async def _state_of(runs: ClusterRuns, name: str) -> RunState:
    """A run as it is now; a cluster that is away for a while is asked again. Raises ClusterError where it stays so."""
    from ironloom.backends.kubernetes.service import PASSING

    until_s = None
    while True:
        try:
            return await runs.state(name)
        except ClusterError as error:
            now_s = time.monotonic()
            if error.status not in PASSING or (until_s is not None and now_s >= until_s):
                raise
            if until_s is None:
                until_s = now_s + AWAY_WITHIN_S
                say(f"note: {error}; {name} goes on, and is asked for again")
        await asyncio.sleep(POLL_S)


async def _say_log(runs: ClusterRuns, pod: str) -> None:
    try:
        async for line in runs.log_of({"metadata": {"name": pod}}, follow=True, tail=LOG_TAIL):
            say(f"[{pod}] {line}")
    except ClusterError as error:
        say(f"the log of {pod} cannot be read: {error}")


def explained(one: Rendered, fleet: Fleet) -> list[str]:
    """Why a run that waits does, counted here over the fleet as it is."""
    from ironloom.backends.kubernetes.training_room import room_of

    if not fleet.nodes:
        return []
    group = next((made for made in one.objects if made["kind"] == "PodGroup"), None)
    return list(room_of(one.objects[0], fleet, one.setting.namespace, group=group).sentences())


def _taker(type_name: str) -> str:
    """The command for an object that is no run."""
    from ironloom.workload.manifests.read import KINDS

    return "`ironloom apply`" if type_name in KINDS else "`kubectl apply`"


def read_files(files: Sequence[Path]) -> tuple[list[Object], dict[str, str]]:
    """The training manifests of files, and the files' texts by name. Raises ManifestError, UsageError."""
    from ironloom.backends.kubernetes.training_pods import KINDS
    from ironloom.workload.manifests import read_manifests, to_workloads

    documents = read_manifests(files)
    runs = [one for one in documents if one.kind in KINDS]
    to_workloads(runs)  # the same reading as on one machine: what Ironloom's program would refuse is refused here
    found = [one.obj for one in runs]
    if not found:
        raise UsageError("The manifests declare no training run.", hint=f"one is a {', a '.join(KINDS)}")
    for one in documents:
        if one.kind not in KINDS:
            say(f"note: {one.kind} {one.name} is left out: {_taker(one.type_name)} takes it")
    return found, {str(path): path.read_text() for path in files if path.is_file()}
