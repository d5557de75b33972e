"""Training workloads that run Ironloom's program: Trainer's TrainJob, JobSet, and the training operator's PyTorchJob.

Sources: https://github.com/kubeflow/trainer/tree/master/pkg/apis/trainer/v1alpha1,
https://github.com/kubernetes-sigs/jobset/blob/main/api/jobset/v1alpha2/jobset_types.go,
https://github.com/kubeflow/trainer/tree/release-1.9/pkg/apis/kubeflow.org/v1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ironloom.workload import look
from ironloom.workload.manifests import pods
from ironloom.workload.manifests.document import Document, checked_name, strings
from ironloom.workload.manifests.problems import raise_all
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.training_command import MODULE, TrainingCommand, find_command, read_settings
from ironloom.workload.serving import FieldNote, Resources
from ironloom.workload.training import Training
from ironloom.workload.training_job import TrainingJob
from ironloom.workload.training_settings import SettingError, check_ranks, from_args

TRAINER: Path = ("spec", "trainer")
JOBS: Path = ("spec", "replicatedJobs")
REPLICAS: Path = ("spec", "pytorchReplicaSpecs")
MAX_RANKS = 4096
_HERE = "ranks are processes on this machine"
TRAIN_JOB_NOTES = {
    "runtimePatches": _HERE,
    "podTemplateOverrides": _HERE,
    "initializer": "the run reads its model and its data itself",
    "managedBy": _HERE,
}
"""Field of a TrainJob's spec to why it changes nothing here."""
JOB_SET_NOTES = {
    "network": _HERE,
    "successPolicy": "the run ends when all ranks have",
    "startupPolicy": "all ranks start at once",
    "managedBy": _HERE,
    "coordinator": _HERE,
    "ttlSecondsAfterFinished": "a run stays until it is deleted",
}
PYTORCH_NOTES = {
    "cleanPodPolicy": _HERE,
    "ttlSecondsAfterFinished": "a run stays until it is deleted",
    "activeDeadlineSeconds": "a run ends with its steps",
    "schedulingPolicy": "no scheduler places it",
}
"""Of its spec.runPolicy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pods:
    """The pods that train, as one kind says them."""

    path: Path
    """Of the container."""
    container: Mapping[str, Any]
    num_pods: int
    pods_path: Path
    """Where their number is said."""
    resources_key: str = "resources"
    procs: object = None
    """Processes of each, where a field says it: a number, `auto`, `gpu`, `cpu`."""
    procs_path: Path = ()
    pod_path: Path = ()
    """Of the PodSpec; empty where the manifest has none."""
    pod: Mapping[str, Any] | None = None
    base: Mapping[str, Any] | None = None
    """Settings that other fields of the kind say."""
    min_pods: int = 1
    is_suspended: bool = False
    notes: tuple[FieldNote, ...] = ()


def train_job(made: Document) -> TrainingJob | None:
    """The run of a TrainJob whose trainer runs our program; None where it runs another. Raises ManifestError."""
    spec = look.mapping(made.obj, "spec")
    trainer = look.mapping(spec, "trainer")
    return _job(
        made,
        _Pods(
            path=TRAINER,
            container=trainer,
            num_pods=look.count(trainer, "numNodes"),
            pods_path=(*TRAINER, "numNodes"),
            resources_key="resourcesPerNode",
            procs=trainer.get("numProcPerNode"),
            procs_path=(*TRAINER, "numProcPerNode"),
            is_suspended=spec.get("suspend") is True,
            notes=_notes(made, ("spec",), spec, TRAIN_JOB_NOTES),
        ),
    )


def job_set(made: Document) -> TrainingJob | None:
    """The run of a JobSet one of whose jobs runs our program; None where none does. Raises ManifestError."""
    spec = look.mapping(made.obj, "spec")
    for number, job in look.mappings(spec, "replicatedJobs"):
        path: Path = (*JOBS, number)
        template: Path = (*path, "template", "spec")
        pod_path: Path = (*template, "template", "spec")
        pod = look.mapping(made.obj, *pod_path)
        at_once, replicas = look.count(made.obj, *template, "parallelism"), look.count(job, "replicas")
        base = {}
        restarts = look.at(spec, "failurePolicy", "maxRestarts")
        if isinstance(restarts, int):
            base["max_restarts"] = restarts
        for place, container in look.mappings(pod, "containers"):
            found = _job(
                made,
                _Pods(
                    path=(*pod_path, "containers", place),
                    container=container,
                    num_pods=replicas * at_once,
                    pods_path=(*template, "parallelism") if replicas == 1 and at_once > 1 else (*path, "replicas"),
                    pod_path=pod_path,
                    pod=pod,
                    base=base,
                    is_suspended=spec.get("suspend") is True,
                    notes=_notes(made, ("spec",), spec, JOB_SET_NOTES)
                    + tuple(
                        made.note(
                            (*JOBS, other), f"replicatedJobs {look.text(one, 'name')}: only the trainer runs here"
                        )
                        for other, one in look.mappings(spec, "replicatedJobs")
                        if other != number
                    ),
                ),
            )
            if found is not None:
                return found
    return None


def pytorch_job(made: Document) -> TrainingJob | None:
    """The run of a PyTorchJob whose Master (or Worker, without one) runs our program. Raises ManifestError."""
    replicas = look.mapping(made.obj, *REPLICAS)
    spec = look.mapping(made.obj, "spec")
    policy = look.mapping(spec, "runPolicy")
    elastic = look.mapping(spec, "elasticPolicy")
    num_pods = sum(look.count(one, "replicas") for one in replicas.values())
    base: dict[str, Any] = {"is_elastic": True} if elastic else {}
    restarts = elastic.get("maxRestarts", policy.get("backoffLimit"))
    if isinstance(restarts, int):
        base["max_restarts"] = restarts
    for name in ("Master", "Worker"):
        pod_path: Path = (*REPLICAS, name, "template", "spec")
        pod = look.mapping(made.obj, *pod_path)
        for place, container in look.mappings(pod, "containers"):
            found = _job(
                made,
                _Pods(
                    path=(*pod_path, "containers", place),
                    container=container,
                    num_pods=max(1, num_pods),
                    pods_path=REPLICAS,
                    procs=spec.get("nprocPerNode"),
                    procs_path=("spec", "nprocPerNode"),
                    pod_path=pod_path,
                    pod=pod,
                    base=base,
                    min_pods=look.count(elastic, "minReplicas"),
                    is_suspended=policy.get("suspend") is True,
                    notes=_notes(made, ("spec", "runPolicy"), policy, PYTORCH_NOTES),
                ),
            )
            if found is not None:
                return found
    return None


KINDS: Mapping[str, Callable[[Document], TrainingJob | None]] = {
    "trainer.kubeflow.org/v1alpha1/TrainJob": train_job,
    "jobset.x-k8s.io/v1alpha2/JobSet": job_set,
    "kubeflow.org/v1/PyTorchJob": pytorch_job,
}
"""Every kind that can be a training workload."""


def runs_our_program(made: Document) -> bool:
    """Whether any text of the object names our program. Cheap, and wrong only where a text merely mentions it."""
    waiting: list[object] = [made.obj.get("spec")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and MODULE in value:
            return True
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return False


def _job(made: Document, found: _Pods) -> TrainingJob | None:
    """The run of these pods; None where their container does not run our program."""
    env = pods.environment(made, found.path, found.container)
    command = find_command(found.path, found.container, env.values)
    if command is None:
        return None
    name = made.name
    with made.gather():
        name = checked_name(made)
    asked, gpu_notes = pods.resources(made, found.path, found.container, key=found.resources_key)
    num_procs = 1
    with made.gather():
        num_procs = _num_procs(made, found, command, asked)
    num_ranks = found.num_pods * num_procs
    if not 1 <= num_ranks <= MAX_RANKS:
        made.complain(found.pods_path, f"{num_ranks} ranks are asked for, must be 1 to {MAX_RANKS}")
        num_ranks = 1
    training = None
    with made.gather():
        training = _training(made, command, found, name, num_ranks)
    raise_all(made.found)
    assert training is not None
    notes = [*found.notes, *env.notes, *gpu_notes]
    if found.pod is not None:
        notes += pods.field_notes(made, found.pod_path, found.pod, found.path, is_training=True)
        notes += pods.sidecar_notes(made, found.pod_path, found.pod, _place(found.path), runs="the trainer")
        notes += pods.volume_notes(made, found.pod_path, found.pod, None)
    elif found.container.get("image"):
        notes.append(made.note((*found.path, "image"), f"image: {pods.TRAINER_IMAGE}"))
    if found.num_pods > 1:
        told = f"{found.num_pods} {'nodes' if found.pod is None else 'pods'}"
        notes.append(made.note(found.pods_path, f"{told}: all {num_ranks} ranks run on this machine"))
    metadata = look.mapping(made.obj, "metadata")
    return TrainingJob(
        name=name,
        kind=made.kind,
        training=training,
        namespace=look.text(metadata, "namespace") or "default",
        labels=strings(metadata.get("labels")),
        annotations=strings(metadata.get("annotations")),
        num_ranks=num_ranks,
        min_ranks=min(num_ranks, max(1, found.min_pods * num_procs)) if training.is_elastic else num_ranks,
        resources=_of_rank(asked, num_procs),
        env=dict(env.values),
        is_suspended=found.is_suspended,
        not_honoured=tuple(dict.fromkeys(notes)),
        manifest=made.obj,
    )


def _training(made: Document, command: TrainingCommand, found: _Pods, name: str, num_ranks: int) -> Training:
    settings = read_settings(made, command, found.path)
    try:
        training = from_args((), base={**(found.base or {}), "name": name, **settings})
        check_ranks(training, num_ranks)
    except SettingError as error:
        written = [path for word, path in zip(command.words, command.paths, strict=True) if _names(word) == error.key]
        at = written[-1] if written else (*found.path, "args")
        raise made.error(at, error.message, hint=error.hint) from None
    if settings.get("name", name) != name:
        raise made.error((*found.path, "args"), f"name = {settings['name']!r}, and metadata.name is {name!r}",
                         hint="leave the setting out: a run is known by metadata.name")  # fmt: skip
    return training


def _names(word: str) -> str:
    return word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") else ""


def _num_procs(made: Document, found: _Pods, command: TrainingCommand, asked: Resources) -> int:
    """Processes of each pod: what the field says, else torchrun, else one for each of its GPUs."""
    said, path = found.procs, found.procs_path
    if said is None and "nproc-per-node" in command.launcher:
        said, path = command.launcher["nproc-per-node"], found.path
    if said in (None, "auto", "gpu", "cpu"):  # torchrun's words; a TrainJob's field takes a number alone
        return max(1, asked.num_gpus) if said != "cpu" else 1
    try:
        number = int(str(said))
        if number < 1:
            raise ValueError
    except ValueError:
        raise made.error(path, f"{_last(path)} = {said!r}, must be a whole number of at least 1, or auto") from None
    if asked.num_gpus and asked.num_gpus % number:
        raise made.error(path, f"{asked.num_gpus} GPUs do not divide by {number} processes")
    return number


def _of_rank(asked: Resources, num_procs: int) -> Resources:
    return replace(
        asked,
        cpu=asked.cpu / num_procs,
        memory_bytes=asked.memory_bytes // num_procs,
        num_gpus=asked.num_gpus // num_procs,
    )


def _notes(made: Document, path: Path, obj: Mapping[str, Any], why: Mapping[str, str]) -> tuple[FieldNote, ...]:
    return tuple(made.note((*path, key), f"{key}: {text}") for key, text in why.items() if obj.get(key))


def _place(path: Path) -> int | None:
    return path[-1] if isinstance(path[-1], int) else None


def _last(path: Path) -> str:
    return str(path[-1]) if path and isinstance(path[-1], str) else "nproc-per-node"
