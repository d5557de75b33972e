"""A training manifest as the pods that it asks for, whatever its kind: a TrainJob, a JobSet or a PyTorchJob.

Sources: https://github.com/kubeflow/trainer/tree/master/pkg/apis/trainer/v1alpha1,
https://github.com/kubernetes-sigs/jobset/blob/main/api/jobset/v1alpha2/jobset_types.go,
https://github.com/kubeflow/trainer/tree/release-1.9/pkg/apis/kubeflow.org/v1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

from ironloom.errors import UsageError
from ironloom.workload import look
from ironloom.workload.kinds.merge import merged_spec
from ironloom.workload.manifests.training_command import find_command
from ironloom.workload.training_settings import SettingError, read_args
from ironloom.workload.workload import is_gpu_resource

Object = dict[str, Any]

KINDS = ("TrainJob", "JobSet", "PyTorchJob")
NODE = "node"
"""The replicated job that trains, and its container, by Trainer's convention."""
MAX_RESTARTS = 3
"""Where the manifest says nothing; as a run on this machine has it."""
LAUNCHER = "torchrun"
MAX_NODES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPods:
    """The pods of one run: so many of one template."""

    name: str
    kind: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    num_nodes: int
    """Pods; each is one of torchrun's nodes."""
    procs_per_node: int
    template: Object = field(default_factory=dict)
    """The pod template: metadata and spec, as written."""
    container: str = NODE
    """The one that trains."""
    max_restarts: int = MAX_RESTARTS
    is_suspended: bool = False
    runtime: tuple[str, str] = ("", "")
    """Kind and name of the runtime that a TrainJob refers to."""
    is_elastic: bool = False
    """Whether our program is told that it may go on with fewer ranks."""
    output: str = ""
    """Folder that gets checkpoints, where the program is ours; empty where it is not known."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    namespace: str = ""
    """As the manifest names it; empty where it does not."""

    @property
    def trainer(self) -> Object:
        """The container that trains. Its fields may be written."""
        containers: list[Object] = self.template["spec"]["containers"]
        return next((one for one in containers if one.get("name") == self.container), containers[0])

    @property
    def is_launched(self) -> bool:
        """Whether torchrun starts the processes of a pod, so that it is told of the nodes and tells the processes."""
        return any(
            PurePath(word).name == LAUNCHER or word == "torch.distributed.run" for word in words_of(self.trainer)
        )


def words_of(container: Mapping[str, Any]) -> tuple[str, ...]:
    """A container's command line; a shell's script word by word."""
    words = [str(word) for key in ("command", "args") for word in container.get(key) or ()]
    return tuple(part for word in words for part in word.split())


def run_pods(manifest: Mapping[str, Any]) -> RunPods:
    """The pods of a manifest. Raises UsageError where it is none of the kinds, or has no container that trains."""
    kind = look.text(manifest, "kind")
    if kind not in KINDS:
        raise UsageError(f"A {kind or 'thing without a kind'} is no training run.", hint=f"one is a {_or(KINDS)}")
    name = look.text(manifest, "metadata", "name")
    read = {"TrainJob": _train_job, "JobSet": _job_set, "PyTorchJob": _pytorch_job}[kind]
    found = read(manifest)
    if not look.mappings(found["template"], "spec", "containers"):
        raise UsageError(f"{kind} {name} has no container that trains.")
    if not 1 <= found["num_nodes"] <= MAX_NODES:
        raise UsageError(f"{kind} {name} asks for {found['num_nodes']} pods, must be 1 to {MAX_NODES}.")
    made = RunPods(
        name=name,
        kind=kind,
        namespace=look.text(manifest, "metadata", "namespace"),
        labels=look.texts(manifest, "metadata", "labels"),
        annotations=look.texts(manifest, "metadata", "annotations"),
        manifest=manifest,
        **found,
    )
    return _with_settings(made, has_limit="max_restarts" in found)


def _train_job(manifest: Mapping[str, Any]) -> dict[str, Any]:
    spec = look.mapping(manifest, "spec")
    trainer = look.mapping(spec, "trainer")
    container: Object = {"name": NODE}
    container |= {key: deepcopy(trainer[key]) for key in ("image", "command", "args", "env") if trainer.get(key)}
    if trainer.get("resourcesPerNode"):
        container["resources"] = deepcopy(trainer["resourcesPerNode"])
    metadata: Object = {}
    pod: Object = {"containers": [container]}
    for patch in _patches(spec):
        metadata = _merged_metadata(metadata, look.mapping(patch, "metadata"))
        over = dict(look.mapping(patch, "spec"))
        for one in over.pop("containers", None) or ():
            if look.text(one, "name") == NODE:
                container = merged_spec(container, deepcopy(one))
        pod = {**merged_spec(pod, deepcopy(over)), "containers": [container]}
    procs = trainer.get("numProcPerNode")
    return {
        "num_nodes": look.count(trainer, "numNodes"),
        "procs_per_node": procs if isinstance(procs, int) else max(1, gpus_of(container)[1]),
        "template": {"metadata": metadata, "spec": pod},
        "is_suspended": spec.get("suspend") is True,
        "runtime": (
            look.text(spec, "runtimeRef", "kind") or "ClusterTrainingRuntime",
            look.text(spec, "runtimeRef", "name"),
        ),
    }


def _patches(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What a TrainJob says over the pod template of the job that trains."""
    for _, patch in look.mappings(spec, "runtimePatches"):
        for _, job in look.mappings(patch, "trainingRuntimeSpec", "template", "spec", "replicatedJobs"):
            if look.text(job, "name") == NODE:
                yield look.mapping(job, "template", "spec", "template")
    for _, over in look.mappings(spec, "podTemplateOverrides"):
        if NODE in {look.text(target, "name") for _, target in look.mappings(over, "targetJobs")}:
            yield over


def _merged_metadata(base: Mapping[str, Any], written: Mapping[str, Any]) -> Object:
    return {
        key: {**look.texts(base, key), **look.texts(written, key)}
        for key in ("labels", "annotations")
        if base.get(key) or written.get(key)
    }


def _job_set(manifest: Mapping[str, Any]) -> dict[str, Any]:
    spec = look.mapping(manifest, "spec")
    jobs = [job for _, job in look.mappings(spec, "replicatedJobs")]
    job = next((one for one in jobs if _runs_ours(one)), next((one for one in jobs if _gpus_of_job(one)), None))
    job = job if job is not None else jobs[0] if jobs else {}
    inner = look.mapping(job, "template", "spec")
    found = _of_template(look.mapping(inner, "template"))
    restarts = look.at(spec, "failurePolicy", "maxRestarts")
    if isinstance(restarts, int):
        found["max_restarts"] = restarts
    return {
        **found,
        "num_nodes": look.count(job, "replicas") * look.count(inner, "parallelism"),
        "is_suspended": spec.get("suspend") is True,
    }


def _pytorch_job(manifest: Mapping[str, Any]) -> dict[str, Any]:
    spec = look.mapping(manifest, "spec")
    replicas = look.mapping(spec, "pytorchReplicaSpecs")
    role = "Master" if replicas.get("Master") else "Worker"
    found = _of_template(look.mapping(replicas, role, "template"))
    procs = spec.get("nprocPerNode")
    if isinstance(procs, str) and procs.isdigit():
        found["procs_per_node"] = int(procs)
    restarts = look.at(spec, "runPolicy", "backoffLimit")
    if isinstance(restarts, int):
        found["max_restarts"] = restarts
    return {
        **found,
        "num_nodes": sum(look.count(one, "replicas") for one in replicas.values() if isinstance(one, Mapping)) or 1,
        "is_suspended": look.at(spec, "runPolicy", "suspend") is True,
    }


def _of_template(template: Mapping[str, Any]) -> dict[str, Any]:
    """Of a kind that has a pod template: the container that trains is the one of our program, else the first one that
    has GPUs, else the first."""
    made = {
        "metadata": dict(look.mapping(template, "metadata")),
        "spec": deepcopy(dict(look.mapping(template, "spec"))),
    }
    containers = [one for _, one in look.mappings(made["spec"], "containers")]
    ours = [one for one in containers if find_command((), one, {}) is not None]
    chosen = [*ours, *(one for one in containers if gpus_of(one)[1]), *containers]
    container = chosen[0] if chosen else {}
    return {
        "template": made,
        "container": look.text(container, "name"),
        "procs_per_node": max(1, gpus_of(container)[1]),
    }


def _runs_ours(job: Mapping[str, Any]) -> bool:
    return any(find_command((), one, {}) is not None for one in _containers_of_job(job))


def _gpus_of_job(job: Mapping[str, Any]) -> int:
    return sum(gpus_of(one)[1] for one in _containers_of_job(job))


def _containers_of_job(job: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for _, one in look.mappings(job, "template", "spec", "template", "spec", "containers")]


def gpus_of(container: Mapping[str, Any]) -> tuple[str, int]:
    """(resource name, number) of GPUs that a container asks for; ("", 0) for none."""
    for part in ("limits", "requests"):
        for name, amount in look.mapping(container, "resources", part).items():
            if is_gpu_resource(str(name)) and str(amount).isdigit() and int(amount):
                return str(name), int(amount)
    return "", 0


def _with_settings(made: RunPods, *, has_limit: bool) -> RunPods:
    """With what our own program's arguments say of its output and its restarts."""
    command = find_command((), made.trainer, {})
    if command is None:
        return made
    try:
        said = read_args(command.words)
    except SettingError:
        return made  # told by the reader of the manifest, with its place
    restarts = said.get("max_restarts")
    return replace(
        made,
        output=str(said.get("output", "")),
        is_elastic=said.get("is_elastic") is True,
        max_restarts=restarts if isinstance(restarts, int) and not has_limit else made.max_restarts,
    )


def _or(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
