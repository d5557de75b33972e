"""Pod groups that stand beside a workload, and what they say of it: that it is a gang, and where it stands together.

Sources: https://kubernetes.io/docs/concepts/workloads/workload-api/ (scheduling.k8s.io),
https://github.com/kubernetes-sigs/scheduler-plugins/tree/master/pkg/coscheduling,
https://volcano.sh/en/docs/podgroup/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from ironloom.workload import look
from ironloom.workload.kinds import wishes
from ironloom.workload.kinds.around import Around
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import PodSet, TopologyWish, Workload

API = "scheduling.k8s.io"
COSCHEDULING = ("scheduling.x-k8s.io/pod-group", "pod-group.scheduling.sigs.k8s.io")
VOLCANO = "scheduling.k8s.io/group-name"


def grouped(found: Workload, around: Around) -> Workload:
    """The workload with what the groups that its pods name say of it. A group that is not there is taken for a gang:
    naming one means that."""
    pod_sets = []
    is_gang = found.is_gang
    for pods in found.pod_sets:
        group = _named(pods)
        if group is None:
            pod_sets.append(pods)
            continue
        is_one, topology = _said(group, found.namespace, around)
        is_gang = is_gang or is_one
        pod_sets.append(replace(pods, topology=(*pods.topology, *topology)) if topology else pods)
    return replace(found, is_gang=is_gang, pod_sets=tuple(pod_sets))


def is_grouped(found: Workload) -> bool:
    """Whether pods of it name a group."""
    return any(_named(pods) is not None for pods in found.pod_sets)


def _named(pods: PodSet) -> tuple[str, str, str, Path] | None:
    """(system, name, template, where) of the group that pods name."""
    spec = pods.spec
    if "workloadRef" in spec:
        path: Path = (*pods.path, "workloadRef")
        name = look.text(spec, "workloadRef", "name")
        return ("workload", name, look.text(spec, "workloadRef", "podGroup"), path) if name else None
    if "schedulingGroup" in spec:
        path = (*pods.path, "schedulingGroup", "podGroupName")
        name = look.text(spec, "schedulingGroup", "podGroupName")
        return ("pod-group", name, "", path) if name else None
    for label in COSCHEDULING:
        if label in pods.labels:
            return "coscheduling", pods.labels[label], "", (*pods.metadata_path, "labels", label)
    if VOLCANO in pods.annotations:
        return "volcano", pods.annotations[VOLCANO], "", (*pods.metadata_path, "annotations", VOLCANO)
    return None


def _said(group: tuple[str, str, str, Path], namespace: str, around: Around) -> tuple[bool, tuple[TopologyWish, ...]]:
    """Whether the group is a gang, and its wishes, which stand where the pods name it."""
    system, name, template, path = group
    spec: Mapping[str, Any] | None = None
    if system == "workload":
        spec = _template(around.named(API, "Workload", name, namespace), template)
    else:
        places = {"pod-group": API, "coscheduling": "scheduling.x-k8s.io", "volcano": "scheduling.volcano.sh"}
        document = around.named(places[system], "PodGroup", name, namespace)
        spec = look.mapping(document.obj, "spec") if document is not None else None
    if spec is None:
        return True, ()
    found = (
        *wishes.of_constraints(look.mapping(spec, "schedulingConstraints"), path),
        *wishes.of_volcano(look.mapping(spec, "networkTopology"), path),
    )
    made = tuple(replace(wish, path=path) for wish in found)
    if system in {"coscheduling", "volcano"}:
        return look.count(spec, "minMember") > 1, made
    policies = (look.mapping(spec, "schedulingPolicy"), look.mapping(spec, "policy"))
    return any("gang" in policy for policy in policies), made


def _template(document: Document | None, name: str) -> Mapping[str, Any] | None:
    """The pod group of a Workload: v1alpha1 calls them podGroups, later versions podGroupTemplates."""
    for field in ("podGroupTemplates", "podGroups"):
        for _, one in look.mappings(document.obj, "spec", field) if document is not None else ():
            if look.text(one, "name") == name:
                return one
    return None
