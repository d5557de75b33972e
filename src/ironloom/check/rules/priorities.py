"""Whether the priority that a workload names is there."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.check import look
from ironloom.check.finding import Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.check.rules.queue_examples import job
from ironloom.fleet.model import PriorityClass
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.workload import Workload

PRIORITY = "kueue.x-k8s.io/priority-class"
BUILT_IN = frozenset({"system-cluster-critical", "system-node-critical"})


@rule(
    id="IL609",
    name="priority-class-unknown",
    family="queue",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a priority class that the cluster does not have",
    why="Admission refuses a pod that names a PriorityClass which does not exist: the controller makes none, and the "
    "job stays at 0 pods. Kueue refuses a Workload with an unknown WorkloadPriorityClass in the same way.",
    bad=job(extra="\n      priorityClassName: production"),
    good=job(extra="\n      priorityClassName: prod"),
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
