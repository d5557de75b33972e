"""Whether the queue that a workload names is there and takes it in."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.check import edits, look, pods
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.check.rules.queue_examples import CLUSTER_QUEUE_DOCS, LABEL, QUEUE_DOCS, job
from ironloom.place.selectors import matches_labels
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.workload import Workload

MANAGED = frozenset({"Job", "JobSet", "MPIJob", "RayJob", "RayCluster", "TrainJob", "LeaderWorkerSet"})
"""Kinds that Kueue manages as it is shipped, and that want GPUs for a time. Pods, Deployments and StatefulSets are
managed too, and serve more often than not."""


@rule(
    id="IL601",
    name="queue-label-missing",
    family="queue",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a GPU job without a queue in a namespace that has one",
    why="A job without the label passes Kueue by: it takes GPUs that the queues count as theirs, so that admitted jobs "
    "find no room. Where Kueue manages jobs without a name too, the job is suspended and nobody ever admits it.",
    bad=job(queue=""),
    good=job(),
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
    owners = look.entries(workload.document.obj, ("metadata", "ownerReferences"))
    if any(look.at(owner, ("controller",)) is True for owner in owners):
        return  # the object that it was made from carries the label
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
    bad=job(queue="team-b"),
    good=job(),
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
    id="IL606",
    name="queue-stopped",
    family="queue",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a queue that is held, or whose ClusterQueue is not active",
    why="A LocalQueue or ClusterQueue with stopPolicy Hold admits nothing new; HoldAndDrain evicts what runs besides. "
    "A ClusterQueue is inactive when a flavor, an admission check or a topology that it names is missing.",
    bad=job(),
    good=job(queue="team-b"),
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
    bad=job(queue="team-a"),
    good=job(queue="team-b"),
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
    bad=job(queue="team-a"),
    good=job(queue="team-b"),
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
