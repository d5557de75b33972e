"""How a run is best written for a cluster: which kind, who holds the gang together, which topology, fabric and taints.
Pure: a decision over the run's pods, what the cluster serves, and its fleet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ironloom.backends.kubernetes.capabilities import Capabilities
from ironloom.backends.kubernetes.names import QUEUE
from ironloom.backends.kubernetes.queue_levels import finest, queue_levels
from ironloom.backends.kubernetes.render.plain import HF_SECRET
from ironloom.backends.kubernetes.render.training import Gang, Setting, Target
from ironloom.backends.kubernetes.training_output import lasting_mount
from ironloom.backends.kubernetes.training_pods import RunPods, gpus_of
from ironloom.backends.kubernetes.wiring import Wiring, gpu_nodes, wiring_of
from ironloom.errors import UsageError
from ironloom.fleet.model import Fleet, FleetNode, Taint
from ironloom.place.fit import PASSING_TAINTS
from ironloom.place.selectors import tolerates
from ironloom.workload import look

DEFAULT_QUEUE = "default"
"""Kueue gives the LocalQueue of this name to jobs that name none.

Source: https://kueue.sigs.k8s.io/docs/tasks/manage/enforce_job_management/setup_default_local_queue/"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What the user says beside the manifest."""

    namespace: str
    queue: str = ""
    topology: str = ""
    """Node label of a level that all pods must share; empty to prefer the finest."""
    image: str = ""


def setting_of(
    run: RunPods, wish: Wish, capabilities: Capabilities, fleet: Fleet, *, has_pod_groups: bool = False
) -> Setting:
    """The setting, with notes of what was chosen and what is lost. Raises UsageError for a queue or a level that is not
    there.

    `has_pod_groups`: a trial has shown that a PodGroup is taken; that its kind is served says less.
    """
    notes: list[str] = []
    target = _target(run, capabilities, fleet, wish.namespace, notes)
    queue = _queue(run, wish, capabilities, fleet, notes)
    key = _level(wish, fleet, queue)
    gang = _gang(run, wish, capabilities, target, queue, has_pod_groups=has_pod_groups)
    spec, (resource, num_gpus) = run.template["spec"], gpus_of(run.trainer)
    nodes = gpu_nodes(spec, resource, num_gpus, fleet)
    wiring = wiring_of(spec, resource, num_gpus, fleet, wish.namespace) if run.num_nodes > 1 else Wiring()
    tolerations = tuple(_toleration(one) for one in taints_in_the_way(run, nodes))
    if gang is Gang.KUEUE:
        notes.append(f"queue {queue}{_topology_said(key, wish)}")
    elif gang is Gang.POD_GROUP:
        notes.append(f"a PodGroup holds its {run.num_nodes} pods together")
    elif gang is Gang.EXCLUSIVE:
        notes.append(f"JobSet gives it one {key} to itself; its pods are still placed one by one")
    elif run.num_nodes > 1:
        notes.append(
            "no gang: its pods are placed one by one, and those that found a node hold it while the others wait"
        )
    notes += _order_said(run, gang, target, key, nodes, fleet, is_required=bool(wish.topology))
    if wish.topology and gang is Gang.NONE:
        raise UsageError(
            f"Nothing in the cluster keeps pods together by {wish.topology}: neither Kueue nor JobSet nor PodGroups.",
            hint="leave --topology out, or install Kueue",
        )
    notes += wiring.notes()
    if run.is_elastic:
        notes.append("is_elastic is not honoured: a run in a cluster has the pods that it asks for")
    if not fleet.nodes:
        notes.append("no node is known: no fabric is asked for and no taint tolerated but what the manifest says")
    if tolerations:
        notes.append(f"tolerates {', '.join(str(one['key']) for one in tolerations)}, as all its GPU nodes want")
    has_secret = fleet.has("/Secret", HF_SECRET, wish.namespace) is True
    return Setting(
        target=target,
        namespace=wish.namespace,
        gang=gang,
        queue=queue,
        topology_key=key,
        is_topology_required=bool(wish.topology),
        fabric=wiring.fabric,
        tolerations=tolerations,
        has_hf_secret=has_secret,
        may_lock_memory=wiring.may_lock_memory,
        image=wish.image,
        notes=(*notes, *_storage(run)),
    )


def taints_in_the_way(run: RunPods, nodes: Sequence[FleetNode]) -> list[Taint]:
    """The lasting taints of these nodes, where each of them has one: then nothing could run without a toleration. Where
    some node has none, the others' taints keep it off on purpose."""
    given = look.entries(run.template["spec"], "tolerations")
    found: dict[tuple[str, str, str], Taint] = {}
    for node in nodes:
        lasting = [
            taint
            for taint in node.taints
            if taint.effect in {"NoSchedule", "NoExecute"}
            and not taint.key.startswith(PASSING_TAINTS)
            and not tolerates(given, taint)
        ]
        if not lasting:
            return []
        found.update({(one.key, one.value, one.effect): one for one in lasting})
    common = [one for one in found.values() if all(one in node.taints for node in nodes)]
    return sorted(common, key=lambda one: (one.key, one.effect))


def _toleration(taint: Taint) -> dict[str, str]:
    if not taint.value:
        return {"key": taint.key, "operator": "Exists", "effect": taint.effect}
    return {"key": taint.key, "operator": "Equal", "value": taint.value, "effect": taint.effect}


def _target(run: RunPods, has: Capabilities, fleet: Fleet, namespace: str, notes: list[str]) -> Target:
    if run.kind == Target.TRAIN_JOB and has.has("Kubeflow Trainer"):
        kind, name = run.runtime
        where = namespace if kind == "TrainingRuntime" else ""
        if fleet.has(f"trainer.kubeflow.org/{kind}", name, where) is not False:
            return Target.TRAIN_JOB
        notes.append(f"Kubeflow Trainer has no {kind} {name}, so that it would make nothing of the TrainJob")
    if run.kind == Target.PYTORCH_JOB and has.has("Training Operator"):
        return Target.PYTORCH_JOB
    if run.kind == Target.PYTORCH_JOB:
        absence = has.absence("Training Operator")
        notes.append(f"{absence}: the PyTorchJob becomes what is there, master and workers of one template")
    if run.kind == Target.TRAIN_JOB and not has.has("Kubeflow Trainer"):
        notes += has.lost(["Kubeflow Trainer"])
    if has.has("JobSet"):
        return Target.JOB_SET
    notes += has.lost(["JobSet"])
    return Target.JOB


def _queue(run: RunPods, wish: Wish, has: Capabilities, fleet: Fleet, notes: list[str]) -> str:
    """The LocalQueue that admits it; empty where none does."""
    there = sorted(one.name for one in fleet.local_queues if one.namespace == wish.namespace)
    named = wish.queue or run.labels.get(QUEUE, "")
    if not has.has("Kueue"):
        if named:
            notes.append(f"queue {named} is not honoured: {has.why_without('Kueue')}")
        else:
            notes += has.lost(["Kueue"])
        return ""
    if named:
        if named not in there and (there or fleet.nodes):  # without either nothing of the cluster could be read
            raise UsageError(
                f"There is no LocalQueue {named} in namespace {wish.namespace}.",
                hint=f"there is {', '.join(there)}" if there else "the namespace has none",
            )
        return named
    if DEFAULT_QUEUE in there:
        return DEFAULT_QUEUE
    if there:
        notes.append(f"in no queue: --queue names one of {', '.join(there)}")
    return ""


def _level(wish: Wish, fleet: Fleet, queue: str) -> str:
    """The node label of the level: the one that is wanted, else the finest above the host of the queue's topology."""
    levels = queue_levels(fleet, wish.namespace, queue)
    if wish.topology:
        if queue and wish.topology not in levels and fleet.nodes:
            raise UsageError(
                f"The topology of queue {queue} has no level {wish.topology}.",
                hint=f"its levels are {', '.join(levels)}" if levels else "its flavors name no topology",
            )
        if fleet.nodes and not any(wish.topology in node.labels for node in fleet.nodes):
            raise UsageError(f"No node has the label {wish.topology}.")
        return wish.topology
    return finest(levels)


def _gang(run: RunPods, wish: Wish, has: Capabilities, target: Target, queue: str, *, has_pod_groups: bool) -> Gang:
    if queue:
        return Gang.KUEUE  # also of one pod: the queue is its quota
    if run.num_nodes < 2:
        return Gang.NONE
    if has_pod_groups and target in (Target.JOB, Target.JOB_SET):
        return Gang.POD_GROUP
    if wish.topology and target is Target.JOB_SET and has.has("JobSet"):
        return Gang.EXCLUSIVE
    return Gang.NONE


def _topology_said(key: str, wish: Wish) -> str:
    if not key:
        return ""
    return f", all pods in one {key}" if wish.topology else f", in one {key} where there is room"


def _order_said(
    run: RunPods, gang: Gang, target: Target, key: str, nodes: Sequence[FleetNode], fleet: Fleet, *, is_required: bool
) -> list[str]:
    """Whether ranks that are neighbours are so in the network. Kueue binds the pods of one Job in the order of their
    completion indices to its domains, which it sorts by the values of all levels; the scheduler's PodGroups and
    JobSet's exclusive placement know no ranks, and a pod, whose rank is its index, does not see its node's labels.

    Source: https://github.com/kubernetes-sigs/kueue/blob/v0.19.2/pkg/controller/tas/topology_ungater.go"""
    if run.num_nodes < 2:
        return []
    if gang is Gang.KUEUE and key and target is not Target.PYTORCH_JOB:
        return [f"ranks in the order of {key}: Kueue fills its domains one after the other by the pods' numbers"]
    finest_key = fleet.levels[-1].key if fleet.levels else ""
    if (is_required and key == finest_key) or len({node.labels.get(finest_key) for node in nodes}) < 2:
        return []
    return [f"nobody orders ranks by {finest_key}: where pods lie in several, a ring crosses between them more often"]


def _storage(run: RunPods) -> list[str]:
    """That checkpoints go with their pod, where no volume holds the output folder."""
    if not run.output or "://" in run.output or lasting_mount(run) is not None:
        return []
    return [
        f"no volume holds {run.output}: checkpoints end with their pod, and a restart begins anew (--volume CLAIM=PATH)"
    ]
