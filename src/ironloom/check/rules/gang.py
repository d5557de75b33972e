"""Whether something starts the pods of a gang all together, or none of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import PodSet, Workload

GANG_KEYS = (
    "scheduling.x-k8s.io/pod-group",
    "pod-group.scheduling.sigs.k8s.io",
    "scheduling.k8s.io/group-name",
    "kueue.x-k8s.io/pod-group-name",
    "yunikorn.apache.org/task-group-name",
)
_POD_GROUPS = frozenset({"scheduling.x-k8s.io", "scheduling.volcano.sh", "scheduling.run.ai", "scheduling.k8s.io"})


@rule(
    id="IL220",
    name="gang-may-start-in-part",
    family="gang",
    severity=Severity.NOTE,
    subject=Workload,
    summary="pods that wait for each other, and nothing that starts them all or none",
    why="The plain scheduler places pod by pod. When the fleet is short, some pods of a gang take their GPUs and wait "
    "for the others, idle and billed; two such gangs can wait for each other for ever. A queue (Kueue), a gang "
    "scheduler (Volcano, KAI) or a pod group places all of them or none.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 4
  completions: 4
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=4, --nproc-per-node=8, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    good="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
  labels:
    kueue.x-k8s.io/queue-name: team-a
spec:
  parallelism: 4
  completions: 4
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=4, --nproc-per-node=8, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(
        Source("https://github.com/kubeflow/trainer/issues/165", "two jobs that each hold a part of the GPUs"),
        Source("https://kueue.sigs.k8s.io/docs/tasks/manage/setup_wait_for_pods_ready/", "all or nothing in Kueue"),
    ),
)
def gang_may_start_in_part(workload: Workload, _context: Context) -> Iterator[Problem]:
    gpus = sum(pod_set.num_pods * pod_set.gpus()[1] for pod_set in workload.pod_sets)
    if not pods.is_together(workload) or not gpus or workload.queue or _is_ganged(workload):
        return
    yield problem(
        workload.document,
        ("metadata",),
        f"nothing starts the {workload.num_pods} pods of the gang together: some may hold GPUs and wait for the rest",
        evidence=(f"{gpus} GPUs in {workload.num_pods} pods; no queue, pod group or gang scheduler is named",),
        help="name a queue (label kueue.x-k8s.io/queue-name) or a gang scheduler; ignore this where one sees to it",
        confidence=Confidence.POSSIBLE,
    )


def _is_ganged(workload: Workload) -> bool:
    """Whether something is named that places all the pods or none."""
    metadata = look.mapping(workload.document.obj, ("metadata",))
    annotations = {**look.mapping(metadata, ("annotations",)), **look.mapping(metadata, ("labels",))}
    if any(key in annotations for key in (*GANG_KEYS, "kai.scheduler/queue", "scheduling.volcano.sh/queue-name")):
        return True
    spec = workload.document.obj.get("spec")
    if any(look.at(spec, path) for path in (("podGroupPolicy",), ("runPolicy", "schedulingPolicy"))):
        return True
    for pod_set in workload.pod_sets:
        named = {**pod_set.labels, **pod_set.annotations}
        if look.text(pod_set.spec, ("schedulerName",)) not in ("", "default-scheduler"):
            return True
        if (
            pod_set.spec.get("schedulingGroup")
            or pod_set.spec.get("workloadRef")
            or pod_set.spec.get("schedulingGates")
        ):
            return True
        if any(key in named for key in GANG_KEYS):
            return True
    return False


@rule(
    id="IL225",
    name="pod-group-larger-than-its-pods",
    family="gang",
    severity=Severity.ERROR,
    subject=Document,
    summary="a pod group that waits for more pods than join it",
    why="A pod group lets its pods go when minMember of them can be placed. When fewer pods than that carry its name, "
    "it waits for ever, and none of them starts.",
    bad="""\
apiVersion: scheduling.x-k8s.io/v1alpha1
kind: PodGroup
metadata:
  name: train
spec:
  minMember: 4
---
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 2
  completions: 2
  template:
    metadata:
      labels:
        scheduling.x-k8s.io/pod-group: train
    spec:
      restartPolicy: Never
      schedulerName: scheduler-plugins-scheduler
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    good="""\
apiVersion: scheduling.x-k8s.io/v1alpha1
kind: PodGroup
metadata:
  name: train
spec:
  minMember: 2
---
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 2
  completions: 2
  template:
    metadata:
      labels:
        scheduling.x-k8s.io/pod-group: train
    spec:
      restartPolicy: Never
      schedulerName: scheduler-plugins-scheduler
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(
        Source(
            "https://github.com/kubernetes-sigs/scheduler-plugins/blob/master/pkg/coscheduling/README.md",
            "what minMember waits for",
        ),
        Source("https://volcano.sh/en/docs/podgroup/", "minMember of Volcano's group"),
    ),
)
def pod_group_larger_than_its_pods(document: Document, context: Context) -> Iterator[Problem]:
    if document.kind != "PodGroup" or look.group(document) not in _POD_GROUPS:
        return
    path: Path = ("spec", "minMember")
    wanted = look.integer(document.obj, path)
    if wanted is None:
        path = ("spec", "schedulingPolicy", "gang", "minCount")
        wanted = look.integer(document.obj, path)
    members = _members(context).get(document.name, ())
    if wanted is None or not members or any(workload.replicas.max is None for workload, _ in members):
        return
    number = sum(
        pod_set.num_pods * max(workload.replicas.min, workload.replicas.max or 0) for workload, pod_set in members
    )
    if number < wanted:
        said = ", ".join(f"{workload.kind} {workload.name}: {pod_set.num_pods}" for workload, pod_set in members)
        yield problem(
            document,
            path,
            f"the group waits for {wanted} pods, and {number} join it",
            evidence=(f"pods that name it: {said}",),
        )


def _members(context: Context) -> Mapping[str, Sequence[tuple[Workload, PodSet]]]:
    """The pods of the run by the groups that they name."""
    if "members" not in context.memo:
        found: dict[str, list[tuple[Workload, PodSet]]] = {}
        for workload in context.workloads:
            for pod_set in workload.pod_sets:
                for name in _groups_of(pod_set):
                    found.setdefault(name, []).append((workload, pod_set))
        context.memo["members"] = found
    members: Mapping[str, Sequence[tuple[Workload, PodSet]]] = context.memo["members"]
    return members


def _groups_of(pod_set: PodSet) -> set[str]:
    named = {**pod_set.labels, **pod_set.annotations}
    found = {named[key] for key in GANG_KEYS if key in named}
    return found | {look.text(pod_set.spec, ("schedulingGroup", "podGroupName"))} - {""}
