"""KServe's LLMInferenceService, v1alpha1 and v1alpha2.

Source: https://github.com/kserve/kserve/tree/master/pkg/apis/serving/v1alpha2 (llm_inference_service_types.go)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from ironloom.workload import look
from ironloom.workload.kinds.around import Around
from ironloom.workload.kinds.build import of_spec, workload
from ironloom.workload.kinds.containers import container, containers_of
from ironloom.workload.kinds.gangs import Gang
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.launch import server_launch
from ironloom.workload.launch.read import words_of
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.kserve_words import ADDITIONAL_ARGS, MAIN
from ironloom.workload.manifests.lines import Word, shell_words
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, Launch, Option, PodSet, Replicas, Role, Workload

PARALLELISM = {
    "tensor": "--tensor-parallel-size",
    "pipeline": "--pipeline-parallel-size",
    "data": "--data-parallel-size",
    "dataLocal": "--data-parallel-size-local",
}


def llm_inference_service(document: Document, _around: Around) -> Iterator[Workload]:
    """The engine with its workers; with prefill apart that too; the router's scheduler where it is written out."""
    spec = look.mapping(document.obj, "spec")
    yield _engine(document, ("spec",), MAIN)
    if look.mapping(spec, "prefill"):
        yield _engine(document, ("spec", "prefill"), "prefill")
    scheduler: Path = ("spec", "router", "scheduler")
    if look.mapping(spec, "router", "scheduler", "template"):
        pods = _pods(document, scheduler, "template", "scheduler", Role.OTHER)
        count = look.count(document.obj, *scheduler, "replicas")
        path = look.nearest(document.obj, (*scheduler, "replicas"))
        yield workload(document, (pods,), Replicas(min=count, max=count, path=path))


def _engine(document: Document, base: Path, name: str) -> Workload:
    """The pods at `base`, which holds what a workload of the kind has."""
    spec = look.mapping(document.obj, *base)
    leader = _pods(document, base, "template", name, Role.SERVING)
    containers = [_with_launch(document, base, one) if one.name == MAIN else one for one in leader.containers]
    if not any(one.name == MAIN for one in containers):
        # The controller's own container; where it would stand is where the manifest says what is in it.
        made = container({"name": MAIN}, look.nearest(document.obj, (*base, "template")))
        containers.append(_with_launch(document, base, made))
    leader = replace(leader, containers=tuple(containers))
    pod_sets = [leader]
    if isinstance(spec.get("worker"), Mapping):
        worker = _pods(document, base, "worker", "worker" if name == MAIN else f"{name}-worker", Role.SERVING)
        num_workers = group_size(look.mapping(spec, "parallelism")) - 1
        if num_workers:
            pod_sets.append(replace(worker, num_pods=num_workers))
    return workload(document, pod_sets, replicas(document, base), gang=Gang.ALWAYS)


def group_size(parallelism: Mapping[str, Any]) -> int:
    """Pods of one replica over several nodes: data over local data parallelism, or the pipeline's stages.

    Source: GetSize in
    https://github.com/kserve/kserve/blob/master/pkg/apis/serving/v1alpha2/llm_inference_service_types_func.go
    """
    data = look.count(parallelism, "data", default=0)
    local = look.count(parallelism, "dataLocal", default=0)
    if data or local:
        return max(max(data, 1) // max(local, 1), 1)
    return max(1, look.count(parallelism, "pipeline"))


def replicas(document: Document, base: Path) -> Replicas:
    """A fixed number, or the bounds of `scaling` with who decides between them."""
    spec = look.mapping(document.obj, *base)
    scaling = look.mapping(spec, "scaling")
    if not scaling:
        count = look.count(spec, "replicas")
        return Replicas(min=count, max=count, path=look.nearest(document.obj, (*base, "replicas")))
    decider = "wva" if isinstance(scaling.get("wva"), Mapping) else "keda" if "keda" in scaling else "external"
    low = look.count(scaling, "minReplicas")
    for keda in (("keda",), ("wva", "keda")):
        if look.at(scaling, *keda, "idleReplicaCount") == 0:
            low = 0
    return Replicas(
        min=low,
        max=look.count(scaling, "maxReplicas", default=0) or None,
        path=look.nearest(document.obj, (*base, "scaling", "minReplicas")),
        decider=decider,
    )


def _pods(document: Document, base: Path, field: str, name: str, role: Role) -> PodSet:
    spec = look.mapping(document.obj, *base, field)
    path: Path = (*base, field)
    return of_spec(
        path,
        spec=spec,
        metadata_path=base,
        metadata=look.mapping(document.obj, *base),
        name=name,
        role=role,
        containers=containers_of(spec, path),
        is_written=False,
    )


def _with_launch(document: Document, base: Path, made: Container) -> Container:
    """The engine that the controller's template starts where the container has no command of its own."""
    uri: tuple[str, Path] = ("", ())
    model: Path = ("spec", "model", "uri")
    if look.text(document.obj, *model):
        uri = (look.text(document.obj, *model), model)
    launch = made.launch
    if launch is None or (launch.program == "vllm" and not look.entries(made.spec, "command")):
        if look.entries(made.spec, "command"):
            return made
        launch = server_launch("vllm", _arguments(made), made, uri=uri)
    elif launch.program == "vllm" and not launch.model:
        launch = replace(launch, model=uri[0], model_path=uri[1])
    return replace(made, launch=_parallel(document, base, launch))


def _arguments(made: Container) -> list[Word]:
    """The arguments as the template's `eval` leaves them: those of the variable, then args, read by a shell again.

    Source: https://github.com/kserve/kserve/blob/master/config/llmisvcconfig/config-llm-template.yaml
    """
    more = made.env.get(ADDITIONAL_ARGS) or ""
    where = (*made.env_paths.get(ADDITIONAL_ARGS, made.path), "value")
    words = list(shell_words(Word(more, where)))
    for word in words_of(made.spec, made.path):
        is_quoted = word.text[:1] in ("'", '"') and word.text[-1:] == word.text[0]
        is_line = word.text.startswith("-") and " " in word.text
        words += shell_words(word) if is_quoted or is_line else (word,)
    return words


def _parallel(document: Document, base: Path, launch: Launch) -> Launch:
    """With the options that spec.parallelism stands for, where the arguments do not say them."""
    path: Path = (*base, "parallelism")
    said = look.mapping(document.obj, *path)
    given = {option.name for option in launch.options}
    found = [
        Option(name=name, value=str(look.count(said, key)), path=(*path, key), written=key)
        for key, name in PARALLELISM.items()
        if key in said and name not in given
    ]
    if said.get("expert") is True and "--enable-expert-parallel" not in given:
        found.append(Option(name="--enable-expert-parallel", value=None, path=(*path, "expert"), written="expert"))
    return replace(launch, options=(*found, *launch.options)) if found else launch


KINDS = (
    Kind(
        group="serving.kserve.io",
        name="LLMInferenceService",
        read=llm_inference_service,
        pods="main and worker; prefill and its workers; scheduler",
        gang="a replica over several nodes",
        source="https://github.com/kserve/kserve/tree/master/pkg/apis/serving/v1alpha2",
    ),
)
