"""Why a run waits, counted over the fleet: what of its quota is left, and how many of its pods the domain with most
room takes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from ironloom.backends.kubernetes.names import QUEUE
from ironloom.backends.kubernetes.queue_levels import cluster_queue_of, flavors_of
from ironloom.backends.kubernetes.render.training import RUN_LABEL
from ironloom.fleet.model import ClusterQueue, Flavor, Fleet, FleetPod
from ironloom.place.affinity import ENDED
from ironloom.place.domains import Room, rooms
from ironloom.place.fit import NodeFit, fit
from ironloom.workload import look
from ironloom.workload.kinds import workloads_of
from ironloom.workload.manifests import dump_yaml, read_text
from ironloom.workload.workload import PodSet

JOB_SET = "jobset"
"""Source of a wish: JobSet's exclusive placement."""
JOB_KEY = "jobset.sigs.k8s.io/job-key"
"""On each pod of a JobSet: which of its jobs it belongs to."""
ANOTHERS = "node(s) in a domain of another job's own"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRoom:
    """How much of a run the fleet takes now."""

    num_pods: int
    num_fitting: int
    """Of its pods, as far as nodes decide."""
    refusals: str
    """Why the other nodes take none, as kube-scheduler says it; empty where each takes some."""
    level: str = ""
    """Node label of the level that all must share; empty where they need not."""
    best: Room | None = None
    """The domain of that level that takes most of them."""
    num_domains: int = 1
    """Of that level; all nodes are one where there is none."""
    resource: str = ""
    num_wanted: int = 0
    """GPUs of all its pods."""
    num_left: int | None = None
    """GPUs that its queue's flavors still have; None where it is in no queue, or where that is not known."""
    queue: str = ""

    @property
    def num_together(self) -> int:
        """Pods that could start at once: in one domain where they must share one."""
        return min(self.num_pods, self.best.num_pods if self.best is not None else self.num_fitting)

    def sentences(self) -> Iterator[str]:
        """What is short, in words; nothing where all would fit."""
        if self.num_left is not None and self.num_left < self.num_wanted:
            yield (
                f"quota: queue {self.queue} has {self.num_left} {self.resource} left, and the run asks for "
                f"{self.num_wanted}"
            )
        if self.num_together < self.num_pods:
            if self.best is not None:
                where = "no domain"
                if self.best.value:
                    where = f"{self.best.value}, the {self.level} with most room of {self.num_domains},"
                yield f"room: {where} takes {self.num_together} of its {self.num_pods} pods"
            else:
                yield f"room: {self.num_together} of its {self.num_pods} pods fit"
            if self.refusals:
                yield f"nodes: {self.refusals}"


def room_of(
    owner: Mapping[str, Any], fleet: Fleet, namespace: str, *, group: Mapping[str, Any] | None = None
) -> RunRoom:
    """The room of a run's object, as applied, with the PodGroup of its pods where it has one. Its own pods count as
    gone."""
    name = look.text(owner, "metadata", "name")
    [workload] = workloads_of(read_text(dump_yaml(dict(owner)), "run")).workloads
    pods = max(workload.pod_sets, key=lambda one: one.gpus()[1] * one.num_pods)
    queue = look.text(owner, "metadata", "labels", QUEUE)
    cluster_queue = cluster_queue_of(fleet, namespace, queue)
    flavors = flavors_of(fleet, cluster_queue)
    found = _fit(pods, fleet, namespace, name, flavors)
    wish = next((one for one in pods.topology if one.is_required and one.key), None)
    level = _level_of(group) or (wish.key if wish is not None else "")
    if wish is not None and wish.source == JOB_SET:
        found = _outside_of(found, _taken(fleet, level, namespace, name), fleet, level)
    domains = rooms(fleet, level, found) if level else ()
    resource, number = pods.gpus()
    return RunRoom(
        num_pods=pods.num_pods,
        num_fitting=min(pods.num_pods, found.num_pods),
        refusals=str(found) if found.excluded else "",
        level=level,
        best=next(iter(domains), Room("", 0, 0)) if level else None,
        num_domains=len(domains) if level else 1,
        resource=resource,
        num_wanted=number * pods.num_pods,
        num_left=_quota_left(cluster_queue, resource),
        queue=queue,
    )


def _taken(fleet: Fleet, level: str, namespace: str, name: str) -> frozenset[str]:
    """Domains that a job of another JobSet is in: exclusive placement keeps away from them.

    Source: https://github.com/kubernetes-sigs/jobset/blob/v0.12.0/pkg/webhooks/pod_webhook.go (the anti-affinity)
    """
    domain_of = {node.name: node.labels.get(level, "") for node in fleet.nodes}
    own = (namespace, name)
    others = (
        pod
        for pod in fleet.pods
        if JOB_KEY in pod.labels and pod.phase not in ENDED and (pod.namespace, pod.labels.get(RUN_LABEL)) != own
    )
    return frozenset(domain_of.get(pod.node, "") for pod in others) - {""}


def _outside_of(found: NodeFit, taken: frozenset[str], fleet: Fleet, level: str) -> NodeFit:
    """The same without the nodes of some domains."""
    inside = {node.name for node in fleet.nodes if node.labels.get(level) in taken} & found.pods_by_node.keys()
    if not inside:
        return found
    left = {name: number for name, number in found.pods_by_node.items() if name not in inside}
    return replace(found, pods_by_node=left, excluded={**found.excluded, ANOTHERS: len(inside)})


def _level_of(group: Mapping[str, Any] | None) -> str:
    """Node label of the level that a PodGroup's pods must share; empty where they need not."""
    wanted = look.mappings(group or {}, "spec", "schedulingConstraints", "topology")
    return next((look.text(one, "key") for _, one in wanted), "")


def _fit(pods: PodSet, fleet: Fleet, namespace: str, name: str, flavors: list[Flavor]) -> NodeFit:
    """Where they fit, on the nodes of the first of the queue's flavors; on any where there is none."""

    def is_its_own(pod: FleetPod) -> bool:
        return pod.namespace == namespace and pod.labels.get(RUN_LABEL) == name

    if not flavors:
        return fit(pods, fleet, namespace=namespace, ignored=is_its_own)
    flavor = flavors[0]
    selector = {**look.mapping(pods.spec, "nodeSelector"), **flavor.node_labels}
    narrowed = replace(pods, spec={**pods.spec, "nodeSelector": selector})
    return fit(narrowed, fleet, namespace=namespace, tolerations=flavor.tolerations, ignored=is_its_own)


def _quota_left(found: ClusterQueue | None, resource: str) -> int | None:
    """Of a queue in no cohort, where nothing can be borrowed: its own quotas less what they hold."""
    if found is None or found.cohort:
        return None
    quotas = [quota for quota in found.quotas if quota.resource == resource]
    return max((max(0, quota.nominal - quota.used) for quota in quotas), default=None)
