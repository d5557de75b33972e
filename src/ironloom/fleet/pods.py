"""Pods of Kubernetes as FleetPods."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import msgspec

from ironloom.fleet import objects
from ironloom.fleet.amounts import requests_of
from ironloom.fleet.model import NONE, FleetPod

ENDED = frozenset({"Succeeded", "Failed"})
"""Phases in which a pod holds nothing any more."""
_GROUP_LABELS = (
    "jobset.sigs.k8s.io/jobset-name",
    "kueue.x-k8s.io/pod-group-name",
    "training.kubeflow.org/job-name",
    "ray.io/cluster",
    "pod-group.scheduling.sigs.k8s.io",
    "scheduling.x-k8s.io/pod-group",
)
"""Labels that name what a pod is placed together with."""
_GROUP_ANNOTATIONS = ("pod-group-name", "scheduling.k8s.io/group-name", "scheduling.volcano.sh/group-name")
"""Annotations that do: KAI's, Volcano's."""
_IN_EACH = b"group-name"
_ESCAPE = b"\\u"
"""A letter may be written by its number: then nothing follows from the bytes."""
_LWS = "leaderworkerset.sigs.k8s.io/name"
_LWS_GROUP = "leaderworkerset.sigs.k8s.io/group-index"


def pod_of(pod: objects.Pod) -> FleetPod | None:
    """One pod; None for one that has ended. Raises ValueError when one of its amounts is no quantity."""
    metadata, spec, status = pod.metadata, pod.spec, pod.status
    phase = (status.phase if status is not None else None) or ""
    if phase in ENDED:
        return None
    namespace = metadata.namespace or "default"
    labels = metadata.labels or NONE
    if spec is None:
        return FleetPod(namespace=namespace, name=metadata.name or "", phase=phase, labels=labels)
    return FleetPod(
        namespace=namespace,
        name=metadata.name or "",
        node=spec.nodeName or "",
        phase=phase,
        requests=requests_of(spec, status),
        labels=labels,
        owner=_owner(bytes(metadata.ownerReferences)),
        priority=spec.priority or 0,
        priority_class=spec.priorityClassName or "",
        scheduling_gates=tuple(gate.name for gate in spec.schedulingGates) if spec.schedulingGates else (),
        workload=_workload(namespace, labels, metadata.annotations, spec),
    )


@lru_cache(maxsize=65_536)
def _owner(written: bytes) -> str:
    for owner in (objects.decode_owners(written) if written else None) or ():
        if owner.controller:
            return f"{owner.kind}/{owner.name}"
    return ""


def _workload(namespace: str, labels: Mapping[str, str], annotations: msgspec.Raw, spec: objects.PodSpec) -> str:
    """`namespace/name` of the gang; empty for a pod of its own. A leader-worker set is one gang a group, which has the
    name of its leader."""
    if spec.schedulingGroup is not None and spec.schedulingGroup.podGroupName:
        return f"{namespace}/{spec.schedulingGroup.podGroupName}"
    if spec.workloadRef is not None and spec.workloadRef.name:
        return f"{namespace}/{spec.workloadRef.name}"
    if labels:
        if name := labels.get(_LWS):
            group = labels.get(_LWS_GROUP)
            return f"{namespace}/{name}-{group}" if group else f"{namespace}/{name}"
        for key in _GROUP_LABELS:
            if name := labels.get(key):
                return f"{namespace}/{name}"
    written = bytes(annotations)
    if _IN_EACH in written or _ESCAPE in written:
        said = objects.decode_texts(written) or NONE
        for key in _GROUP_ANNOTATIONS:
            if name := said.get(key):
                return f"{namespace}/{name}"
    return ""
