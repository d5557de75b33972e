"""Manifests as the command line meets them: read from files, or written for a model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ironloom.errors import ManifestError, ModelNotFound, UsageError, as_sentence
from ironloom.serve.models.source import SourceKind, parse_model
from ironloom.workload.manifests import (
    Workloads,
    dump_yaml,
    parse_object,
    read_workloads,
    serving_manifest,
)
from ironloom.workload.manifests.problems import each, raise_all
from ironloom.workload.serving import FieldNote, Serving

MAX_NAME = 63


def read(files: Sequence[Path]) -> Workloads:
    """The services of files, folders and `-`, standard input. Raises ManifestError, with the place of each fault."""
    return read_workloads(files)


def refuse_unknown_models(servings: Sequence[Serving]) -> None:
    """Raises ManifestError, with each place, for models that this machine's own engines could never find."""
    problems = []
    for serving in servings:
        try:
            if serving.model_uri:
                parse_model(serving.model_uri)
        except UsageError as error:
            at = serving.model_place or FieldNote(path="metadata.name", message="")
            problems.append(
                ManifestError(
                    error.message, hint=error.hint, file=at.file, line=at.line, column=at.column, path=at.path
                )
            )
    raise_all(problems)


def objects(servings: Sequence[Serving]) -> list[dict[str, Any]]:
    """The objects to send to the daemon: each service's own, and those that belong to it."""
    return [manifest for serving in servings for manifest in (serving.manifest, *serving.extra_manifests)]


def text(manifests: Sequence[dict[str, Any]], output: str) -> str:
    """Objects as a file that `apply -f` and kubectl read: YAML documents, or JSON."""
    if output == "yaml":
        return dump_yaml(list(manifests)).rstrip("\n")
    whole = manifests[0] if len(manifests) == 1 else {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
    return json.dumps(whole, indent=2, ensure_ascii=False)


def note_text(note: FieldNote) -> str:
    """A note with its place, as an error has it: `chat.yaml:12:7: spec.predictor.nodeSelector: …`."""
    where = f"{note.file}:{note.line}:{note.column}: " if note.line else ""
    field, _, rest = note.message.partition(": ")
    if rest and note.path.endswith((f".{field}", f"['{field}']")):  # the path's end says the field already
        return f"{where}{note.path}: {rest}"
    return (
        f"{where}{note.path}: {note.message}" if note.path and note.path not in note.message else where + note.message
    )


def inference_service(
    model: str,
    *,
    name: str,
    min_replicas: int,
    max_replicas: int,
    window_s: float | None = None,
    park_for_s: float | None = None,
    engine: str | None = None,
    num_gpus: int = 0,
    args: Sequence[str] = (),
) -> dict[str, Any]:
    """The InferenceService of the short way, checked as if it had come from a file.

    Raises UsageError for a model's name or a value that means nothing, ModelNotFound for a path with nothing there.
    """
    uri = whole_uri(model)
    path = path_of(uri)
    if path is not None and not path.exists():
        raise ModelNotFound(f"There is no file or folder {path}.", hint="hf://owner/name is a model of the hub.")
    annotations = {}
    if window_s is not None:
        annotations["autoscaling.knative.dev/window"] = _duration(window_s)
    if park_for_s is not None:
        annotations["ironloom.dev/park-for"] = _duration(park_for_s)
    manifest = serving_manifest(
        name,
        uri,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        engine=engine,
        num_gpus=num_gpus,
        args=args,
        annotations=annotations,
    )
    try:
        parse_object(manifest)
    except ManifestError as error:  # its places mean nothing to a person who typed options
        told = "\n".join(as_sentence(problem.message) for problem in each(error))
        raise UsageError(told, hint=error.hint) from error
    return manifest


def whole_uri(model: str) -> str:
    """What a person names as a model, so that it says the same to who stands in another folder, as the daemon does.

    Raises UsageError for what names no model.
    """
    source = parse_model(model, shorthands=True)
    if source.kind is not SourceKind.FILE or source.uri.startswith("file://"):
        return source.uri
    return f"file://{os.path.abspath(Path(source.path).expanduser())}"  # noqa: PTH100  links are kept


def path_of(uri: str) -> Path | None:
    """The folder or file of this machine that a whole URI names; None for a model of elsewhere."""
    return Path(uri.removeprefix("file://")) if uri.startswith("file://") else None


def service_name(model: str) -> str:
    """A service's name out of a model's: its last part in lower case, as Kubernetes lets a name be."""
    source = parse_model(model, shorthands=True)
    whole = source.file or source.repo or source.path or source.claim
    last = whole.rstrip("/").rpartition("/")[2].lower().removesuffix(".gguf")
    name = re.sub(r"[^a-z0-9]+", "-", last).strip("-")[:MAX_NAME].rstrip("-")
    return name if name[:1].isalpha() else f"m-{name}"[:MAX_NAME].rstrip("-")


def _duration(seconds: float) -> str:
    """As Go reads it: whole seconds, or milliseconds."""
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{round(seconds * 1000)}ms"
