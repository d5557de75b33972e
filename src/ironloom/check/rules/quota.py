"""Whether Kueue will ever have quota for a workload: amounts, resources, flavors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.labels import wanted_labels
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.check.rules.queue_examples import CLUSTER_QUEUE_DOCS, job
from ironloom.check.rules.resources import amount_said, resource_path
from ironloom.fleet.model import ClusterQueue, Flavor, Fleet
from ironloom.place.selectors import matches_node, tolerates
from ironloom.workload.workload import PodSet, Workload


@rule(
    id="IL603",
    name="request-exceeds-quota",
    family="queue",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a workload that asks for more than its queue could ever give",
    why="Kueue admits a workload whole. When one set of its pods needs more of a resource than the flavor's nominal "
    "quota and all that may be borrowed from the cohort, it waits for ever, with "
    "`insufficient quota`.",
    bad=job(num_pods=12),
    good=job(num_pods=4),
    sources=(
        CLUSTER_QUEUE_DOCS,
        Source(
            "https://github.com/kubernetes-sigs/kueue/blob/main/pkg/cache/scheduler/resource_node.go",
            "how much a queue could have: potentialAvailable",
        ),
        Source("https://github.com/kubernetes-sigs/kueue/issues/4580", "users ask beforehand whether it will fit"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=4), **examples.queues(gpus=64)),
)
def request_exceeds_quota(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    queue = pods.cluster_queue(workload, fleet) if fleet is not None else None
    if fleet is None or queue is None or _is_elastic(workload):
        return
    for pod_set in workload.pod_sets:
        number = _num_admitted(workload, pod_set)
        for resource, amount in pod_set.requests.items():
            quotas = [quota for quota in queue.quotas if quota.resource == resource]
            most = [found for quota in quotas if (found := capacity(queue, fleet, quota.flavor, resource)) is not None]
            if not most or not amount or len(most) < len(quotas):
                continue
            best = max(most)
            quota = quotas[most.index(best)]
            total = amount * number
            if total <= best:
                continue
            borrowed = best - quota.nominal
            yield problem(
                workload.document,
                resource_path(pod_set, resource),
                f"the {workload.kind} needs {amount_said(resource, total)} at once, and queue {workload.queue} can "
                f"have at most {amount_said(resource, best)}",
                evidence=(
                    f"{number} pods × {amount_said(resource, amount)} = {amount_said(resource, total)}",
                    f"ClusterQueue {queue.name}, flavor {quota.flavor}: nominal {amount_said(resource, quota.nominal)}"
                    + (
                        f" + {amount_said(resource, borrowed)} that may be borrowed" if borrowed else ", none to borrow"
                    ),
                ),
            )


def _num_admitted(workload: Workload, pod_set: PodSet) -> int:
    """Pods that Kueue admits at once: a Deployment's one by one, a StatefulSet's as one group."""
    if workload.kind == "StatefulSet":
        return pod_set.num_pods * max(1, workload.replicas.min)
    return 1 if workload.kind == "Deployment" else pod_set.num_pods


def _is_elastic(workload: Workload) -> bool:
    """Whether it may be admitted with fewer pods than it asks for."""
    annotations = look.mapping(workload.document.obj, ("metadata", "annotations"))
    return any(key in annotations for key in ("kueue.x-k8s.io/job-min-parallelism", "kueue.x-k8s.io/elastic-job"))


def capacity(queue: ClusterQueue, fleet: Fleet, flavor: str, resource: str) -> int | None:
    """The most that a queue could ever have of a resource in a flavor: its nominal quota and what its cohort could
    lend, at most its borrowing limit. None where the cohort is a Cohort object, whose quota is not known here.

    Source: https://github.com/kubernetes-sigs/kueue/blob/main/pkg/cache/scheduler/resource_node.go
    """
    own = next((one for one in queue.quotas if (one.flavor, one.resource) == (flavor, resource)), None)
    if own is None:
        return 0
    if not queue.cohort:
        return own.nominal
    if fleet.has("kueue.x-k8s.io/Cohort", queue.cohort):
        return None
    lendable = sum(
        quota.nominal if quota.lending_limit is None else min(quota.nominal, quota.lending_limit)
        for other in fleet.cluster_queues
        if other.cohort == queue.cohort and other.name != queue.name
        for quota in other.quotas
        if (quota.flavor, quota.resource) == (flavor, resource)
    )
    if own.borrowing_limit is not None:
        lendable = min(lendable, own.borrowing_limit)
    return own.nominal + lendable


@rule(
    id="IL604",
    name="resource-without-quota",
    family="queue",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a resource that the queue does not cover",
    why="Kueue counts everything that a pod asks for. One resource that the ClusterQueue does not list in "
    "coveredResources (rdma/ib, ephemeral-storage, cpu) makes the whole workload inadmissible: `resource … "
    "unavailable in ClusterQueue`.",
    bad=job(limits="\n            rdma/ib: 1"),
    good=job(),
    sources=(
        CLUSTER_QUEUE_DOCS,
        Source("https://github.com/kubernetes-sigs/kueue/issues/4848", "ephemeral-storage unavailable in ClusterQueue"),
    ),
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=4), **examples.queues(gpus=64)),
)
def resource_without_quota(workload: Workload, context: Context) -> Iterator[Problem]:
    queue, covered = _covered(workload, context)
    if not covered:
        return
    for pod_set in workload.pod_sets:
        for resource, amount in pod_set.requests.items():
            if amount and resource not in covered and not _is_summed(resource, covered):
                yield problem(
                    workload.document,
                    resource_path(pod_set, resource),
                    f"ClusterQueue {queue} has no quota of {resource}: the {workload.kind} is inadmissible",
                    evidence=(f"it covers {', '.join(sorted(covered))}",),
                    help=f"add {resource} to coveredResources of the ClusterQueue, or exclude it in Kueue's config",
                    # Kueue's config may exclude resources by prefix, and that is not seen.
                    confidence=Confidence.LIKELY,
                )


def _is_summed(resource: str, covered: frozenset[str]) -> bool:
    """Whether the queue has quota of what Kueue's config probably makes of it: `…/total-gpumem` of `…/gpumem`.

    Source: https://kueue.sigs.k8s.io/docs/tasks/run/using_hami/ (resources.transformations)
    """
    domain, _, name = resource.rpartition("/")
    return any(one.startswith(f"{domain}/") and one.endswith(f"-{name}") for one in covered) if domain else False


def _covered(workload: Workload, context: Context) -> tuple[str, frozenset[str]]:
    """The workload's ClusterQueue and the resources that it has quota of: the fleet's, else one of this run; nothing
    where neither has it."""
    if context.fleet is not None:
        known = pods.cluster_queue(workload, context.fleet)
        if known is not None:
            return known.name, frozenset(quota.resource for quota in known.quotas)
    file = workload.document.file
    local = context.nearest("LocalQueue", workload.queue, workload.namespace, file) if workload.queue else None
    name = look.text(local.obj, ("spec", "clusterQueue")) if local is not None else ""
    queue = context.nearest("ClusterQueue", name, "", file) if name else None
    groups = look.entries(queue.obj, ("spec", "resourceGroups")) if queue is not None else []
    covered = (resource for group in groups for resource in look.entries(group, ("coveredResources",)))
    return name, frozenset(str(resource) for resource in covered)


@rule(
    id="IL605",
    name="no-flavor-takes-the-pods",
    family="queue",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a selector or taint by which every flavor of the queue refuses the pods",
    why="Kueue assigns a flavor whose node labels agree with the pods' selector and whose taints they tolerate. When "
    "none does, the workload is inadmissible, with `doesn't match node "
    "affinity` or `untolerated taint`.",
    bad=job(extra="\n      nodeSelector:\n        backend.coreweave.cloud/flavor: roce"),
    good=job(extra="\n      nodeSelector:\n        backend.coreweave.cloud/flavor: infiniband"),
    sources=(
        Source("https://kueue.sigs.k8s.io/docs/concepts/resource_flavor/", "labels and taints of a flavor"),
        Source(
            "https://github.com/kubernetes-sigs/kueue/blob/main/pkg/scheduler/flavorassigner/flavorassigner.go",
            "only the flavor's own label keys are compared",
        ),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=4), **examples.queues(gpus=64)),
)
def no_flavor_takes_the_pods(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    queue = pods.cluster_queue(workload, fleet) if fleet is not None else None
    if fleet is None or queue is None:
        return
    known = {flavor.name: flavor for flavor in fleet.flavors}
    for pod_set in workload.pod_sets:
        resource, number = pod_set.gpus()
        names = [quota.flavor for quota in queue.quotas if quota.resource == resource]
        why = {name: _refusal(pod_set, known[name]) for name in names if name in known}
        if not number or not names or len(why) < len(names) or not all(why.values()):
            continue
        wanted = list(wanted_labels(pod_set))
        yield problem(
            workload.document,
            wanted[0].path if wanted and any("affinity" in one for one in why.values()) else pod_set.path,
            f"no flavor of ClusterQueue {queue.name} takes the pods",
            at_key=True,
            evidence=tuple(why.values()),
        )


def _refusal(pod_set: PodSet, flavor: Flavor) -> str:
    """Why a flavor refuses the pods, in Kueue's words; empty where it takes them."""
    own = look.entries(pod_set.spec, ("tolerations",))
    for taint in flavor.node_taints:
        if taint.effect in ("NoSchedule", "NoExecute") and not tolerates([*own, *flavor.tolerations], taint):
            return f"untolerated taint {{{taint.key}: {taint.value}}} in flavor {flavor.name}"
    selector = look.mapping(pod_set.spec, ("nodeSelector",))
    wrong = [
        f"{key}={value}" for key, value in selector.items() if key in flavor.node_labels
        and flavor.node_labels[key] != value
    ]  # fmt: skip
    if wrong or not _affinity_takes(pod_set.spec, flavor):
        labels = ", ".join(f"{key}={value}" for key, value in flavor.node_labels.items())
        return f"flavor {flavor.name} doesn't match node affinity: its labels are {labels}"
    return ""


def _affinity_takes(spec: Mapping[str, Any], flavor: Flavor) -> bool:
    path = ("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
    kept = []
    for term in look.entries(spec, path):
        own = [
            one for one in look.entries(term, ("matchExpressions",)) if look.text(one, ("key",)) in flavor.node_labels
        ]
        if not own:
            return True  # a term that says nothing of the flavor's labels takes any
        kept.append({"matchExpressions": own})
    return not kept or matches_node(kept, flavor.node_labels, "")
