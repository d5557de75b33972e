"""kubectl's verbs on the training runs of a cluster: the same words as for runs on this machine, with `--context`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ironloom.cli.output import age, moment, put, put_data, say, table
from ironloom.errors import ClusterError, UsageError

if TYPE_CHECKING:
    from ironloom.backends.kubernetes.training import ClusterRuns
    from ironloom.backends.kubernetes.training_view import RunState
    from ironloom.fleet.model import Fleet

T = TypeVar("T")
POLL_S = 2.0
"""How often a run whose log is followed is asked for new pods, and whether it has ended."""
HEAD = ("NAME", "KIND", "STATE", "PODS", "RESTARTS", "QUEUE", "AGE")


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--context` and `--namespace`. Without the first a command acts on this machine."""
    where = click.option("--context", metavar="NAME", help="Act on this kubeconfig context's cluster.")
    namespace = click.option("-n", "--namespace", metavar="NAME", help="With --context. [default: the context's]")
    return where(namespace(command))


def options_of(context: str, namespace: str | None) -> str:
    """As a hint writes them after a command's name: ` --context NAME -n NAMESPACE`."""
    from ironloom.cli.install import cluster_of

    return f" --context {context} -n {cluster_of(context, namespace).namespace}"


def refuse_alone(context: str | None, namespace: str | None) -> None:
    """Raises UsageError for a namespace without a cluster."""
    if namespace is not None and context is None:
        raise UsageError("--namespace is of a cluster, and no --context names one.", hint="--context NAME")


@asynccontextmanager
async def _opened(context: str, namespace: str | None) -> AsyncIterator[ClusterRuns]:
    from ironloom.backends.kubernetes import kubeconfig
    from ironloom.backends.kubernetes.client import Client
    from ironloom.backends.kubernetes.discovery import discover
    from ironloom.backends.kubernetes.training import ClusterRuns

    target = kubeconfig.load().target(context)
    async with Client(target) as client:
        yield ClusterRuns(client, await discover(client), namespace or target.namespace or "default")


def fleet_of(context: str) -> Fleet:
    """The cluster's fleet; an empty one, and a word of it, where this user may not see nodes and pods of all
    namespaces: a run needs rights in its own alone."""
    from ironloom.cli.cluster import live_fleet
    from ironloom.fleet.model import Domain, Fleet

    try:
        return live_fleet(context, ())
    except ClusterError as error:
        if error.status != 403:
            raise
        say(f"note: {error}")
        return Fleet(name=context, source=f"context {context}", root=Domain(value=context, level=None))


def _asked(context: str, namespace: str | None, ask: Callable[[ClusterRuns], Awaitable[T]]) -> T:
    async def run() -> T:
        async with _opened(context, namespace) as runs:
            return await ask(runs)

    return asyncio.run(run())


def get_runs(
    context: str, namespace: str | None, names: Sequence[str], output: str, *, no_service: str | None = ""
) -> None:
    """List the runs; those of these names where there are some. `no_service` is what is said of services where there is
    no run either. Raises NoSuchRunError where it is None, which is not known, and there is no run."""
    from ironloom.backends.kubernetes.training import NoSuchRunError

    async def ask(runs: ClusterRuns) -> list[RunState]:
        owners = [await runs.owner(name) for name in names] if names else await runs.owners()
        if not owners:
            await runs.check_namespace()
        return [await runs.state_of(owner) for owner in owners]

    states = _asked(context, namespace, ask)
    if not states and no_service is None:
        raise NoSuchRunError("There are no training runs.")
    if output in ("json", "yaml"):
        put_data([as_data(state) for state in states], output)
    elif output == "name":
        for state in states:
            put(f"run/{state.name}")
    elif not states:
        hint = f"hint: `ironloom train …{options_of(context, namespace)}` makes a run."
        say(f"No training runs{f', and no services: {no_service}' if no_service else ''}.\n\n{hint}")
    else:
        put(table(HEAD, [_row(state) for state in states]))
        for state in states:
            if state.state in ("failed", "queued") and state.reason:
                say(f"{state.name} is {state.state}: {state.reason}")


def _row(state: RunState) -> tuple[str, ...]:
    running = sum(pod.state in ("running", "succeeded") for pod in state.pods)
    return (
        state.name,
        state.kind,
        state.state,
        f"{running}/{state.num_pods}",
        str(state.restarts),
        state.queue or "-",
        age(state.created_s),
    )


def describe_run(context: str, namespace: str | None, name: str, output: str) -> None:
    """One run: its pods by rank, why it waits as its controllers say it, and as it is counted over the fleet here."""

    async def ask(runs: ClusterRuns) -> tuple[dict[str, Any], RunState, dict[str, Any] | None]:
        owner = await runs.owner(name)
        return owner, await runs.state_of(owner), await runs.pod_group(name)

    owner, state, group = _asked(context, namespace, ask)
    said: list[str] = []
    if state.state in ("queued", "starting"):
        from ironloom.backends.kubernetes.training_room import room_of

        fleet = fleet_of(context)
        said = list(room_of(owner, fleet, state.namespace, group=group).sentences()) if fleet.nodes else []
    if output != "table":
        put_data({**as_data(state), "room": said}, output)
        return
    put(render(state, said))


def render(state: RunState, room: Sequence[str]) -> str:
    """The page that a person reads."""
    facts = [
        ("Name", state.name),
        ("Namespace", state.namespace),
        ("Kind", state.kind),
        ("State", f"{state.state}: {state.reason}" if state.reason else state.state),
        ("Queue", state.queue),
        ("Restarts", str(state.restarts) if state.restarts else ""),
        ("Created", f"{moment(state.created_s)} ({age(state.created_s)} ago)" if state.created_s else ""),
    ]
    lines = [f"{f'{label}:':<12} {text}" for label, text in facts if text]
    told = [text.removeprefix("room: ") for text in room]
    lines += [f"{'Room:' if not number else '':<12} {text}" for number, text in enumerate(told)]
    rows = [
        ("-" if pod.rank is None else str(pod.rank), pod.name, pod.state, pod.node or "-",
         str(pod.num_failed + pod.restarts), pod.reason or "-")
        for pod in state.pods
    ]  # fmt: skip
    if rows:
        head = ("RANK", "POD", "STATE", "NODE", "FAILED", "REASON")
        lines += ["Pods:", *(f"  {line}" for line in table(head, rows).splitlines())]
    return "\n".join(lines)


def logs_of_run(
    context: str, namespace: str | None, name: str, *, follow: bool, rank: str | None, tail: int, prefix: bool | None
) -> None:
    """Print what the ranks' pods wrote; one rank's where it is named (`rank-1`, `1`). With `follow` what those to come
    write too, until the run has ended."""
    number = rank.removeprefix("rank-") if rank is not None else None
    if number is not None and not number.isdigit():
        raise UsageError(f"--replica {rank} is no rank of a run.", hint="rank-0 is the first")

    async def ask(runs: ClusterRuns) -> bool:
        from ironloom.backends.kubernetes.training import pod_of
        from ironloom.backends.kubernetes.training_view import newest

        pods = await runs.pods(name)
        if not pods:
            await runs.owner(name)  # a run that is not there is an error, one without pods is not
        may_come = follow and not pods
        chosen = newest(pods) if number is None or may_come else [pod_of(name, pods, int(number))]
        is_marked = prefix if prefix is not None else number is None and len(chosen) != 1
        found = False

        async def one(pod: Mapping[str, Any]) -> None:
            nonlocal found
            async for line in runs.log_of(pod, follow=follow, tail=tail):
                found = True
                put(f"[{pod['metadata']['name']}] {line}" if is_marked else line)
                if follow:
                    sys.stdout.flush()

        if follow:
            await _follow(runs, name, number, one)
        else:
            for pod in chosen:
                await one(pod)
        return found

    if not _asked(context, namespace, ask):
        say(f"{name} has written nothing yet.")


async def _follow(
    runs: ClusterRuns, name: str, number: str | None, one: Callable[[Mapping[str, Any]], Awaitable[None]]
) -> None:
    """Have `one` read each container that begins, of one rank where it has a number, until the run has ended or is
    gone and all of them are read."""
    from ironloom.backends.kubernetes.training import NoSuchRunError
    from ironloom.backends.kubernetes.training_view import newest, of_rank

    async def read(pod: Mapping[str, Any]) -> None:
        try:
            await one(pod)
        except ClusterError as error:
            if error.status != 404:  # it went before it was read
                raise

    readers: dict[tuple[str, int], asyncio.Task[None]] = {}
    try:
        while True:
            try:
                is_over = (await runs.state(name)).state in {"succeeded", "failed", "stopped"}
            except NoSuchRunError:
                is_over = True
            pods = await runs.pods(name)  # after the state: of one that is over these are the last
            chosen = newest(pods) if number is None else [pod for pod in [of_rank(pods, int(number))] if pod]
            for pod in chosen:
                status = pod.get("status") or {}
                restarts = sum(one.get("restartCount", 0) for one in status.get("containerStatuses") or [])
                key = (pod["metadata"]["name"], restarts)
                if status.get("phase", "Pending") != "Pending" and key not in readers:
                    readers[key] = asyncio.create_task(read(pod))
            left = [task for task in readers.values() if not task.done()]
            for task in readers.values():
                if task.done():
                    task.result()
            if is_over and not left:
                return
            if is_over:
                await asyncio.wait(left, timeout=POLL_S)
            else:
                await asyncio.sleep(POLL_S)
    finally:
        for task in readers.values():
            task.cancel()
        await asyncio.gather(*readers.values(), return_exceptions=True)


def names_of_runs(context: str, namespace: str | None, names: Sequence[str], *, ignore_not_found: bool) -> list[str]:
    """Those of these names that runs have. Raises NoSuchRunError for one that none has, unless that is to be
    ignored."""

    async def ask(runs: ClusterRuns) -> list[str]:
        if not ignore_not_found:
            return [(await runs.owner(name))["metadata"]["name"] for name in names]
        return [name for name in names if await runs.owners(name)]

    return _asked(context, namespace, ask)


def delete_runs(context: str, namespace: str | None, names: Sequence[str], gone: Callable[[str], None]) -> None:
    """Delete runs of these names, `gone` being told of each. Pods are told to end, and take a checkpoint within their
    grace period."""

    async def ask(runs: ClusterRuns) -> None:
        for name in names:
            await runs.delete(name)
            gone(name)

    _asked(context, namespace, ask)


def as_data(state: RunState) -> dict[str, Any]:
    """A run for a program."""
    import dataclasses

    return dataclasses.asdict(state)
