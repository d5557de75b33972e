"""A training run as the objects that a cluster's controllers run. Pure: the same run and setting give the same objects.

    target       objects                                     who restarts
    TrainJob     itself, with patches over its runtime       Kubeflow Trainer, through JobSet
    PyTorchJob   itself                                      the Training Operator
    JobSet       a JobSet of one indexed job                 JobSet: all pods at once
    Job          an indexed Job and a headless Service       the Job: each pod that failed

A pod is one of torchrun's nodes. What torchrun is told comes by its own variables (PET_…), the same ones that Trainer
gives: https://docs.pytorch.org/docs/stable/elastic/run.html, https://www.kubeflow.org/docs/components/trainer/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec

from ironloom.backends.kubernetes.names import MANAGED_BY, PREFERRED, QUEUE, REQUIRED
from ironloom.backends.kubernetes.render import containers
from ironloom.backends.kubernetes.render.containers import with_variables
from ironloom.backends.kubernetes.render.fabric import Fabric, wire
from ironloom.backends.kubernetes.render.plain import HF_SECRET, HF_SECRET_KEY
from ironloom.backends.kubernetes.training_pods import NODE, RunPods
from ironloom.errors import UsageError
from ironloom.workload import look
from ironloom.workload.manifests.applied import MANIFEST

Object = dict[str, Any]

RUN_LABEL = "ironloom.dev/run"
"""On every object and pod of a run."""
RANK_LABEL = "batch.kubernetes.io/job-completion-index"
"""Kubernetes writes it on each pod of an indexed Job, as a label and as an annotation: its number."""
EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"
MASTER_PORT = 29500
"""torchrun's own default."""
PATCHES = "ironloom.dev/train"
"""The manager of our entry among a TrainJob's runtimePatches."""
POD_GROUP_API = "scheduling.k8s.io/v1beta1"
MAX_NAME = 63
"""Of a host name, which a pod's name becomes."""
FINAL_STATUSES = (2, 3)
"""Of our program where no torchrun stands before it: a wrong setting, and a bad loss by rule. The same again ends the
same. torchrun itself ends with 1 whatever its processes ended with."""


class Target(StrEnum):
    """The kind that a run becomes."""

    TRAIN_JOB = "TrainJob"
    PYTORCH_JOB = "PyTorchJob"
    JOB_SET = "JobSet"
    JOB = "Job"


class Gang(StrEnum):
    """Who sees to it that all pods start or none."""

    KUEUE = "kueue"
    POD_GROUP = "pod-group"
    EXCLUSIVE = "exclusive"
    """JobSet's exclusive placement: a domain to itself, pods still bound one by one."""
    NONE = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What of the cluster decides how a run is written."""

    target: Target
    namespace: str
    gang: Gang = Gang.NONE
    queue: str = ""
    topology_key: str = ""
    """Node label of the level that the pods are to stay in one domain of; empty for any."""
    is_topology_required: bool = False
    fabric: Fabric | None = None
    tolerations: tuple[Mapping[str, Any], ...] = ()
    has_hf_secret: bool = False
    may_lock_memory: bool = True
    """False where the namespace's pod security forbids the capability."""
    image: str = ""
    """Where the manifest names none."""
    notes: tuple[str, ...] = field(default=())
    """What was chosen, added or lost, in sentences."""


def objects(run: RunPods, setting: Setting) -> list[Object]:
    """The run's objects, the one that owns the others first. Raises UsageError for a run that cannot be written."""
    _check(run, setting)
    made = {
        Target.TRAIN_JOB: _train_job,
        Target.PYTORCH_JOB: _as_written,
        Target.JOB_SET: _job_set if run.kind != Target.JOB_SET else _as_written,
        Target.JOB: _job,
    }[setting.target](run, setting)
    found = [made]
    if setting.target is Target.JOB and run.num_nodes > 1:
        found.append(_service(run, setting))
    if setting.gang is Gang.POD_GROUP:
        found.append(_pod_group(run, setting))
    return found


def master_of(run: RunPods, target: Target) -> str:
    """The host name of rank 0's pod, inside the namespace."""
    if run.num_nodes == 1:
        return "localhost"
    return f"{run.name}-{NODE}-0-0.{run.name}" if target is Target.JOB_SET else f"{run.name}-0.{run.name}"


def _check(run: RunPods, setting: Setting) -> None:
    # JobSet refuses a name whose pods' own ones, five random characters at their end, would be longer than a host's.
    around = f"-{NODE}-0--xxxxx" if setting.target is Target.JOB_SET else "-"
    longest = MAX_NAME - len(around) - len(str(run.num_nodes - 1))
    if setting.target in (Target.JOB_SET, Target.JOB) and len(run.name) > longest:
        raise UsageError(
            f"metadata.name {run.name} has {len(run.name)} characters, and a {setting.target} of {run.num_nodes} pods "
            f"may have {longest}: its pods' names are host names.",
            hint="give the run a shorter name",
        )
    if setting.target in (Target.JOB_SET, Target.JOB) and not (run.trainer.get("image") or setting.image):
        raise UsageError(
            f"{run.kind} {run.name} names no image, and there is no runtime that would.",
            hint="--image NAME, or spec.trainer.image: one with ironloom[train] or your own program in it",
        )


# --- the kinds ---


def _job(run: RunPods, setting: Setting) -> Object:
    template = _template(run, setting)
    if run.num_nodes > 1:
        template["spec"]["subdomain"] = run.name
    template["spec"]["restartPolicy"] = "Never"
    spec: Object = {
        "completionMode": "Indexed",
        "completions": run.num_nodes,
        "parallelism": run.num_nodes,
        # When one pod fails the others lose their peer, and fail after it: an attempt costs up to all of them.
        "backoffLimit": run.max_restarts * run.num_nodes,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": list(_failure_rules(run))},
        "template": template,
    }
    if run.is_suspended:
        spec["suspend"] = True
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": _metadata(run, setting), "spec": spec}


def _failure_rules(run: RunPods) -> Iterator[Object]:
    # A pod that is evicted or preempted did nothing wrong.
    yield {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    if run.output and not run.is_launched:
        codes = {"containerName": run.container, "operator": "In", "values": list(FINAL_STATUSES)}
        yield {"action": "FailJob", "onExitCodes": codes}


def _job_set(run: RunPods, setting: Setting) -> Object:
    template = _template(run, setting)
    template["spec"]["restartPolicy"] = "Never"
    metadata = _metadata(run, setting)
    if setting.gang is Gang.EXCLUSIVE:
        metadata.setdefault("annotations", {})[EXCLUSIVE] = setting.topology_key
    spec: Object = {
        "network": {"enableDNSHostnames": True, "subdomain": run.name, "publishNotReadyAddresses": True},
        # The first pod that fails ends its job, and with it this attempt: all start anew from the last checkpoint.
        # One that was evicted or preempted costs none of the attempts.
        "failurePolicy": {
            "maxRestarts": run.max_restarts,
            "rules": [{"name": "disrupted", "action": "RestartJobSetAndIgnoreMaxRestarts",
                       "onJobFailureReasons": ["PodFailurePolicy"]}],
        },
        "replicatedJobs": [
            {
                "name": NODE,
                "replicas": 1,
                "template": {
                    "spec": {
                        "completionMode": "Indexed",
                        "completions": run.num_nodes,
                        "parallelism": run.num_nodes,
                        "backoffLimit": 0,
                        "podFailurePolicy": {
                            "rules": [{"action": "FailJob",
                                       "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
                        },
                        "template": template,
                    }
                },
            }
        ],
    }  # fmt: skip
    if run.is_suspended:
        spec["suspend"] = True
    return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata, "spec": spec}


def _train_job(run: RunPods, setting: Setting) -> Object:
    """As written, with what the cluster wants over its runtime: a TrainJob has no pod template of its own."""
    made = deepcopy(dict(run.manifest))
    made["metadata"] = _metadata(run, setting)
    spec = made["spec"]
    template = _template(run, setting, has_launch=False)
    container = next(one for one in template["spec"]["containers"] if one["name"] == run.container)
    trainer = spec.setdefault("trainer", {})
    for key in ("image", "env"):
        if container.get(key):
            trainer[key] = container[key]
    if container.get("resources"):
        trainer["resourcesPerNode"] = container["resources"]
    over = {key: container[key] for key in ("volumeMounts", "securityContext") if container.get(key)}
    pod = {key: template["spec"][key] for key in ("volumes", "tolerations") if template["spec"].get(key)}
    patch: Object = {"spec": {**pod, **({"containers": [{"name": NODE, **over}]} if over else {})}}
    if template["metadata"]:
        patch["metadata"] = template["metadata"]
    others = [deepcopy(one) for one in spec.get("runtimePatches") or () if one.get("manager") != PATCHES]
    jobs = [{"name": NODE, "template": {"spec": {"template": patch}}}]
    ours = {"manager": PATCHES, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": jobs}}}}
    spec["runtimePatches"] = [*others, ours]
    return made


def _as_written(run: RunPods, setting: Setting) -> Object:
    """A JobSet or a PyTorchJob: each template whose pods train is completed where it stands; nothing is launched for
    it, its writer or its operator does."""
    made = deepcopy(dict(run.manifest))
    metadata = _metadata(run, setting)
    if setting.gang is Gang.EXCLUSIVE:
        metadata.setdefault("annotations", {})[EXCLUSIVE] = setting.topology_key
    made["metadata"] = metadata
    for template in _templates(made):
        if any(one.get("name") == run.container for one in look.entries(template, "spec", "containers")):
            _complete(template, run, setting)
    return made


def _templates(made: Object) -> Iterator[Object]:
    spec = made["spec"]
    for job in spec.get("replicatedJobs") or ():
        yield job["template"]["spec"]["template"]
    for replica in (spec.get("pytorchReplicaSpecs") or {}).values():
        yield replica["template"]


def _service(run: RunPods, setting: Setting) -> Object:
    """Gives each pod a name; also before it is ready, as ranks look for rank 0 while they start."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": run.name, "namespace": setting.namespace, "labels": _labels(run)},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {RUN_LABEL: run.name},
            "ports": [{"name": "master", "port": MASTER_PORT}],
        },
    }


def _pod_group(run: RunPods, setting: Setting) -> Object:
    spec: Object = {"schedulingPolicy": {"gang": {"minCount": run.num_nodes}}}
    if setting.topology_key and setting.is_topology_required:
        spec["schedulingConstraints"] = {"topology": [{"key": setting.topology_key}]}
    return {
        "apiVersion": POD_GROUP_API,
        "kind": "PodGroup",
        "metadata": {"name": run.name, "namespace": setting.namespace, "labels": _labels(run)},
        "spec": spec,
    }


# --- what all pods get ---


def _labels(run: RunPods) -> dict[str, str]:
    return {**MANAGED_BY, RUN_LABEL: run.name}


def _metadata(run: RunPods, setting: Setting) -> Object:
    labels = {**run.labels, **_labels(run)}
    if setting.gang is Gang.KUEUE:
        labels[QUEUE] = setting.queue
    annotations = dict(run.annotations)
    if setting.target != run.kind:
        annotations[MANIFEST] = msgspec.json.encode(run.manifest).decode()
    return {"name": run.name, "namespace": setting.namespace, "labels": labels} | (
        {"annotations": annotations} if annotations else {}
    )


def _template(run: RunPods, setting: Setting, *, has_launch: bool = True) -> Object:
    template = deepcopy(run.template)
    _complete(template, run, setting)
    if has_launch:
        container = next(one for one in template["spec"]["containers"] if one["name"] == run.container)
        container["env"] = with_variables(container.get("env") or [], launch_variables(run, setting.target))
    return template


def launch_variables(run: RunPods, target: Target) -> list[Object]:
    """What tells a pod's launcher, or its one process where there is none, where it stands among the others."""
    index = {"fieldRef": {"fieldPath": f"metadata.annotations['{RANK_LABEL}']"}}
    master = [
        {"name": "MASTER_ADDR", "value": master_of(run, target)},
        {"name": "MASTER_PORT", "value": str(MASTER_PORT)},
    ]
    if run.is_launched:
        return [
            {"name": "PET_NNODES", "value": str(run.num_nodes)},
            {"name": "PET_NPROC_PER_NODE", "value": str(run.procs_per_node)},
            {"name": "PET_NODE_RANK", "valueFrom": index},
            {"name": "PET_MASTER_ADDR", "value": master[0]["value"]},
            {"name": "PET_MASTER_PORT", "value": str(MASTER_PORT)},
            # An attempt of one pod alone would wait for peers that began none: attempts are the cluster's.
            {"name": "PET_MAX_RESTARTS", "value": "0"},
            *master,
        ]
    return [
        {"name": "WORLD_SIZE", "value": str(run.num_nodes)},
        {"name": "RANK", "valueFrom": index},
        {"name": "LOCAL_RANK", "value": "0"},
        *master,
    ]


def _complete(template: Object, run: RunPods, setting: Setting) -> None:
    """What a GPU's pod needs and manifests forget; what is written stays as it is written."""
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), RUN_LABEL: run.name}
    annotations = dict(metadata.get("annotations") or {})
    if setting.gang is Gang.KUEUE and setting.topology_key and not _has_topology(annotations):
        annotations[REQUIRED if setting.is_topology_required else PREFERRED] = setting.topology_key
    if annotations:
        metadata["annotations"] = annotations
    pod = template["spec"]
    if setting.gang is Gang.POD_GROUP:
        pod.setdefault("schedulingGroup", {"podGroupName": run.name})
    containers.tolerate(pod, setting.tolerations)
    container = next(one for one in pod["containers"] if one.get("name") == run.container)
    if setting.image:
        container.setdefault("image", setting.image)
    containers.share_memory(pod, container)
    if setting.has_hf_secret:
        source = {"secretKeyRef": {"name": HF_SECRET, "key": HF_SECRET_KEY, "optional": True}}
        container["env"] = with_variables(container.get("env") or [], [{"name": "HF_TOKEN", "valueFrom": source}])
    if setting.fabric is not None:
        wire(container, setting.fabric, may_lock_memory=setting.may_lock_memory)


def _has_topology(annotations: Mapping[str, str]) -> bool:
    return any(key.startswith("kueue.x-k8s.io/podset-") for key in annotations)
