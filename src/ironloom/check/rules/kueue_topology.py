"""Annotations of Kueue's topology-aware scheduling and of its pod groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import look, pods
from ironloom.check.finding import Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Workload


@rule(
    id="IL228",
    name="topology-annotation-misplaced",
    family="gang",
    severity=Severity.WARNING,
    subject=Document,
    summary="Kueue's podset-… annotation on the job and not on its pod template",
    why="Kueue reads the topology of a set of pods from the pod template's annotations. On the job itself the "
    "annotation is accepted, read by nobody, and the pods are spread over the fleet without a word.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
  labels:
    kueue.x-k8s.io/queue-name: team-a
  annotations:
    kueue.x-k8s.io/podset-required-topology: cloud.provider.com/topology-rack
spec:
  parallelism: 2
  completions: 2
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    good="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
  labels:
    kueue.x-k8s.io/queue-name: team-a
spec:
  parallelism: 2
  completions: 2
  template:
    metadata:
      annotations:
        kueue.x-k8s.io/podset-required-topology: cloud.provider.com/topology-rack
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(
        Source(
            "https://kueue.sigs.k8s.io/docs/concepts/topology_aware_scheduling/#user-facing-apis",
            "the annotations stand at the level of the PodTemplate",
        ),
    ),
)
def topology_annotation_misplaced(document: Document, _context: Context) -> Iterator[Problem]:
    templates = {
        "Job", "JobSet", "Deployment", "StatefulSet", "LeaderWorkerSet", "MPIJob", "PyTorchJob", "RayCluster", "RayJob",
    }  # fmt: skip
    if document.kind not in templates:
        return
    for key in look.mapping(document.obj, ("metadata", "annotations")):
        if key.startswith("kueue.x-k8s.io/podset-"):
            yield problem(
                document,
                ("metadata", "annotations", key),
                f"{key} counts on a pod template; on the {document.kind} nobody reads it",
                at_key=True,
                help="move it to the pod template's metadata.annotations",
            )


@rule(
    id="IL229",
    name="topology-annotations-clash",
    family="gang",
    severity=Severity.ERROR,
    subject=Workload,
    summary="Kueue's topology annotations that exclude each other, or slices that do not divide the pods",
    why="Kueue refuses a workload with two of required, preferred and unconstrained, with a slice's key or size "
    "alone, or with a slice larger than the set of pods; one whose size does not divide the pods is never placed.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 6
  completions: 6
  completionMode: Indexed
  template:
    metadata:
      annotations:
        kueue.x-k8s.io/podset-preferred-topology: cloud.provider.com/topology-block
        kueue.x-k8s.io/podset-slice-required-topology: cloud.provider.com/topology-rack
        kueue.x-k8s.io/podset-slice-size: "4"
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    good="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 6
  completions: 6
  completionMode: Indexed
  template:
    metadata:
      annotations:
        kueue.x-k8s.io/podset-preferred-topology: cloud.provider.com/topology-block
        kueue.x-k8s.io/podset-slice-required-topology: cloud.provider.com/topology-rack
        kueue.x-k8s.io/podset-slice-size: "3"
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(
        Source(
            "https://github.com/kubernetes-sigs/kueue/blob/main/pkg/controller/jobframework/tas_validation.go",
            "what the webhook refuses",
        ),
        Source("https://kueue.sigs.k8s.io/docs/concepts/topology_aware_scheduling/", "slices"),
    ),
)
def topology_annotations_clash(workload: Workload, _context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        base: Path = (*pod_set.metadata_path, "annotations")
        given = look.mapping(workload.document.obj, base)
        for key, message in _clashes(given, pod_set.num_pods if workload.kind != "StatefulSet" else 0):
            yield problem(workload.document, (*base, key), message, at_key=True)


def _clashes(given: Mapping[str, Any], num_pods: int) -> Iterator[tuple[str, str]]:
    """(annotation, what is wrong) of a template's annotations."""
    start = "kueue.x-k8s.io/podset-"
    kinds = [name for name in ("required", "preferred", "unconstrained") if f"{start}{name}-topology" in given]
    if len(kinds) > 1:
        yield f"{start}{kinds[1]}-topology", f"{' and '.join(kinds)} topology exclude each other: Kueue refuses the job"
    slice_key, slice_size = f"{start}slice-required-topology", f"{start}slice-size"
    layers = f"{start}slice-required-topology-constraints"
    if layers in given and (slice_key in given or slice_size in given):
        yield layers, "slices in layers exclude podset-slice-required-topology and podset-slice-size"
    if slice_key in given and slice_size not in given:
        yield slice_key, "a slice needs its size: podset-slice-size is missing"
    if slice_size not in given:
        return
    if slice_key not in given:
        yield slice_size, "a slice's size needs its level: podset-slice-required-topology is missing"
    size = pods.whole(str(given[slice_size]))
    if size is None or size < 1:
        yield slice_size, f"podset-slice-size {given[slice_size]} is no whole number of at least 1"
    elif num_pods and size > num_pods:
        yield slice_size, f"a slice of {size} pods is larger than the set of {num_pods}"
    elif num_pods and num_pods % size:
        rest = f"{num_pods} mod {size} = {num_pods % size}"
        yield slice_size, f"{num_pods} pods are no whole number of slices of {size} ({rest})"


@rule(
    id="IL230",
    name="pod-group-count-missing",
    family="gang",
    severity=Severity.ERROR,
    subject=Document,
    summary="a Kueue pod group without its total count, or the count without the group",
    why="Kueue's pod integration gathers a group until as many pods as pod-group-total-count says are there. With one "
    "of the two missing its webhook refuses the pod.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: w0
  labels:
    kueue.x-k8s.io/queue-name: team-a
    kueue.x-k8s.io/pod-group-name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: w0
  labels:
    kueue.x-k8s.io/queue-name: team-a
    kueue.x-k8s.io/pod-group-name: train
  annotations:
    kueue.x-k8s.io/pod-group-total-count: "2"
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(Source("https://kueue.sigs.k8s.io/docs/tasks/run/plain_pods/", "a group has its label and its count"),),
)
def pod_group_count_missing(document: Document, _context: Context) -> Iterator[Problem]:
    if document.kind != "Pod" or document.api_version != "v1":
        return
    group, count = "kueue.x-k8s.io/pod-group-name", "kueue.x-k8s.io/pod-group-total-count"
    labels = look.mapping(document.obj, ("metadata", "labels"))
    annotations = look.mapping(document.obj, ("metadata", "annotations"))
    if group in labels and count not in annotations:
        yield problem(
            document,
            ("metadata", "labels", group),
            f"the annotation {count} is missing: Kueue refuses a pod of a group without it",
            at_key=True,
        )
    elif count in annotations and group not in labels and group not in annotations:
        yield problem(
            document,
            ("metadata", "annotations", count),
            f"the label {group} is missing: Kueue refuses a pod with a count and no group",
            at_key=True,
        )


@rule(
    id="IL231",
    name="topology-not-of-the-queue",
    family="gang",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a topology annotation whose key is no level of the queue's topology, or a queue without one",
    why="Kueue places by topology only in flavors that name a Topology, and only at its levels. Otherwise the "
    "workload is inadmissible (`does not support TopologyAwareScheduling`, `does not contain the "
    "requested level`) and stays so.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
  namespace: research
  labels:
    kueue.x-k8s.io/queue-name: team-a
spec:
  parallelism: 2
  completions: 2
  template:
    metadata:
      annotations:
        kueue.x-k8s.io/podset-required-topology: node.coreweave.cloud/rack
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    good="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
  namespace: research
  labels:
    kueue.x-k8s.io/queue-name: team-a
spec:
  parallelism: 2
  completions: 2
  template:
    metadata:
      annotations:
        kueue.x-k8s.io/podset-required-topology: backend.coreweave.cloud/leafgroup
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(
        Source("https://kueue.sigs.k8s.io/docs/concepts/topology_aware_scheduling/", "topologyName and levels"),
        Source("https://github.com/kubernetes-sigs/kueue/issues/5039", "a level that the nodes or the topology lack"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=4), **examples.queues(gpus=64)),
)
def topology_not_of_the_queue(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None or (not fleet.topologies and not fleet.flavors):
        return
    flavors = list(pods.flavors_of(workload, fleet))
    if not flavors:
        return
    levels = {one.name: one.levels for one in fleet.topologies}
    named = [flavor for flavor in flavors if flavor.topology]
    for pod_set in workload.pod_sets:
        for wish in pod_set.topology:
            if wish.source != "kueue" or not wish.key:
                continue
            if not named:
                yield problem(
                    workload.document,
                    wish.path,
                    f"queue {workload.queue} has no flavor with a topology: the job is inadmissible",
                    evidence=(f"flavors of it: {', '.join(one.name for one in flavors)}, none with topologyName",),
                )
                continue
            known = [key for flavor in named for key in levels.get(flavor.topology, ())]
            if wish.key not in known and all(flavor.topology in levels for flavor in named):
                yield problem(
                    workload.document,
                    wish.path,
                    f"{wish.key} is no level of the topology of queue {workload.queue}",
                    evidence=tuple(f"{flavor.topology}: {' > '.join(levels[flavor.topology])}" for flavor in named),
                )
