"""The TrainJob of the short way, and how an FSDP1 script's settings read here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from ironloom.cli.manifests import service_name
from ironloom.cli.output import table
from ironloom.errors import ManifestError, ModelNotFound, UsageError, as_sentence
from ironloom.serve.models.source import SourceKind, parse_model
from ironloom.workload.manifests import parse_objects, training_manifest
from ironloom.workload.manifests.problems import each
from ironloom.workload.training import Source
from ironloom.workload.training_settings import check_ranks, from_args, read_args

MAX_NAME = 63


def train_job(
    model: str,
    *,
    name: str | None,
    output: Path | None,
    sources: Sequence[str],
    eval_sources: Sequence[str] = (),
    said: Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    num_ranks: int = 1,
    num_gpus: int = 0,
    is_here: bool = True,
) -> dict[str, Any]:
    """The TrainJob of an `ironloom train`, checked as if it had come from a file; paths are made absolute.

    Without `is_here` the run is elsewhere: paths are taken as they are, and must be absolute.

    `said` are settings by name, `settings` more of them as NAME=VALUE. Raises UsageError, ModelNotFound.
    """
    source = parse_model(model, shorthands=True)
    uri = source.uri
    if source.kind is SourceKind.FILE:
        path = Path(source.path).expanduser().absolute() if is_here else _absolute(source.path)
        if is_here and not path.exists():
            raise ModelNotFound(f"There is no file or folder {path}.", hint="hf://owner/name is a model of the hub.")
        uri = str(path)
    if name is None:
        name = f"{service_name(model)[: MAX_NAME - 6].rstrip('-')}-tuned"
    if num_gpus % num_ranks:
        raise UsageError(f"--gpus {num_gpus} does not divide by --ranks {num_ranks}.")
    base: dict[str, Any] = {
        "name": name,
        "model": uri,
        "output": str(_output(output, name, is_here=is_here)),
        "data.sources": tuple(_source(one, is_here=is_here) for one in sources),
        "data.eval_sources": tuple(_source(one, is_here=is_here) for one in eval_sources),
        **(said or {}),
    }
    training = from_args([f"--{one}" if not one.startswith("--") else one for one in settings], base=_typed(base))
    check_ranks(training, num_ranks)
    manifest = training_manifest(training, num_ranks=num_ranks, num_gpus=num_gpus)
    try:
        parse_objects([manifest])
    except ManifestError as error:  # its places mean nothing to a person who typed options
        told = "\n".join(as_sentence(problem.message) for problem in each(error))
        raise UsageError(told, hint=error.hint) from error
    return manifest


def _typed(base: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that came as options, read as their text would be, so that one rule says what is allowed."""
    plain = {key: value for key, value in base.items() if isinstance(value, str | int | float) and key != "name"}
    args = [f"--{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in plain.items()]
    return {**base, **read_args(args)}


def in_pods(
    manifest: dict[str, Any], *, num_nodes: int = 1, image: str | None = None, volumes: Sequence[str] = ()
) -> dict[str, Any]:
    """The TrainJob over so many pods, with an image and volumes: `CLAIM=PATH` each. Raises UsageError."""
    made = deepcopy(manifest)
    trainer = made["spec"]["trainer"]
    num_ranks = trainer["numProcPerNode"]
    resource = "nvidia.com/gpu"
    num_gpus = int(trainer.get("resourcesPerNode", {}).get("limits", {}).get(resource, 0))
    for what, number in (("--ranks", num_ranks), ("--gpus", num_gpus)):
        if number % num_nodes:
            raise UsageError(f"{what} {number} does not divide by --nodes {num_nodes}.")
    trainer["numNodes"], trainer["numProcPerNode"] = num_nodes, num_ranks // num_nodes
    if num_gpus:
        trainer["resourcesPerNode"]["limits"][resource] = str(num_gpus // num_nodes)
    if image:
        trainer["image"] = image
    mounts = [_mount(one) for one in volumes]
    if mounts:
        pod = {
            "volumes": [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim, _ in mounts],
            "containers": [
                {"name": "node", "volumeMounts": [{"name": claim, "mountPath": path} for claim, path in mounts]}
            ],
        }
        jobs = [{"name": "node", "template": {"spec": {"template": {"spec": pod}}}}]
        patch = {"template": {"spec": {"replicatedJobs": jobs}}}
        made["spec"]["runtimePatches"] = [{"manager": "ironloom.dev/volumes", "trainingRuntimeSpec": patch}]
    return made


def _mount(text: str) -> tuple[str, str]:
    claim, equals, path = text.partition("=")
    if not equals or not claim or not path.startswith("/"):
        raise UsageError(f"--volume {text!r} is not CLAIM=PATH with an absolute path.", hint="--volume data=/data")
    return claim, path


def _output(output: Path | None, name: str, *, is_here: bool) -> Path:
    if is_here:
        return (output or Path(name)).expanduser().absolute()
    if output is None:
        raise UsageError(
            "A run in a cluster needs --output: a folder on a volume of its pods.",
            hint="--volume CLAIM=/out --output /out/NAME",
        )
    return _absolute(str(output))


def _absolute(path: str) -> Path:
    """A path of the pods, which are in no folder of ours."""
    if not path.startswith("/"):
        raise UsageError(
            f"{path} is a path of the pods, and must begin with /.", hint="--volume CLAIM=/data has it in them"
        )
    return Path(path)


def _source(text: str, *, is_here: bool = True) -> Source:
    if "://" in text:
        return Source(uri=text)
    if not is_here:
        return Source(uri=str(_absolute(text)))
    path = Path(text).expanduser().absolute()
    if not path.exists():
        raise UsageError(
            f"There is no file or folder {path} to train on.", hint="a dataset of the hub is hf://owner/name"
        )
    if path.is_file() and not os.access(path, os.R_OK):
        raise UsageError(f"{path} cannot be read.")
    return Source(uri=str(path))


def changed_after(sources: Sequence[str], ended_s: float) -> list[Path]:
    """Files and folders among the sources that hold what was written after `ended_s`, a wall clock."""
    paths = [Path(one).expanduser().absolute() for one in sources if "://" not in one]

    def is_newer(path: Path) -> bool:
        try:
            return path.stat().st_mtime > ended_s
        except OSError:
            return False

    return [path for path in paths if is_newer(path) or any(map(is_newer, path.rglob("*") if path.is_dir() else ()))]


def from_script_page(path: Path) -> str:
    """How an FSDP1 script's settings read here: a table of what it says, what that is, and why."""
    from ironloom.workload.scripts.fsdp1 import mapped
    from ironloom.workload.scripts.mapping import agreed
    from ironloom.workload.scripts.read import read_script

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    found = mapped(read_script(text, str(path)))
    if not found:
        raise UsageError(
            f"{path} makes no FSDP1 wrap that could be read.",
            hint="FullyShardedDataParallel(…) calls are what it looks for",
        )
    rows = [(f"{one.line}", one.written, one.here or "-", one.why) for one in found]
    settings, several = agreed(found)
    lines = [table(("LINE", "SCRIPT", "HERE", "MEANING"), rows)]
    if several:
        lines += ["", *(f"{one}." for one in several)]
    if settings:
        lines += ["", "ironloom train MODEL --data DATA " + " ".join(f"--set {one}" for one in settings)]
    return "\n".join(lines)
