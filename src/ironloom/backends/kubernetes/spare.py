"""Whether a rollout finds GPUs for a new replica beside the old ones. Pure: over a service's object and the fleet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ironloom.backends.kubernetes.names import SERVICE_LABEL
from ironloom.fleet.model import Fleet, FleetPod
from ironloom.place.fit import fit
from ironloom.workload.kinds import workloads_of
from ironloom.workload.manifests.document import document
from ironloom.workload.manifests.nodes import from_object


def why_no_spare(made: Mapping[str, Any], fleet: Fleet, *, service: str, min_replicas: int) -> str:
    """Why no replica fits beside those that are there or are wanted at least; empty where one does, where its pods ask
    for no GPU, and where no node is known. `made` is the object that its pods are made of."""
    if not fleet.nodes:
        return ""
    namespace = str(made["metadata"].get("namespace") or "default")

    def is_its_own(pod: FleetPod) -> bool:
        return pod.namespace == namespace and pod.labels.get(SERVICE_LABEL) == service

    [workload] = workloads_of([document(from_object(dict(made)), service)]).workloads[:1]
    pods = max(workload.pod_sets, key=lambda one: one.gpus()[1])
    resource, per_pod = pods.gpus()
    if not per_pod:
        return ""
    num_bound = sum(is_its_own(pod) and bool(pod.node) for pod in fleet.pods)
    wanted = max(1, min_replicas, num_bound // workload.num_pods) + 1
    room = fit(pods, fleet, namespace=namespace, ignored=is_its_own).num_pods // workload.num_pods
    if room >= wanted:
        return ""
    asks = f"{per_pod * workload.num_pods} {resource}"
    return f"the nodes have room for {room} of its replicas of {asks}, and a rollout beside the old one takes {wanted}"
