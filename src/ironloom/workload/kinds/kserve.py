"""KServe's InferenceService, with the serving runtime that it names where that is among the documents.

Source of fields: https://github.com/kserve/kserve/tree/master/pkg/apis/serving/v1beta1 (component.go, predictor.go).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from ironloom.workload import look
from ironloom.workload.kinds.around import Around, namespace_of
from ironloom.workload.kinds.build import of_spec, workload
from ironloom.workload.kinds.containers import container
from ironloom.workload.kinds.gangs import Gang
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.kinds.merge import merged_container, merged_spec
from ironloom.workload.kinds.wishes import of_annotations
from ironloom.workload.launch import launch_of_words, server_launch
from ironloom.workload.launch.read import words_of
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.kserve_words import FORMATS, OTHER_FRAMEWORKS, is_storage_mount
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, Launch, PodSet, Replicas, Role, Workload

GROUP = "serving.kserve.io"
MODE = "serving.kserve.io/deploymentMode"
AUTOSCALER = "serving.kserve.io/autoscalerClass"
STANDARD_MODES = frozenset({"Standard", "RawDeployment"})
KNATIVE_MODES = frozenset({"Knative", "Serverless"})
COMPONENTS = ("predictor", "transformer", "explainer")
MAIN_CONTAINER = "kserve-container"
"""The container that answers; the controller gives it this name."""
WORKER_CONTAINER = "worker-container"
STORAGE = "STORAGE_URI"
FRAMEWORKS = ("model", "huggingface", *OTHER_FRAMEWORKS)
"""Fields of a predictor that hold a container with a model."""


def inference_service(document: Document, around: Around) -> Iterator[Workload]:
    """The predictor with its workers; transformer and explainer, which scale by themselves."""
    for component in COMPONENTS:
        spec = look.mapping(document.obj, "spec", component)
        if not spec:
            continue
        pod_sets = _pod_sets(document, around, component, spec)
        gang = Gang.ALWAYS if len(pod_sets) > 1 else Gang.NEVER
        yield workload(document, pod_sets, replicas(document, component), gang=gang)


def replicas(document: Document, component: str) -> Replicas:
    """How many copies of a component, and who decides: what KServe's modes and autoscaler classes say.

    Without a deployment mode the cluster's own default holds, which the manifest does not know: nobody is named.
    """
    path: Path = ("spec", component)
    spec = look.mapping(document.obj, *path)
    low = look.count(spec, "minReplicas")
    high = look.count(spec, "maxReplicas", default=0)
    mode = look.text(document.obj, "metadata", "annotations", MODE)
    scaler = look.text(document.obj, "metadata", "annotations", AUTOSCALER)
    decider = ""
    if scaler in {"keda", "external"}:
        decider = scaler
    elif mode in STANDARD_MODES and scaler in {"", "hpa"} and look.at(spec, "workerSpec") is None:
        decider = "kserve-hpa"
    elif mode in KNATIVE_MODES:
        decider = "knative"
    unbounded = decider in {"knative", "external"}
    return Replicas(
        min=low,
        max=high or (None if unbounded else max(low, 1)),
        path=look.nearest(document.obj, (*path, "minReplicas")),
        decider=decider,
    )


def _pod_sets(document: Document, around: Around, component: str, spec: Mapping[str, Any]) -> list[PodSet]:
    path: Path = ("spec", component)
    metadata = {
        key: {**look.texts(document.obj, "metadata", key), **look.texts(spec, key)} for key in ("labels", "annotations")
    }
    own = look.texts(spec, "annotations")
    inherited = {key: value for key, value in metadata["annotations"].items() if key not in own}
    head = of_spec(
        path,
        spec=spec,
        metadata_path=path,
        metadata={**metadata, "annotations": own},
        name=component,
        default_role=Role.SERVING if component == "predictor" else Role.OTHER,
        topology=of_annotations(inherited, ("metadata", "annotations")),
    )
    found = tuple(_with_storage(one) for one in head.containers)
    head = replace(head, annotations=metadata["annotations"], containers=found)
    field = next((field for field in FRAMEWORKS if isinstance(spec.get(field), Mapping)), "")
    runtime: Mapping[str, Any] = {}
    if field:
        written = look.mapping(spec, field)
        runtime = runtime_spec(around, look.text(written, "runtime"), namespace_of(document))
        head = _with_model(document, head, field, written, runtime)
    if component != "predictor" or not isinstance(spec.get("workerSpec"), Mapping):
        return [head]
    return [head, *_workers(head, look.mapping(spec, "workerSpec"), look.mapping(runtime, "workerSpec"))]


def runtime_spec(around: Around, name: str, namespace: str) -> Mapping[str, Any]:
    """The spec of the runtime of this name, where it is among the documents; empty where it is not."""
    for kind, where in (("ServingRuntime", namespace), ("ClusterServingRuntime", "")):
        found = around.named(GROUP, kind, name, where) if name else None
        if found is not None:
            return look.mapping(found.obj, "spec")
    return {}


def _with_model(
    document: Document, head: PodSet, field: str, written: Mapping[str, Any], runtime: Mapping[str, Any]
) -> PodSet:
    """The pods with the container that the controller makes of a predictor's `model` and its runtime."""
    path: Path = (*head.path, field)
    base = next(
        (one for _, one in look.mappings(runtime, "containers") if look.text(one, "name") == MAIN_CONTAINER), {}
    )
    made = _merged(base, written, MAIN_CONTAINER, path)
    launch = _launch(document, made, written, base, path, field)
    made = replace(made, launch=launch)
    others = tuple(one for one in head.containers if one.name != MAIN_CONTAINER)
    return replace(
        head,
        role=Role.SERVING,
        spec=merged_spec(runtime, head.spec),
        containers=(*others, made),
        is_written=False,
    )


def _merged(base: Mapping[str, Any], written: Mapping[str, Any], name: str, path: Path) -> Container:
    whole = merged_container(base, written)
    num_before = len(look.entries(whole, "env")) - len(look.entries(written, "env"))
    return container({**whole, "name": name}, path, num_env_before=num_before)


def _launch(
    document: Document,
    made: Container,
    written: Mapping[str, Any],
    base: Mapping[str, Any],
    path: Path,
    field: str,
) -> Launch | None:
    """What runs: the command line of the runtime and the manifest together; without the runtime, the server that its
    name or the model's format says."""
    uri = _uri(written, path)
    named = (*path, "runtime")
    words = [replace(word, path=named) for word in words_of(base, named) if word.text]
    words = [replace(word, text=word.text.replace("{{.Name}}", document.name)) for word in words]
    words += words_of(written, path)
    launch = launch_of_words(words, made)
    if launch is not None:
        return launch if launch.model and not uri[0] else replace(launch, model=uri[0], model_path=uri[1])
    form = look.text(written, "modelFormat", "name").lower() if field == "model" else field
    program = _program(look.text(written, "runtime").lower(), form)
    return server_launch(program, words, made, uri=uri) if program and not base else None


def _program(runtime: str, form: str) -> str:
    """The server that a runtime of this name, which is not there to be looked at, runs for a format; empty where the
    names do not say."""
    named = next((program for program in ("vllm", "sglang") if program in runtime), "")
    if named:
        return named
    if form not in FORMATS:
        return ""
    return "vllm" if form == "vllm" else "huggingfaceserver"


def _with_storage(made: Container) -> Container:
    """A container of the writer's own that serves the folder which the controller fills from STORAGE_URI."""
    launch, uri = made.launch, made.env.get(STORAGE)
    if launch is None or not uri or not is_storage_mount(launch.model):
        return made
    return replace(made, launch=replace(launch, model=uri, model_path=made.env_paths[STORAGE]))


def _uri(written: Mapping[str, Any], path: Path) -> tuple[str, Path]:
    """The model that the manifest names, and where."""
    for steps in (("storageUri",), ("storageUris", 0, "uri"), ("storage", "path")):
        uri = look.text(written, *steps)
        if uri:
            return uri, (*path, *steps)
    return "", ()


def _workers(head: PodSet, worker: Mapping[str, Any], runtime: Mapping[str, Any]) -> list[PodSet]:
    """The nodes beside the head of a predictor over several nodes.

    How many follows from the GPUs that tensor and pipeline parallelism need, and from those of one worker.
    Source: computeRayNodeAndGPUs in
    https://github.com/kserve/kserve/blob/master/pkg/controller/v1beta1/inferenceservice/components/predictor.go
    """
    path: Path = (*head.path, "workerSpec")
    base = next((one for _, one in look.mappings(runtime, "containers")), {})
    written = next((one for _, one in look.mappings(worker, "containers")), {})
    made = _merged(base, written, WORKER_CONTAINER, (*path, "containers", 0))
    found = of_spec(
        path,
        spec=merged_spec(runtime, worker),
        metadata_path=head.metadata_path,
        metadata={},
        name="worker",
        role=Role.SERVING,
        containers=(made,),
        is_written=False,
    )
    found = replace(found, labels=head.labels, annotations=head.annotations, topology=(*found.topology, *head.topology))

    def size(name: str) -> int:
        return max(1, look.count(worker, name, default=look.count(runtime, name)))

    num_gpus = size("tensorParallelSize") * size("pipelineParallelSize")
    of_head, of_worker = head.gpus()[1], found.gpus()[1]
    if of_worker:
        num_nodes = 1 if of_head >= num_gpus else -(-num_gpus // of_worker)
    else:
        num_nodes = max(0, num_gpus - of_head) + 1 if of_head else num_gpus
    return [replace(found, num_pods=num_nodes - 1)] if num_nodes > 1 else []


_SOURCE = "https://github.com/kserve/kserve/tree/master/pkg/apis/serving"
KINDS = (
    Kind(
        group=GROUP,
        name="InferenceService",
        read=inference_service,
        pods="predictor and worker; transformer; explainer",
        gang="a predictor with workers",
        source=f"{_SOURCE}/v1beta1",
    ),
)
