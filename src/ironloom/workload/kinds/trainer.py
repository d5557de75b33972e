"""Kubeflow Trainer's TrainJob, trainer.kubeflow.org, with the runtime that it names where that is among the documents.

Source: https://github.com/kubeflow/trainer/tree/master/pkg/apis/trainer/v1alpha1
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.workload import look
from ironloom.workload.kinds import wishes
from ironloom.workload.kinds.around import Around, namespace_of
from ironloom.workload.kinds.build import of_spec, workload
from ironloom.workload.kinds.containers import container
from ironloom.workload.kinds.core import num_at_once
from ironloom.workload.kinds.gangs import Gang
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.kinds.merge import patched_spec
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, PodSet, Role, TopologyWish, Workload

GROUP = "trainer.kubeflow.org"
STEP = "trainer.kubeflow.org/trainjob-ancestor-step"
NODE = "node"
"""The replicated job, and its container, that trains."""
TRAINER: Path = ("spec", "trainer")
PATCHES: Path = ("spec", "runtimePatches")
RUNTIME: Path = ("spec", "runtimeRef")


def train_job(document: Document, around: Around) -> Iterator[Workload]:
    """The pods that train, as many as numNodes, and those of the runtime's other jobs that run beside them."""
    runtime = runtime_spec(document, around)
    jobs = [job for _, job in look.mappings(runtime, "template", "spec", "replicatedJobs")] or [{"name": NODE}]
    trains = [job for job in jobs if _step(job) == "trainer"] or [job for job in jobs if look.text(job, "name") == NODE]
    pod_sets = [
        _pods(document, runtime, job, is_trainer=job in trains)
        for job in jobs
        # Initializers end before the training begins.
        if not _step(job).endswith("initializer")
    ]
    yield workload(document, pod_sets, gang=Gang.ALWAYS)


def runtime_spec(document: Document, around: Around) -> Mapping[str, Any]:
    """The spec of the runtime that a TrainJob names; empty where it is not among the documents."""
    name = look.text(document.obj, *RUNTIME, "name")
    kind = look.text(document.obj, *RUNTIME, "kind") or "ClusterTrainingRuntime"
    namespace = namespace_of(document) if kind == "TrainingRuntime" else ""
    found = around.named(GROUP, kind, name, namespace)
    return look.mapping(found.obj, "spec") if found is not None else {}


def _step(job: Mapping[str, Any]) -> str:
    return look.text(job, "template", "metadata", "labels", STEP)


def _pods(document: Document, runtime: Mapping[str, Any], job: Mapping[str, Any], *, is_trainer: bool) -> PodSet:
    name = look.text(job, "name")
    template = look.mapping(job, "template", "spec", "template")
    spec = look.mapping(template, "spec")
    metadata = look.mapping(template, "metadata")
    topology: list[TopologyWish] = []
    patch_path: Path = RUNTIME
    for path, patch in _patches(document, name):
        patch_path = path
        spec = patched_spec(spec, look.mapping(patch, "spec"))
        own = look.texts(patch, "metadata", "annotations")
        topology += wishes.of_annotations(own, (*path, "metadata", "annotations"))
    volcano = look.mapping(runtime, "podGroupPolicy", "volcano", "networkTopology")
    topology += wishes.of_volcano(volcano, RUNTIME)
    is_node = is_trainer or name == NODE
    path = TRAINER if is_node and look.mapping(document.obj, *TRAINER) else patch_path
    return of_spec(
        path,
        spec=spec,
        metadata_path=patch_path if patch_path != RUNTIME else PATCHES,
        metadata=metadata,
        name=name,
        num_pods=_num_pods(document, runtime, job, is_trainer=is_node),
        role=Role.TRAINING,
        topology=topology,
        containers=tuple(_containers(document, spec, name, is_trainer=is_trainer, is_node=is_node)),
        is_written=False,
    )


def _patches(document: Document, job: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """What the TrainJob says over the pod template of a job of the runtime, each with its place."""
    for number, patch in look.mappings(document.obj, *PATCHES):
        jobs: Path = ("trainingRuntimeSpec", "template", "spec", "replicatedJobs")
        for index, one in look.mappings(patch, *jobs):
            found = look.mapping(one, "template", "spec", "template")
            if look.text(one, "name") == job and found:
                yield (*PATCHES, number, *jobs, index, "template", "spec", "template"), found
    # Its form before runtimePatches.
    for number, patch in look.mappings(document.obj, "spec", "podTemplateOverrides"):
        if job in {look.text(target, "name") for _, target in look.mappings(patch, "targetJobs")}:
            yield ("spec", "podTemplateOverrides", number), patch


def _num_pods(document: Document, runtime: Mapping[str, Any], job: Mapping[str, Any], *, is_trainer: bool) -> int:
    """numNodes of the TrainJob, else of the runtime, for the job that trains; what the job says for another."""
    own = num_at_once(look.mapping(job, "template", "spec")) * look.count(job, "replicas")
    if not is_trainer or (look.text(job, "name") != NODE and look.at(runtime, "mlPolicy", "mpi") is not None):
        return own
    of_runtime = look.count(runtime, "mlPolicy", "numNodes", default=own)
    return look.count(document.obj, *TRAINER, "numNodes", default=of_runtime)


def _containers(
    document: Document, spec: Mapping[str, Any], job: str, *, is_trainer: bool, is_node: bool
) -> Iterator[Container]:
    """The runtime's containers, the one that trains with the TrainJob's own words over it.

    Image, command and arguments go to the job that trains; resources to every node.
    """
    trainer = look.mapping(document.obj, *TRAINER)
    listed = [one for _, one in look.mappings(spec, "containers")] or [{"name": NODE}]
    for one in listed:
        is_main = look.text(one, "name") in {NODE, job} or len(listed) == 1
        if not is_main or not is_node:
            yield container(one, RUNTIME)
            continue
        made, num_before = dict(one), 0
        if is_trainer:
            num_before = len(look.entries(one, "env"))
            made |= {key: trainer[key] for key in ("image", "command", "args") if trainer.get(key) is not None}
            made["env"] = [*look.entries(one, "env"), *look.entries(trainer, "env")]
        if look.mapping(trainer, "resourcesPerNode"):
            made["resources"] = trainer["resourcesPerNode"]
        yield container(made, TRAINER if trainer else RUNTIME, num_env_before=num_before)


KINDS = (
    Kind(
        group=GROUP,
        name="TrainJob",
        read=train_job,
        pods="one set a job of its runtime, initializers left out",
        gang="more than one pod",
        source="https://github.com/kubeflow/trainer/tree/master/pkg/apis/trainer/v1alpha1",
    ),
)
