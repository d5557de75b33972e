"""Whether Kueue will ever admit a workload: its queue, the quota behind it, the flavors, the priority."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import edits, look, pods
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.check.rules.resources import amount_said, resource_path
from ironloom.check.rules.selection import wanted_labels
from ironloom.fleet.model import ClusterQueue, Flavor, Fleet, PriorityClass
from ironloom.place.selectors import matches_labels, matches_node, tolerates
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.workload import PodSet, Workload

LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY = "kueue.x-k8s.io/priority-class"
MANAGED = frozenset({"Job", "JobSet", "MPIJob", "RayJob", "RayCluster", "TrainJob", "LeaderWorkerSet"})
"""Kinds that Kueue manages as it is shipped, and that want GPUs for a time. Pods, Deployments and StatefulSets are
managed too, and serve more often than not."""
BUILT_IN = frozenset({"system-cluster-critical", "system-node-critical"})
QUEUE_DOCS = Source("https://kueue.sigs.k8s.io/docs/concepts/local_queue/", "the label on the job names a LocalQueue")
CLUSTER_QUEUE_DOCS = Source(
    "https://kueue.sigs.k8s.io/docs/concepts/cluster_queue/", "quota, covered resources, cohorts, namespaceSelector"
)

_JOB = """\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
  namespace: research{labels}
spec:
  parallelism: {pods}
  completions: {pods}
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never{extra}
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        resources:
          limits:
            nvidia.com/gpu: 8{limits}
"""


def _job(queue: str = "team-a", num_pods: int = 2, limits: str = "", extra: str = "") -> str:
    labels = f"\n  labels:\n    {LABEL}: {queue}" if queue else ""
    return _JOB.format(labels=labels, pods=num_pods, limits=limits, extra=extra)


@rule(
    id="IL601",
    name="queue-label-missing",
    family="queue",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a GPU job without a queue in a namespace that has one",
    why="A job without the label passes Kueue by: it takes GPUs that the queues count as theirs, so that admitted jobs "
    "find no room. Where Kueue manages jobs without a name too, the job is suspended and nobody ever admits it.",
    bad=_job(queue=""),
    good=_job(),
    sources=(
        QUEUE_DOCS,
        Source("https://github.com/kubernetes-sigs/kueue/issues/3637", "jobs without a queue name pass it by"),
        Source("https://github.com/kubernetes-sigs/kueue/issues/5048", "or stay suspended"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=4), **examples.queues(gpus=64)),
)
def queue_label_missing(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None or workload.queue or workload.kind not in MANAGED or not workload.namespace:
        return
    if workload.document.obj.get("metadata", {}).get("ownerReferences"):
        return  # its owner carries the label
    there = [one for one in fleet.local_queues if one.namespace == workload.namespace]
    if not there or any(one.name == "default" for one in there):
        return  # a queue named default is given to jobs that name none
    if not any(pod_set.gpus()[1] for pod_set in workload.pod_sets):
        return
    only = there[0].name if len(there) == 1 else ""
    labels = look.mapping(workload.document.obj, ("metadata", "labels"))
    if labels:
        edit = edits.add_first(workload.document, ("metadata", "labels"), [f"{LABEL}: {only}"])
    else:
        edit = edits.add_first(workload.document, ("metadata",), ["labels:", f"  {LABEL}: {only}"])
    names = ", ".join(sorted(one.name for one in there))
    yield problem(
        workload.document,
        ("metadata",),
        f"namespace {workload.namespace} has queues, and the {workload.kind} names none",
        at_key=True,
        evidence=(f"LocalQueues of {workload.namespace}: {names}",),
        help=f"label it {LABEL}: {only or 'QUEUE'}",
        patch=Patch(title=f"queue it in {only}", edits=(edit,), is_safe=False) if edit is not None and only else None,
        confidence=Confidence.LIKELY,
    )


@rule(
    id="IL602",
    name="queue-unknown",
    family="queue",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a queue that its namespace does not have",
    why="Kueue suspends the job and waits for a LocalQueue of that name in the job's own namespace. Nothing fails, and "
    "nothing runs: the Workload says `LocalQueue … doesn't exist`.",
    bad=_job(queue="team-b"),
    good=_job(),
    sources=(QUEUE_DOCS, Source("https://github.com/kubernetes-sigs/kueue/issues/13374", "a job that hangs unseen")),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=4), **examples.queues(gpus=64)),
)
def queue_unknown(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None or not workload.queue or not fleet.local_queues:
        return
    own = [one for one in fleet.local_queues if not workload.namespace or one.namespace == workload.namespace]
    if any(one.name == workload.queue for one in own):
        return
    if context.named("LocalQueue", workload.queue, workload.namespace) is not None:
        return
    elsewhere = sorted({one.namespace for one in fleet.local_queues if one.name == workload.queue})
    near = nearest(workload.queue, {one.name for one in own})
    edit = edits.replace(workload.document, workload.queue_path, edits.scalar(near)) if near else None
    place = f"namespace {workload.namespace}" if workload.namespace else "the cluster"
    yield problem(
        workload.document,
        workload.queue_path,
        f"{place} has no LocalQueue {workload.queue}: the {workload.kind} is never admitted",
        evidence=(
            f"it has {', '.join(sorted(one.name for one in own)) or 'none'}",
            *((f"{workload.queue} is in {', '.join(elsewhere)}",) if elsewhere else ()),
        ),
        help=f"did you mean {near}?" if near else "",
        patch=Patch(title=f"queue it in {near}", edits=(edit,), is_safe=False) if edit is not None else None,
    )


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
    bad=_job(num_pods=12),
    good=_job(num_pods=4),
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
    bad=_job(limits="\n            rdma/ib: 1"),
    good=_job(),
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
    local = context.named("LocalQueue", workload.queue, workload.namespace) if workload.queue else None
    name = look.text(local.obj, ("spec", "clusterQueue")) if local is not None else ""
    queue = context.named("ClusterQueue", name, "") if name else None
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
    bad=_job(extra="\n      nodeSelector:\n        backend.coreweave.cloud/flavor: roce"),
    good=_job(extra="\n      nodeSelector:\n        backend.coreweave.cloud/flavor: infiniband"),
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


@rule(
    id="IL606",
    name="queue-stopped",
    family="queue",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a queue that is held, or whose ClusterQueue is not active",
    why="A LocalQueue or ClusterQueue with stopPolicy Hold admits nothing new; HoldAndDrain evicts what runs besides. "
    "A ClusterQueue is inactive when a flavor, an admission check or a topology that it names is missing.",
    bad=_job(),
    good=_job(queue="team-b"),
    sources=(Source("https://kueue.sigs.k8s.io/docs/concepts/cluster_queue/#stoppolicy", "what a stopped queue does"),),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(
        *examples.leaf_groups(a=4), **examples.two_queues(first={"stop_policy": "Hold"})
    ),
)
def queue_stopped(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    local = pods.local_queue(workload, fleet) if fleet is not None and workload.queue else None
    if fleet is None or local is None:
        return
    queue = pods.cluster_queue(workload, fleet)
    stopped = [
        f"{kind} {one.name}: stopPolicy {one.stop_policy}"
        for kind, one in (("LocalQueue", local), ("ClusterQueue", queue))
        if one is not None and one.stop_policy in ("Hold", "HoldAndDrain")
    ]
    if not stopped and queue is not None and queue.is_active is False:
        stopped = [f"ClusterQueue {queue.name} is not active"]
    if stopped:
        yield problem(
            workload.document,
            workload.queue_path,
            f"queue {workload.queue} admits nothing now",
            evidence=tuple(stopped),
        )


@rule(
    id="IL607",
    name="cluster-queue-missing",
    family="queue",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a LocalQueue in front of a ClusterQueue that is not there",
    why="A LocalQueue only points: its ClusterQueue has the quota. Where that was never made, or was renamed, what is "
    "queued waits without a reason that its owner can see.",
    bad=_job(queue="team-a"),
    good=_job(queue="team-b"),
    sources=(QUEUE_DOCS, CLUSTER_QUEUE_DOCS),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=4), **examples.two_queues(first=None)),
)
def cluster_queue_missing(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    local = pods.local_queue(workload, fleet) if fleet is not None and workload.queue else None
    if fleet is None or local is None or not fleet.cluster_queues:
        return
    if any(one.name == local.cluster_queue for one in fleet.cluster_queues):
        return
    if context.named("ClusterQueue", local.cluster_queue, "") is not None:
        return
    near = nearest(local.cluster_queue, {one.name for one in fleet.cluster_queues})
    yield problem(
        workload.document,
        workload.queue_path,
        f"LocalQueue {local.name} points to ClusterQueue {local.cluster_queue}, which is not there",
        evidence=(f"there are {', '.join(sorted(one.name for one in fleet.cluster_queues))}",),
        help=f"did you mean {near}?" if near else "",
    )


@rule(
    id="IL608",
    name="namespace-not-admitted",
    family="queue",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a namespace that the ClusterQueue's namespaceSelector leaves out",
    why="A ClusterQueue admits workloads of the namespaces that its selector matches, and of none when it has no "
    "selector. The workload is inadmissible: `namespace doesn't match ClusterQueue selector`.",
    bad=_job(queue="team-a"),
    good=_job(queue="team-b"),
    sources=(
        Source(
            "https://kueue.sigs.k8s.io/docs/concepts/cluster_queue/#namespace-selector", "which namespaces it takes"
        ),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(
        *examples.leaf_groups(a=4),
        **examples.two_queues(first={"namespace_selector": {"matchLabels": {"team": "a"}}}),
    ),
)
def namespace_not_admitted(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    queue = pods.cluster_queue(workload, fleet) if fleet is not None else None
    if fleet is None or queue is None or workload.namespace not in fleet.namespace_labels:
        return
    labels = fleet.namespace_labels[workload.namespace]
    if matches_labels(queue.namespace_selector, labels):
        return
    said = ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "none"
    yield problem(
        workload.document,
        workload.queue_path,
        f"ClusterQueue {queue.name} does not admit workloads of namespace {workload.namespace}",
        evidence=(
            f"its namespaceSelector is {dict(queue.namespace_selector)}"
            if queue.namespace_selector is not None
            else "it has no namespaceSelector, which admits none",
            f"labels of the namespace: {said}",
        ),
    )


@rule(
    id="IL609",
    name="priority-class-unknown",
    family="queue",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a priority class that the cluster does not have",
    why="Admission refuses a pod that names a PriorityClass which does not exist: the controller makes none, and the "
    "job stays at 0 pods. Kueue refuses a Workload with an unknown WorkloadPriorityClass in the same way.",
    bad=_job(extra="\n      priorityClassName: production"),
    good=_job(extra="\n      priorityClassName: prod"),
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/#priorityclass",
            "a pod with an unknown class is refused",
        ),
        Source("https://kueue.sigs.k8s.io/docs/concepts/workload_priority_class/", "the label on the job"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(
        *examples.leaf_groups(a=4),
        **examples.queues(gpus=64),
        priority_classes=(PriorityClass(name="prod", value=1000),),
    ),
)
def priority_class_unknown(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None:
        return
    known = {one.name for one in fleet.priority_classes} | BUILT_IN
    for pod_set in workload.pod_sets:
        name = look.text(pod_set.spec, ("priorityClassName",))
        is_there = name in known or context.named("PriorityClass", name, "") is not None
        if name and fleet.priority_classes and not is_there:
            near = nearest(name, known)
            yield problem(
                workload.document,
                (*pod_set.path, "priorityClassName"),
                f"the cluster has no PriorityClass {name}: no pod is made",
                evidence=(f"it has {', '.join(sorted(one.name for one in fleet.priority_classes))}",),
                help=f"did you mean {near}?" if near else "",
            )
    name = look.text(workload.document.obj, ("metadata", "labels", PRIORITY))
    kind = "kueue.x-k8s.io/WorkloadPriorityClass"
    if name and fleet.has(kind, name) is False and context.named("WorkloadPriorityClass", name, "") is None:
        yield problem(
            workload.document,
            ("metadata", "labels", PRIORITY),
            f"the cluster has no WorkloadPriorityClass {name}",
            evidence=(f"it has {', '.join(sorted(fleet.names[kind])) or 'none'}",),
        )
