"""KServe's InferenceService, with the serving runtime that it names where that is among the documents.

Source of fields: https://github.com/kserve/kserve/tree/master/pkg/apis/serving/v1beta1 (component.go, predictor.go).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ironloom.workload import look
from ironloom.workload.kinds.around import Around, namespace_of
from ironloom.workload.kinds.build import of_spec, workload
from ironloom.workload.kinds.containers import container
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.launch import server_launch
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.inference_service import FORMATS, OTHER_FRAMEWORKS
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, Launch, PodSet, Replicas, Role, Workload

GROUP = "serving.kserve.io"
MODE = "serving.kserve.io/deploymentMode"
AUTOSCALER = "serving.kserve.io/autoscalerClass"
STANDARD_MODES = frozenset({"Standard", "RawDeployment"})
KNATIVE_MODES = frozenset({"Knative", "Serverless"})
CONTAINER = "kserve-container"
"""The name of the container that answers, which the controller gives it."""
FRAMEWORKS = ("model", "huggingface", *OTHER_FRAMEWORKS)
"""Fields of a predictor that hold a container with a model."""


def inference_service(document: Document, around: Around) -> Workload:
    """Predictor, its workers, transformer and explainer: each a set of pods."""
    spec = look.mapping(document.obj, "spec")
    found = [pods for name in ("predictor", "transformer", "explainer") for pods in _component(document, around, name)]
    worker = look.mapping(spec, "predictor", "workerSpec")
    return workload(document, found, replicas(document, "predictor"), is_gang=bool(worker))


def replicas(document: Document, component: str) -> Replicas:
    """How many copies of a component, and who decides: what KServe's modes and autoscaler classes say.

    Without a deployment mode the cluster's own default holds, which the manifest does not say.
    """
    path: Path = ("spec", component)
    spec = look.mapping(document.obj, *path)
    low = look.count(spec, "minReplicas")
    high = look.count(spec, "maxReplicas", default=0)
    annotations = look.mapping(document.obj, "metadata", "annotations")
    mode, scaler = look.text(annotations, MODE), look.text(annotations, AUTOSCALER)
    decider = ""
    if look.at(spec, "workerSpec") is None or component != "predictor":
        if scaler in {"keda", "external"}:
            decider = scaler
        elif scaler in {"", "hpa"} and mode in STANDARD_MODES:
            decider = "kserve-hpa"
        elif scaler in {"", "kpa.autoscaling.knative.dev"} and mode in KNATIVE_MODES:
            decider = "knative"
    return Replicas(
        min=low,
        max=high or (None if decider == "knative" else max(low, 1)),
        path=look.nearest(document.obj, (*path, "minReplicas")),
        decider=decider,
    )


def _component(document: Document, around: Around, name: str) -> list[PodSet]:
    path: Path = ("spec", name)
    spec = look.mapping(document.obj, *path)
    if not spec:
        return []
    metadata = {
        key: {**look.texts(document.obj, "metadata", key), **look.texts(spec, key)} for key in ("labels", "annotations")
    }
    field = next((field for field in FRAMEWORKS if isinstance(spec.get(field), Mapping)), "")
    head = of_spec(
        path,
        spec=spec,
        metadata_path=path,
        metadata=metadata,
        name=name,
        default_role=Role.SERVING if name == "predictor" else Role.OTHER,
    )
    if field:
        head = _with_model(document, around, head, field)
    worker = look.mapping(spec, "workerSpec")
    if name != "predictor" or not worker:
        return [head]
    return [head, _worker(head, worker, (*path, "workerSpec"), metadata)]


def _with_model(document: Document, around: Around, head: PodSet, field: str) -> PodSet:
    """The pods with the container that the controller makes of a predictor's `model`."""
    path: Path = (*head.path, field)
    written = look.mapping(head.spec, field)
    runtime = _runtime(around, written, namespace_of(document))
    made = container({**written, "name": CONTAINER}, path)
    made = replace(made, launch=_launch(made, written, path, field))
    template = runtime if runtime is not None else {}
    spec = {**template, **{key: value for key, value in head.spec.items() if key != field}}
    others = tuple(one for one in head.containers if one.name != CONTAINER)
    return replace(head, role=Role.SERVING, spec=spec, containers=(*others, made), is_written=False)


def _launch(made: Container, written: Mapping[str, Any], path: Path, field: str) -> Launch | None:
    """What the runtime runs: the container's own command line, or Hugging Face's server for a model of its formats."""
    if made.launch is not None:
        return made.launch
    form = look.text(written, "modelFormat", "name").lower() if field == "model" else field
    if form not in FORMATS:
        return None
    return server_launch("huggingfaceserver", written, path, made.env, made.env_paths, uri=_uri(written, path))


def _uri(written: Mapping[str, Any], path: Path) -> tuple[str, Path]:
    for steps in (("storageUri",), ("storageUris", 0, "uri"), ("storage", "path")):
        uri = look.text(written, *steps)
        if uri:
            return uri, (*path, *steps)
    return "", ()


def _runtime(around: Around, written: Mapping[str, Any], namespace: str) -> Mapping[str, Any] | None:
    """The spec of the runtime that a model names, where it is among the documents."""
    name = look.text(written, "runtime")
    for kind, where in (("ServingRuntime", namespace), ("ClusterServingRuntime", "")):
        found = around.named(GROUP, kind, name, where) if name else None
        if found is not None:
            return look.mapping(found.obj, "spec")
    return None


def _worker(head: PodSet, worker: Mapping[str, Any], path: Path, metadata: Mapping[str, Any]) -> PodSet:
    """The workers beside the head of a multi-node predictor: one node for each pipeline stage but the head's."""
    return of_spec(
        path,
        spec=worker,
        metadata_path=head.metadata_path,
        metadata=metadata,
        name="worker",
        num_pods=max(1, look.count(worker, "pipelineParallelSize", default=2) - 1),
        role=Role.SERVING,
        is_written=head.is_written,
    )


_SOURCE = "https://github.com/kserve/kserve/tree/master/pkg/apis/serving"
KINDS = (
    Kind(
        group=GROUP,
        name="InferenceService",
        read=inference_service,
        pods="predictor, worker, transformer, explainer",
        source=f"{_SOURCE}/v1beta1",
    ),
)
