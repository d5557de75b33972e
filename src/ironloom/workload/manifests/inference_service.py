"""KServe's InferenceService, serving.kserve.io/v1beta1.

Source of names and defaults: kserve/kserve pkg/apis/serving/v1beta1 (component.go, predictor.go) and
pkg/controller/v1alpha1/utils/utils.go (`SetAutoScalingAnnotations`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ironloom.workload.manifests import pods
from ironloom.workload.manifests.annotations import Annotated, read_annotations, waiver
from ironloom.workload.manifests.argument_places import unreadable
from ironloom.workload.manifests.arguments import Waiver
from ironloom.workload.manifests.document import Document, checked_name
from ironloom.workload.manifests.engine_args import EngineCommand, Server, parse, understand
from ironloom.workload.manifests.engine_settings import command_settings, declared, scaling_of
from ironloom.workload.manifests.kserve_words import FORMATS, OTHER_FRAMEWORKS
from ironloom.workload.manifests.problems import raise_all
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.shell import expand
from ironloom.workload.serving import ON_ONE_MACHINE, WITHOUT_KSERVE, FieldNote, ScaleMetric, Serving

NAME = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?")
"""Source: KServe's IsvcNameFmt."""
PREDICTOR: Path = ("spec", "predictor")
RUNTIMES = ("kserve-huggingfaceserver", "kserve-huggingfaceserver-multinode", "kserve-vllmserver")
"""Runtimes that any engine here stands for."""
NOT_HONOURED = {
    "autoScaling": "requests are counted here, as scaleMetric and scaleTarget say",
    "scaleMetricType": "it belongs to metrics of Kubernetes' own autoscaler",
    "batcher": "engines batch by themselves",
    "logger": "requests stand in Ironloom's own event log",
    "canaryTrafficPercent": "a changed manifest rolls out whole",
    "deploymentStrategy": "the new replica is ready before the old one drains",
    "workerSpec": "the whole replica runs on this machine",
    "storageContainerName": "Ironloom or the engine fetches the model",
}


def serving(made: Document) -> Serving:
    """The Serving of an InferenceService whose fields have been checked. Raises ManifestError."""
    name = made.name
    with made.gather():
        name = checked_name(made, NAME, "lower-case letters, digits and '-', a letter first")
    metadata = made.obj.get("metadata") or {}
    spec = made.obj.get("spec") or {}
    predictor = spec.get("predictor") or {}
    said = read_annotations(
        made,
        [
            (("metadata", "annotations"), metadata.get("annotations")),
            ((*PREDICTOR, "annotations"), predictor.get("annotations")),
        ],
    )
    waived = waiver(metadata.get("annotations"), predictor.get("annotations"))
    notes = list(said.notes)
    own, paths, scale_notes = _scaling(made, predictor, said)
    with made.gather():
        scaling = scaling_of(made, said, own, paths)
    timeout = predictor.get("timeout")
    if timeout is not None and timeout < 1:
        made.complain((*PREDICTOR, "timeout"), f"timeout = {timeout}, must be at least 1 (seconds)")
    path, container, engine = _implementation(made, predictor, waived)
    env = pods.environment(made, path, container)
    asked, gpu_notes = pods.resources(made, path, container)
    num_found = len(made.found)
    with made.gather():
        storage_uri = _storage_uri(made, predictor, path, container, env.values)
    with made.gather():
        command = _command(made, path, container, env.values, waived, is_model=engine is None)
    if len(made.found) == num_found:
        with made.gather():
            settings, more, volume = command_settings(
                made, (*path, "args"), command, env, storage_uri=storage_uri, container=container, pod=predictor
            )
    raise_all(made.found)
    notes += [*more, *env.notes, *gpu_notes]
    notes += pods.field_notes(made, PREDICTOR, predictor, path)
    notes += pods.sidecar_notes(made, PREDICTOR, predictor, engine)
    notes += pods.volume_notes(made, PREDICTOR, predictor, volume)
    notes += _own_notes(made, spec, predictor, container, path)
    return declared(
        made,
        said,
        name=name,
        resources=asked,
        scaling=scaling,
        timeout_s=300.0 if timeout is None else float(timeout),
        notes=notes + scale_notes,
        **settings,
    )


def _implementation(
    made: Document, predictor: Mapping[str, Any], waived: Waiver
) -> tuple[Path, Mapping[str, Any], int | None]:
    """Where the engine's container stands, it, and its place in `containers` (None for `model`)."""
    for key in ("model", "huggingface"):
        if predictor.get(key):
            if key == "model":
                with made.gather():
                    _check_format(made, predictor["model"])
            return (*PREDICTOR, key), predictor[key], None
    for key in OTHER_FRAMEWORKS:
        if predictor.get(key):
            raise made.error(
                (*PREDICTOR, key), f"spec.predictor.{key}: Ironloom serves language models, not {key}", at_key=True
            )
    containers = predictor.get("containers") or ()
    for number, container in enumerate(containers):
        path = (*PREDICTOR, "containers", number)
        if _understood(made, path, container, pods.environment(made, path, container).values, waived) is not None:
            return path, container, number
    if containers:
        raise made.error(
            (*PREDICTOR, "containers"),
            "no container of spec.predictor runs vLLM or KServe's Hugging Face server",
            hint="an image named vllm… or huggingfaceserver, or a command such as `vllm serve MODEL`, is understood",
        )
    raise made.error(PREDICTOR, "spec.predictor has neither model nor containers")


def _check_format(made: Document, model: Mapping[str, Any]) -> None:
    name = str((model.get("modelFormat") or {}).get("name") or "")
    if name and name.lower() not in FORMATS:
        raise made.error(
            (*PREDICTOR, "model", "modelFormat", "name"),
            f"modelFormat.name = {name[:60]!r}, must be one of {', '.join(FORMATS)}",
        )


def _storage_uri(
    made: Document,
    predictor: Mapping[str, Any],
    path: Path,
    container: Mapping[str, Any],
    env: Mapping[str, str],
) -> str | None:
    uri = container.get("storageUri")
    if uri:
        return str(uri)
    several = predictor.get("storageUris") or ()
    if several:
        if len(several) > 1:
            raise made.error(
                (*PREDICTOR, "storageUris"), f"storageUris has {len(several)} entries; one model a service is served"
            )
        return str(several[0].get("uri") or "") or None
    storage = container.get("storage") or {}
    if storage:
        parameters = storage.get("parameters") or {}
        bucket, inside = parameters.get("bucket"), str(storage.get("path") or "").lstrip("/")
        if bucket:
            return f"{parameters.get('type', 's3')}://{bucket}/{inside}"
        raise made.error(
            (*path, "storage"),
            "storage points to a Secret of a cluster, which this machine does not have",
            hint="name the place itself, for example `storageUri: s3://bucket/folder`",
        )
    return env.get("STORAGE_URI") or None


def _command(
    made: Document, path: Path, container: Mapping[str, Any], env: Mapping[str, str], waived: Waiver, *, is_model: bool
) -> EngineCommand:
    if not is_model or container.get("command"):
        command = _understood(made, path, container, env, waived)
        if command is not None:
            return command
        raise made.error(
            (*path, "command"), "the command runs neither vLLM nor KServe's Hugging Face server", at_key=True
        )
    words = [expand(word, env) for word in container.get("args") or ()]
    # With model:, KServe's runtime supplies the command; Hugging Face's server knows vLLM's options too.
    try:
        return parse(words, server=Server.HUGGINGFACE, waived=waived)
    except ValueError as error:
        raise unreadable(made, path, error) from None


def _understood(
    made: Document, path: Path, container: Mapping[str, Any], env: Mapping[str, str], waived: Waiver
) -> EngineCommand | None:
    command = container.get("command") or []
    args = container.get("args") or []
    try:
        return understand(command, args, env, image=str(container.get("image") or ""), waived=waived)
    except ValueError as error:
        raise unreadable(made, path, error) from None


def _own_notes(
    made: Document, spec: Mapping[str, Any], predictor: Mapping[str, Any], container: Mapping[str, Any], path: Path
) -> list[FieldNote]:
    notes = [
        made.note(("spec", key), f"{key}: only the predictor runs here", WITHOUT_KSERVE)
        for key in ("transformer", "explainer", "canary")
        if spec.get(key)
    ]
    notes += [
        made.note((*PREDICTOR, key), f"{key}: {why}", ON_ONE_MACHINE if key == "workerSpec" else WITHOUT_KSERVE)
        for key, why in NOT_HONOURED.items()
        if predictor.get(key)
    ]
    runtime = container.get("runtime")
    if runtime and runtime not in RUNTIMES:
        notes.append(
            made.note(
                (*path, "runtime"),
                f"runtime {runtime}: there is no such ServingRuntime here; the engine that fits is taken "
                "(the annotation ironloom.dev/engine names one)",
                WITHOUT_KSERVE,
            )
        )
    if str(container.get("protocolVersion") or "") in ("v1", "v2", "grpc-v2"):
        notes.append(
            made.note(
                (*path, "protocolVersion"),
                f"protocolVersion {container['protocolVersion']}: OpenAI's API is served",
                WITHOUT_KSERVE,
            )
        )
    return notes


def _scaling(
    made: Document, predictor: Mapping[str, Any], said: Annotated
) -> tuple[dict[str, Any], dict[str, Path], list[FieldNote]]:
    """The predictor's own fields as settings of Scaling, where they stand, and notes."""
    own: dict[str, Any] = {}
    paths: dict[str, Path] = {}
    notes: list[FieldNote] = []
    for key, setting in (
        ("minReplicas", "min_replicas"),
        ("maxReplicas", "max_replicas"),
        ("containerConcurrency", "container_concurrency"),
    ):
        value = predictor.get(key)
        if value is None:
            continue
        if not 0 <= value < 2**31:
            made.complain((*PREDICTOR, key), f"spec.predictor.{key} = {value}, must be a whole number of at least 0")
            continue
        if key == "maxReplicas" and value == 0 and "max_replicas" in said.scaling:
            continue  # KServe: 0 is not said.
        own[setting], paths[setting] = value, (*PREDICTOR, key)
    if "min_replicas" not in own and "min_replicas" in said.scaling:
        path = said.paths["min_replicas"]
        notes.append(made.note(path, f"{path[-1]} counts; where KServe scales it minReplicas does, 1 if not said"))
    metric, target = predictor.get("scaleMetric"), predictor.get("scaleTarget")
    annotations = (made.obj.get("metadata") or {}).get("annotations") or {}
    # In Standard mode KServe's own autoscaler takes a target alone for one of CPU; where that is not made, it is ours.
    is_standard = annotations.get("serving.kserve.io/deploymentMode") in ("Standard", "RawDeployment")
    is_of_cpu = is_standard and annotations.get("serving.kserve.io/autoscalerClass") not in ("external", "none")
    if metric in ("cpu", "memory"):
        notes.append(
            made.note((*PREDICTOR, "scaleMetric"), f"scaleMetric {metric}: requests in flight are counted here")
        )
    elif metric is not None:
        own["metric"] = ScaleMetric(metric)
    if target is not None:
        if target < 1:
            made.complain((*PREDICTOR, "scaleTarget"), f"spec.predictor.scaleTarget = {target}, must be at least 1")
        elif metric in ("cpu", "memory") or (metric is None and is_of_cpu):
            kind = metric or "cpu"
            notes.append(made.note((*PREDICTOR, "scaleTarget"), f"scaleTarget {target} is of {kind}, not counted here"))
        else:
            own["target"], paths["target"] = float(target), (*PREDICTOR, "scaleTarget")
    return own, paths, notes
