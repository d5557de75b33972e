"""`ironloom train MODEL --data FILE`: the short way to a training run. It writes a TrainJob, and applies it: here, or
in a cluster that is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from ironloom.cli.launch import ensure_daemon
from ironloom.cli.output import put, put_data, say
from ironloom.errors import UsageError


class _Train(click.Command):
    """`--dry-run` alone is `--dry-run=client`, as kubectl once had it; a word after it is never its value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--dry-run=client" if arg == "--dry-run" else arg for arg in args])


@click.command(cls=_Train)
@click.argument("model", required=False)
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", type=click.Path(path_type=Path),
              help="With --context: the run of a manifest, a TrainJob, JobSet or PyTorchJob; repeatable.")  # fmt: skip
@click.option("--data", multiple=True, metavar="SOURCE",
              help="Rows: a file or folder of .jsonl, .parquet or .txt, or hf://owner/name; repeatable.")  # fmt: skip
@click.option("--eval-data", multiple=True, metavar="SOURCE", help="Held out, to evaluate on; repeatable.")
@click.option("--eval-fraction", type=click.FloatRange(0, 1, max_open=True), help="Hold out this share of the rows.")
@click.option("--output", metavar="FOLDER", type=click.Path(path_type=Path),
              help="Gets checkpoints, logs and the model. [default: ./NAME]")  # fmt: skip
@click.option("--name", help="The run's name. [default: the model's own with -tuned]")
@click.option("--lora", is_flag=True, help="Train adapters (LoRA) instead of all weights.")
@click.option("--qlora", is_flag=True, help="Train adapters over a base of 4 bits.")
@click.option("--from-scratch", is_flag=True, help="The model's shape with new weights.")
@click.option("--steps", type=click.IntRange(1), help="Optimizer steps. [default: one epoch]")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Times through the data.")
@click.option("--batch", type=click.IntRange(1), help="Sequences of one step, over all ranks. [default: 8]")
@click.option("--seq-len", type=click.IntRange(2), help="Tokens of one sequence. [default: 2048]")
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="The learning rate's peak. [default: 2e-5]")
@click.option("--ranks", type=click.IntRange(1), help="Processes that train together. [default: one a GPU, else 1]")
@click.option("--gpus", type=click.IntRange(0), default=0, show_default=True, help="GPUs of all ranks together.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
              help="Any other setting, such as optimizer.warmup_steps=20; repeatable.")  # fmt: skip
@click.option("--from-script", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
              help="Print what an FSDP1 script's settings are here; train nothing.")  # fmt: skip
@click.option("--context", metavar="NAME", help="Train in the cluster of this kubeconfig context.")
@click.option("-n", "--namespace", metavar="NAME", help="With --context: its namespace. [default: the context's]")
@click.option("--nodes", type=click.IntRange(1), default=1, show_default=True,
              help="With --context: pods over which ranks and GPUs are divided.")  # fmt: skip
@click.option("--image", metavar="IMAGE", help="With --context: the image that trains.")
@click.option("--volume", "volumes", multiple=True, metavar="CLAIM=PATH",
              help="With --context: a PersistentVolumeClaim, and where its pods see it; repeatable.")  # fmt: skip
@click.option("--queue", metavar="NAME", default="", help="With --context: Kueue's LocalQueue that admits it.")
@click.option("--topology", metavar="LABEL", default="",
              help="With --context: all pods in one domain of this node label.")  # fmt: skip
@click.option("--force", is_flag=True,
              help="With --context: also with findings of severity error, over fields that others own.")  # fmt: skip
@click.option("--dry-run", type=click.Choice(["client", "server"]), metavar="[=server]",
              help="Print the manifest, or with --context the cluster's objects; apply nothing. "
              "=server asks the API server what it would make of them.")  # fmt: skip
@click.option("--wait/--no-wait", default=True, help="Show progress until it ends; without, return at once.")
@click.option("-o", "form", type=click.Choice(["yaml", "json"]), metavar="FORMAT",
              help="Print the manifest (with --dry-run) or the run as yaml or json.")  # fmt: skip
def train(
    model: str | None,
    data: tuple[str, ...],
    eval_data: tuple[str, ...],
    eval_fraction: float | None,
    output: Path | None,
    name: str | None,
    lora: bool,
    qlora: bool,
    from_scratch: bool,
    steps: int | None,
    epochs: float | None,
    batch: int | None,
    seq_len: int | None,
    lr: float | None,
    ranks: int | None,
    gpus: int,
    settings: tuple[str, ...],
    from_script: Path | None,
    files: tuple[Path, ...],
    context: str | None,
    namespace: str | None,
    nodes: int,
    image: str | None,
    volumes: tuple[str, ...],
    queue: str,
    topology: str,
    force: bool,
    dry_run: str | None,
    wait: bool,
    form: str | None,
) -> int:
    """Train a model on this machine, and wait until it has.

    MODEL is named as for `serve`. What is applied is a TrainJob; --dry-run -o yaml shows it, for `ironloom apply -f`.
    Ctrl-C leaves the run going: `ironloom get runs`, `describe`, `logs` and `delete` know it by its name.

    With --context the run is the cluster's: its TrainJob becomes what the cluster has, a TrainJob, a JobSet or an
    indexed Job. Paths of --data and --output are then those of the pods.
    """
    from ironloom.cli.training import from_script_page, in_pods, train_job

    if from_script is not None:
        put(from_script_page(from_script))
        return 0
    if context is None:
        _refuse_cluster_options(files, namespace, nodes, image, volumes, queue, topology, force, dry_run)
    order: dict[str, Any] = {
        "context": context,
        "namespace": namespace,
        "queue": queue,
        "topology": topology,
        "image": image or "",
        "dry_run": dry_run,
        "is_forced": force,
        "waits": wait,
        "form": form,
    }
    if files:
        if model is not None or data:
            raise UsageError("-f names manifests, and MODEL and --data write one; take one of them.")
        from ironloom.cli.train_cluster import read_files

        return _on_cluster(*read_files(files), order)
    if model is None or not data:
        raise UsageError(
            "train needs a MODEL and --data.", hint="ironloom train smollm2-135m-instruct --data rows.jsonl --steps 100"
        )
    if lora and qlora:
        raise UsageError("--lora and --qlora are two ways; take one of them.")
    if steps is not None and epochs is not None:
        raise UsageError("--steps and --epochs are two ways to say how long it trains; take one of them.")
    said: dict[str, Any] = {
        "method": "qlora" if qlora else "lora" if lora else None,
        "is_from_scratch": True if from_scratch else None,
        "num_steps": steps,
        "num_epochs": epochs,
        "global_batch_size": batch,
        "data.seq_len": seq_len,
        "data.eval_fraction": eval_fraction,
        "optimizer.learning_rate": lr,
    }
    manifest = train_job(
        model,
        name=name,
        output=output,
        sources=data,
        eval_sources=eval_data,
        said={key: value for key, value in said.items() if value is not None},
        settings=settings,
        num_ranks=ranks or max(nodes, gpus),
        num_gpus=gpus,
        is_here=context is None,
    )
    if context is not None:
        manifest = in_pods(manifest, num_nodes=nodes, image=image, volumes=volumes)
        from ironloom.cli.manifests import text
        from ironloom.cli.train_cluster import WRITTEN

        return _on_cluster([manifest], {WRITTEN: text([manifest], "yaml")}, order)
    if dry_run:
        from ironloom.cli.manifests import text

        put(text([manifest], form or "yaml"))
        return 0
    client = ensure_daemon()
    applied = client.apply([manifest]).runs[0]
    for note in applied.notes:
        say(f"note: {note}")
    if not wait:
        put_data(client.raw_run(applied.name), form) if form else put(f"run/{applied.name} {applied.action}")
        return 0
    if applied.action == "unchanged":
        say(f"run/{applied.name} is applied already.")
    from ironloom.cli.run_waiting import until_ended

    try:
        view = until_ended(client, applied.name)
    except KeyboardInterrupt:
        say(f"\n{applied.name} goes on training.")
        say(
            f"\nhint: `ironloom describe {applied.name}` shows how far it is, `ironloom delete {applied.name}` ends it."
        )
        raise
    if form:
        put_data(msgspec.to_builtins(view), form)
        return 0
    from ironloom.cli.run_views import ending

    put(ending(view))
    if applied.action == "unchanged":
        from ironloom.cli.training import changed_after

        for path in changed_after((*data, *eval_data), view.since_s) if view.state == "succeeded" else ():
            say(f"note: {path} was changed after that, and nothing is trained on it: a run that is done stays so.")
            say("\nhint: --name and --output of another run train on it.")
    if view.state == "succeeded":
        say(f"\nServe it:\n  ironloom serve {view.output}")
    return 0 if view.state == "succeeded" else 1


def _refuse_cluster_options(
    files: tuple[Path, ...],
    namespace: str | None,
    nodes: int,
    image: str | None,
    volumes: tuple[str, ...],
    queue: str,
    topology: str,
    force: bool,
    dry_run: str | None,
) -> None:
    given = {
        "-f": files, "--namespace": namespace, "--nodes": nodes > 1, "--image": image, "--volume": volumes,
        "--queue": queue, "--topology": topology, "--force": force, "--dry-run=server": dry_run == "server",
    }  # fmt: skip
    for name, value in given.items():
        if value:
            raise UsageError(
                f"{name} is for a run in a cluster, and no --context names one.",
                hint="ironloom apply -f FILE runs a manifest on this machine"
                if name == "-f"
                else "--context NAME, a context of your kubeconfig",
            )


def _on_cluster(manifests: list[dict[str, Any]], texts: dict[str, str], order: dict[str, Any]) -> int:
    from ironloom.cli.train_cluster import Order, train_on_cluster

    return train_on_cluster(manifests, texts, Order(**order))
