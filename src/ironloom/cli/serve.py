"""`ironloom serve MODEL`: the short way to a running service. It writes a manifest, and applies it."""

from __future__ import annotations

import shlex

import click
import msgspec

from ironloom.cli.client import Client
from ironloom.cli.durations import seconds
from ironloom.cli.launch import ensure_daemon
from ironloom.cli.output import put, put_data, say
from ironloom.cli.waiting import StartFailed, Waited, now_seq, until_ready
from ironloom.errors import DaemonError, UsageError
from ironloom.units import format_duration

_SUFFIX = "-model"
"""Of a service whose model's name is that of a run."""


def _complete_engine(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from ironloom.serve.engines import OFFERED

    return [name for name in OFFERED if name.startswith(incomplete)]


@click.command()
@click.argument("model")
@click.option("--name", help="The service's name, which is its model id. [default: the model's own, in lower case]")
@click.option("--min-replicas", type=click.IntRange(0), default=0, show_default=True, help="Replicas that stay ready.")
@click.option("--max-replicas", type=click.IntRange(1), default=1, show_default=True, help="Replicas at most.")
@click.option("--window", metavar="TIME", callback=seconds, help="Idle this long, then zero. [default: 60s]")
@click.option("--park-for", metavar="TIME", callback=seconds, help="At zero, parked this long before it is stopped.")
@click.option("--engine", metavar="NAME", shell_complete=_complete_engine,
              help="openvino, llamacpp, transformers or vllm. [default: what fits]")  # fmt: skip
@click.option("--gpus", type=click.IntRange(0), default=0, show_default=True, help="GPUs of each replica.")
@click.option("--arg", "args", multiple=True, metavar="ARG", help="An argument of the engine, as vLLM spells it.")
@click.option("--dry-run", is_flag=True, help="Print the manifest; apply nothing.")
@click.option("--no-wait", is_flag=True, help="Return once it is applied, not once it is ready.")
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), metavar="FORMAT",
              help="Print the manifest (with --dry-run) or the service as yaml or json.")  # fmt: skip
def serve(
    model: str,
    name: str | None,
    min_replicas: int,
    max_replicas: int,
    window: float | None,
    park_for: float | None,
    engine: str | None,
    gpus: int,
    args: tuple[str, ...],
    dry_run: bool,
    no_wait: bool,
    output: str | None,
) -> None:
    """Serve a model, and wait until it answers. A new service whose model cannot be had here is taken back.

    MODEL is hf://owner/name[:revision], owner/name, a short name such as smollm2-135m-instruct, a folder or a GGUF
    file. What is applied is an InferenceService; --dry-run -o yaml shows it, for `ironloom apply -f`.
    """
    from ironloom.cli.manifests import inference_service, service_name, text
    from ironloom.serve.engines import ENGINES, OFFERED

    if engine is not None and engine not in ENGINES:
        raise UsageError(
            f"--engine is {engine!r}, and must be one of {', '.join(OFFERED)}.",
            hint="without it, the engine that fits the model and this machine is taken.",
        )
    if max_replicas < min_replicas:
        raise UsageError(
            f"--max-replicas is {max_replicas}, and must be at least --min-replicas, {min_replicas}.",
            hint=f"add --max-replicas {min_replicas}.",
        )
    manifest = inference_service(
        model,
        name=name or service_name(model),
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        window_s=window,
        park_for_s=park_for,
        engine=engine,
        num_gpus=gpus,
        args=args,
    )
    if name is None:
        name = manifest["metadata"]["name"] = _free_name(manifest["metadata"]["name"])
    if dry_run:
        put(text([manifest], output or "yaml"))
        return
    client = ensure_daemon()
    seq = now_seq(client)
    applied = client.apply([manifest]).services[0]
    for note in applied.notes:
        say(f"note: {note}")
    if no_wait:
        put_data(client.raw_service(name), output) if output else put(f"service/{name} {applied.action}")
        return
    if applied.action == "unchanged":
        say(f"service/{name} is applied already.")
    try:
        waited = until_ready(client, name, applied.generation, after_seq=0 if applied.action == "unchanged" else seq)
    except KeyboardInterrupt:
        say(f"\n{name} goes on starting.")
        say(f"\nhint: `ironloom get -w` shows how far it is, `ironloom delete {name}` ends it.")
        raise
    except StartFailed as error:
        if not error.is_final or applied.action != "created":
            raise
        client.delete(name)  # made by this command, and of no use to anyone
        raise error.taken_back() from error
    if output:
        put_data(msgspec.to_builtins(waited.view), output)
    else:
        _announce(client, name, waited, started=applied.action != "unchanged")


def _free_name(wanted: str) -> str:
    """A name that no run of the daemon has: the folder that a run left is named as the run. Told where it differs."""
    from ironloom.cli.manifests import MAX_NAME

    try:
        runs = {run.name for run in Client().runs()}
    except DaemonError:  # what it is will be told as the manifest is applied
        return wanted
    if wanted not in runs:
        return wanted
    stem = f"{wanted[: MAX_NAME - len(_SUFFIX) - 3]}{_SUFFIX}"
    name = next(name for name in (stem, *(f"{stem}-{number}" for number in range(2, 100))) if name not in runs)
    say(f"{wanted} is the name of a run: the service is {name} (--name names it otherwise).")
    return name


def _announce(client: Client, name: str, waited: Waited, *, started: bool) -> None:
    if waited.ready:
        after = f", after {format_duration(waited.took_s)}" if started else ""
        put(f"{name} is ready at {client.url} (on {waited.view.engine}{after}).")
    else:
        put(f"{name} is at {waited.view.state} at {client.url}; its first request starts it.")
    if waited.view.model.note:
        say(f"The model {waited.view.model.note}.")
    body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "Say hello."}}]}}'
    trust = f" --cacert {shlex.quote(str(client.to.cert))}" if client.to.cert else ""
    key = ' -H "Authorization: Bearer $KEY"' if client.to.key else ""
    say("\nTry it:")
    say(f"  curl{trust} {client.url}/chat/completions{key} \\")
    say(f"    -H 'Content-Type: application/json' -d {shlex.quote(body)}")
    say(f"  ironloom chat {name}")
    if client.to.key:
        say("\nhint: `KEY=$(ironloom key create NAME)` makes a key.")
