"""Kueue's own objects: what its webhooks refuse, and what they accept and never admit anything by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import edits, look, pods
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.units import parse_quantity
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.suggest import nearest

GROUP = "kueue.x-k8s.io"
HOST = "kubernetes.io/hostname"
LABEL = "kueue.x-k8s.io/queue-name"
WEBHOOK = Source(
    "https://github.com/kubernetes-sigs/kueue/blob/main/pkg/webhooks/clusterqueue_webhook.go", "what it refuses"
)
TYPES = Source(
    "https://github.com/kubernetes-sigs/kueue/blob/main/apis/kueue/v1beta2/clusterqueue_types.go",
    "rules of the definition",
)
DOCS = "https://kueue.sigs.k8s.io/docs/concepts/"

_QUEUE = """\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata:
  name: team-a
spec:
  namespaceSelector: {{}}{spec}
  resourceGroups:
  - coveredResources: [{covered}]
    flavors:
    - name: h100
      resources:
      - name: cpu
        nominalQuota: 512
      - name: nvidia.com/gpu
        nominalQuota: 64{quota}
"""


def _queue(spec: str = "", covered: str = "cpu, nvidia.com/gpu", quota: str = "") -> str:
    return _QUEUE.format(spec=spec, covered=covered, quota=quota)


def _is(document: Document, kind: str) -> bool:
    return document.kind == kind and look.group(document) == GROUP


def _cohort(document: Document) -> str:
    return look.text(document.obj, ("spec", "cohortName")) or look.text(document.obj, ("spec", "cohort"))


def _quotas(document: Document) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Each resource of each flavor of a ClusterQueue, with its path."""
    for i, group in enumerate(look.entries(document.obj, ("spec", "resourceGroups"))):
        for j, flavor in enumerate(look.entries(group, ("flavors",))):
            for k, one in enumerate(look.entries(flavor, ("resources",))):
                if isinstance(one, Mapping):
                    yield ("spec", "resourceGroups", i, "flavors", j, "resources", k), one


@rule(
    id="IL620",
    name="limit-without-cohort",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a borrowing or lending limit in a ClusterQueue of no cohort",
    why="Queues borrow from and lend to their cohort. Without one the limits have no meaning, and the API server "
    "refuses the ClusterQueue.",
    bad=_queue(quota="\n        borrowingLimit: 32"),
    good=_queue(spec="\n  cohortName: research", quota="\n        borrowingLimit: 32"),
    sources=(TYPES, Source(f"{DOCS}cluster_queue/#borrowinglimit", "what may be borrowed, and of whom")),
)
def limit_without_cohort(document: Document, _context: Context) -> Iterator[Problem]:
    if not _is(document, "ClusterQueue") or _cohort(document):
        return
    for path, one in _quotas(document):
        for key in ("borrowingLimit", "lendingLimit"):
            if one.get(key) is not None:
                yield problem(
                    document,
                    (*path, key),
                    f"{key} without a cohort is refused",
                    at_key=True,
                    help="name a cohort, or leave the limit out",
                )


@rule(
    id="IL621",
    name="quota-not-as-covered",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a flavor whose resources are not the covered ones, in their order",
    why="Every flavor of a resource group has a quota of each of its coveredResources, in the same order. With one "
    "more, one fewer or another order Kueue refuses the ClusterQueue.",
    bad=_queue(covered="nvidia.com/gpu, cpu"),
    good=_queue(),
    sources=(WEBHOOK, TYPES),
)
def quota_not_as_covered(document: Document, _context: Context) -> Iterator[Problem]:
    if not _is(document, "ClusterQueue"):
        return
    for i, group in enumerate(look.entries(document.obj, ("spec", "resourceGroups"))):
        covered = look.entries(group, ("coveredResources",))
        for j, flavor in enumerate(look.entries(group, ("flavors",))):
            names = [look.text(one, ("name",)) for one in look.entries(flavor, ("resources",))]
            if not covered or names == covered:
                continue
            path: Path = ("spec", "resourceGroups", i, "flavors", j)
            yield problem(
                document,
                (*path, "resources"),
                f"the resources of flavor {look.text(flavor, ('name',))} are not the covered ones in their order",
                at_key=True,
                evidence=(f"covered: {', '.join(map(str, covered))}", f"the flavor's: {', '.join(names) or 'none'}"),
            )


@rule(
    id="IL622",
    name="lending-above-nominal",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a ClusterQueue that lends more than it has",
    why="What a queue lends is of its own nominal quota. A lendingLimit above it is refused.",
    bad=_queue(spec="\n  cohortName: research", quota="\n        lendingLimit: 128"),
    good=_queue(spec="\n  cohortName: research", quota="\n        lendingLimit: 32"),
    sources=(WEBHOOK,),
)
def lending_above_nominal(document: Document, _context: Context) -> Iterator[Problem]:
    if not _is(document, "ClusterQueue"):
        return
    for path, one in _quotas(document):
        lent, nominal = _amount(one.get("lendingLimit")), _amount(one.get("nominalQuota"))
        if lent is not None and nominal is not None and lent > nominal:
            yield problem(
                document,
                (*path, "lendingLimit"),
                f"lendingLimit {one['lendingLimit']} is above nominalQuota {one['nominalQuota']}, and refused",
            )


def _amount(value: object) -> Any:
    try:
        return parse_quantity(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except ValueError:
        return None


@rule(
    id="IL623",
    name="preemption-contradicts-itself",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="borrowWithinCohort while reclaimWithinCohort is Never",
    why="A queue that may preempt while it borrows must be one that may reclaim: the API server refuses the pair. "
    "reclaimWithinCohort is Never where it is not written.",
    bad=_queue(spec="\n  cohortName: research\n  preemption:\n    borrowWithinCohort:\n      policy: LowerPriority"),
    good=_queue(
        spec="\n  cohortName: research\n  preemption:\n    reclaimWithinCohort: Any\n    borrowWithinCohort:\n"
        "      policy: LowerPriority"
    ),
    sources=(TYPES, Source(f"{DOCS}preemption/", "which preemptions there are")),
)
def preemption_contradicts_itself(document: Document, _context: Context) -> Iterator[Problem]:
    if not _is(document, "ClusterQueue"):
        return
    path: Path = ("spec", "preemption")
    policy = look.text(document.obj, (*path, "borrowWithinCohort", "policy"))
    if policy in ("", "Never") or look.text(document.obj, (*path, "reclaimWithinCohort")) not in ("", "Never"):
        return
    yield problem(
        document,
        (*path, "borrowWithinCohort", "policy"),
        f"borrowWithinCohort {policy} needs reclaimWithinCohort, which is Never",
        help="set reclaimWithinCohort: LowerPriority or Any",
    )


@rule(
    id="IL624",
    name="queue-of-no-namespace",
    family="queue",
    severity=Severity.WARNING,
    subject=Document,
    summary="a ClusterQueue without a namespaceSelector: it admits nothing",
    why="A selector that is not there is null, and null matches no namespace; {} matches all. Every workload of such a "
    "queue is inadmissible.",
    bad=_queue().replace("  namespaceSelector: {}\n", ""),
    good=_queue(),
    sources=(Source(f"{DOCS}cluster_queue/#namespace-selector", "{} is every namespace, null is none"),),
)
def queue_of_no_namespace(document: Document, _context: Context) -> Iterator[Problem]:
    if not _is(document, "ClusterQueue") or not look.mapping(document.obj, ("spec",)):
        return
    if look.at(document.obj, ("spec", "namespaceSelector")) is None:
        edit = edits.add_first(document, ("spec",), ["namespaceSelector: {}"])
        yield problem(
            document,
            ("spec",),
            "the ClusterQueue has no namespaceSelector: it admits workloads of no namespace",
            at_key=True,
            help="namespaceSelector: {} admits all",
            patch=Patch(title="admit all namespaces", edits=(edit,), is_safe=False) if edit is not None else None,
            # Others of its cohort may borrow what it has: it may be meant to admit nothing itself.
            severity=Severity.NOTE if _cohort(document) else None,
        )


@rule(
    id="IL625",
    name="flavor-on-no-node",
    family="queue",
    severity=Severity.WARNING,
    subject=Document,
    summary="a ResourceFlavor whose labels no node has",
    why="Kueue counts quota, not nodes: it admits a workload into the flavor and adds its labels to the pods as a "
    "selector. On no node are they found, so the pods are Pending and hold the quota.",
    bad="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata:
  name: h100
spec:
  nodeLabels:
    node.kubernetes.io/instance-type: gd-8xh100-i128
""",
    good="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata:
  name: h100
spec:
  nodeLabels:
    node.kubernetes.io/instance-type: gd-8xh100ib-i128
""",
    sources=(Source(f"{DOCS}resource_flavor/", "the flavor's labels become a selector of the pods"),),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=2)),
)
def flavor_on_no_node(document: Document, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    labels = look.mapping(document.obj, ("spec", "nodeLabels"))
    if fleet is None or not fleet.nodes or not labels or not _is(document, "ResourceFlavor"):
        return
    if any(labels.items() <= node.labels.items() for node in fleet.nodes) or any(
        pool.num_more != 0 for pool in fleet.pools
    ):
        return
    counts = {key: sum(1 for node in fleet.nodes if node.labels.get(key) == value) for key, value in labels.items()}
    key = min(counts, key=lambda one: counts[one])
    near = nearest(str(labels[key]), {node.labels[key] for node in fleet.nodes if key in node.labels})
    yield problem(
        document,
        ("spec", "nodeLabels", key),
        f"no node has the labels of flavor {document.name}: what is admitted into it stays Pending",
        evidence=tuple(f"{one}={labels[one]}: {count} of {len(fleet.nodes)} nodes" for one, count in counts.items()),
        help=f"did you mean {near}?" if near and near != labels[key] else "",
    )


@rule(
    id="IL626",
    name="topology-flavor-without-labels",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a ResourceFlavor with a topology and without node labels",
    why="The labels say which nodes the topology is of. Without at least one the API server refuses the flavor.",
    bad="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata:
  name: h100
spec:
  topologyName: infiniband
""",
    good="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata:
  name: h100
spec:
  nodeLabels:
    backend.coreweave.cloud/flavor: infiniband
  topologyName: infiniband
""",
    sources=(
        Source(
            "https://github.com/kubernetes-sigs/kueue/blob/main/apis/kueue/v1beta2/resourceflavor_types.go",
            "at least one nodeLabel is required when topology is set",
        ),
    ),
)
def topology_flavor_without_labels(document: Document, _context: Context) -> Iterator[Problem]:
    if not _is(document, "ResourceFlavor") or not look.text(document.obj, ("spec", "topologyName")):
        return
    if not look.mapping(document.obj, ("spec", "nodeLabels")):
        yield problem(
            document,
            ("spec", "topologyName"),
            "a flavor with a topology needs at least one of nodeLabels",
            at_key=True,
        )


@rule(
    id="IL627",
    name="topology-levels-wrong",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a Topology with a level twice, or with the host above another level",
    why="Levels stand from coarse to fine. The host can only be the last, and no label may stand twice: the API server "
    "refuses it otherwise.",
    bad="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: Topology
metadata:
  name: infiniband
spec:
  levels:
  - nodeLabel: kubernetes.io/hostname
  - nodeLabel: backend.coreweave.cloud/leafgroup
""",
    good="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: Topology
metadata:
  name: infiniband
spec:
  levels:
  - nodeLabel: backend.coreweave.cloud/leafgroup
  - nodeLabel: kubernetes.io/hostname
""",
    sources=(
        Source(
            "https://github.com/kubernetes-sigs/kueue/blob/main/apis/kueue/v1beta2/topology_types.go",
            "rules of the definition",
        ),
    ),
)
def topology_levels_wrong(document: Document, _context: Context) -> Iterator[Problem]:
    if not _is(document, "Topology"):
        return
    levels = [look.text(one, ("nodeLabel",)) for one in look.entries(document.obj, ("spec", "levels"))]
    for index, key in enumerate(levels):
        path: Path = ("spec", "levels", index, "nodeLabel")
        if key == HOST and index < len(levels) - 1:
            yield problem(document, path, f"{HOST} can only be the last level", evidence=(" > ".join(levels),))
        elif key and key in levels[:index]:
            yield problem(document, path, f"{key} is a level twice", evidence=(" > ".join(levels),))


@rule(
    id="IL628",
    name="topology-level-on-no-node",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a Topology with a level that no node is labelled with",
    why="A node belongs to a topology only with every label of it. When no node has one of them there is no domain, "
    "and all workloads with topology wait: `no topology domains at level`.",
    bad="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: Topology
metadata:
  name: infiniband
spec:
  levels:
  - nodeLabel: backend.coreweave.cloud/leaf-group
  - nodeLabel: kubernetes.io/hostname
""",
    good="""\
apiVersion: kueue.x-k8s.io/v1beta2
kind: Topology
metadata:
  name: infiniband
spec:
  levels:
  - nodeLabel: backend.coreweave.cloud/leafgroup
  - nodeLabel: kubernetes.io/hostname
""",
    sources=(
        Source("https://github.com/kubernetes-sigs/kueue/issues/5039", "all labels of the topology are required"),
        Source("https://github.com/kubernetes-sigs/kueue/issues/6996", "a label that only some nodes have"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=2)),
)
def topology_level_on_no_node(document: Document, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None or not fleet.nodes or not _is(document, "Topology"):
        return
    for index, one in enumerate(look.entries(document.obj, ("spec", "levels"))):
        key = look.text(one, ("nodeLabel",))
        if not key or any(key in node.labels for node in fleet.nodes):
            continue
        near = nearest(key, {label for node in fleet.nodes for label in node.labels})
        yield problem(
            document,
            ("spec", "levels", index, "nodeLabel"),
            f"no node has the label {key}: the topology has no domain",
            evidence=(f"0/{len(fleet.nodes)} nodes have {key}",),
            help=f"did you mean {near}?" if near else "",
        )


@rule(
    id="IL629",
    name="queue-label-misplaced",
    family="queue",
    severity=Severity.WARNING,
    subject=Document,
    summary="the queue's name as an annotation, or on the pod template of a job",
    why="Kueue reads the label of the job itself. On the pod template, or as an annotation, it is read by nobody: the "
    "job starts at once beside the queue, or is suspended for ever where jobs without a queue are managed too.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  template:
    metadata:
      labels:
        kueue.x-k8s.io/queue-name: team-a
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
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(
        Source("https://kueue.sigs.k8s.io/docs/tasks/run/jobs/", "the label stands in the Job's metadata"),
        Source("https://github.com/kubernetes-sigs/kueue/issues/3637", "a job without the label passes Kueue by"),
    ),
)
def queue_label_misplaced(document: Document, _context: Context) -> Iterator[Problem]:
    jobs = {"Job", "JobSet", "MPIJob", "PyTorchJob", "RayJob", "RayCluster", "LeaderWorkerSet", "TrainJob"}
    if document.kind not in jobs or LABEL in look.mapping(document.obj, ("metadata", "labels")):
        return
    if LABEL in look.mapping(document.obj, ("metadata", "annotations")):
        path: Path = ("metadata", "annotations", LABEL)
        yield problem(document, path, f"{LABEL} is a label; as an annotation nobody reads it", at_key=True)
        return
    found = next(_labelled(document.obj.get("spec"), ("spec",)), None)
    if found is not None:
        yield problem(
            document,
            found,
            f"{LABEL} counts on the {document.kind}; on what is inside it nobody reads it",
            at_key=True,
            help="move it to the object's own metadata.labels",
            confidence=Confidence.LIKELY,
        )


def _labelled(obj: object, path: Path) -> Iterator[Path]:
    """Paths of the queue label in metadata below an object."""
    if isinstance(obj, Mapping):
        if LABEL in look.mapping(obj, ("metadata", "labels")):
            yield (*path, "metadata", "labels", LABEL)
        for key, value in obj.items():
            yield from _labelled(value, (*path, key))
    elif isinstance(obj, list):
        for index, value in enumerate(obj):
            yield from _labelled(value, (*path, index))


@rule(
    id="IL630",
    name="suspended-for-ever",
    family="queue",
    severity=Severity.WARNING,
    subject=Document,
    summary="suspend: true without a queue that would lift it",
    why="Kueue suspends a job that names a queue and resumes it at its admission. A job that is suspended by its "
    "manifest and names no queue waits for somebody to resume it by hand.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  suspend: true
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
  suspend: true
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/workloads/controllers/job/#suspending-a-job", "who resumes it decides"
        ),
        Source("https://kueue.sigs.k8s.io/docs/tasks/run/jobs/", "the label, by which Kueue resumes it"),
    ),
)
def suspended_for_ever(document: Document, _context: Context) -> Iterator[Problem]:
    path: Path = ("spec", "suspend")
    if document.kind not in ("Job", "JobSet", "TrainJob") or look.at(document.obj, path) is not True:
        return
    labels = look.mapping(document.obj, ("metadata", "labels"))
    annotations = look.mapping(document.obj, ("metadata", "annotations"))
    is_led = look.at(document.obj, ("spec", "managedBy")) or look.at(document.obj, ("metadata", "ownerReferences"))
    if LABEL in labels or LABEL in annotations or is_led or "status" in document.obj:
        return
    yield problem(
        document,
        path,
        f"the {document.kind} is suspended, and names no queue that would resume it",
        help=f"label it {LABEL}, or leave suspend out",
        confidence=Confidence.LIKELY,
    )


@rule(
    id="IL631",
    name="min-parallelism-wrong",
    family="queue",
    severity=Severity.ERROR,
    subject=Document,
    summary="a least parallelism that is not below the job's",
    why="job-min-parallelism lets Kueue admit a Job with fewer pods. Kueue's webhook refuses one that is not between "
    "1 and parallelism - 1.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
  labels:
    kueue.x-k8s.io/queue-name: team-a
  annotations:
    kueue.x-k8s.io/job-min-parallelism: "8"
spec:
  parallelism: 8
  completions: 8
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
  annotations:
    kueue.x-k8s.io/job-min-parallelism: "4"
spec:
  parallelism: 8
  completions: 8
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(
        Source(
            "https://github.com/kubernetes-sigs/kueue/blob/main/pkg/controller/jobs/job/job_webhook.go",
            "what the webhook refuses",
        ),
    ),
)
def min_parallelism_wrong(document: Document, _context: Context) -> Iterator[Problem]:
    key = "kueue.x-k8s.io/job-min-parallelism"
    least = look.text(document.obj, ("metadata", "annotations", key))
    if document.kind != "Job" or not least:
        return
    parallelism = look.integer(document.obj, ("spec", "parallelism"))
    completions = look.integer(document.obj, ("spec", "completions"))
    number = parallelism if parallelism is not None else 1
    number = min(number, completions) if completions is not None else number
    told = pods.whole(least)
    if told is None or not 0 < told < number:
        yield problem(
            document,
            ("metadata", "annotations", key),
            f"{key} {least} must be a whole number from 1 to {number - 1}: Kueue refuses the Job",
            evidence=(f"the Job runs {number} pods at once",),
        )


@rule(
    id="IL632",
    name="namespace-quota-exceeded",
    family="queue",
    severity=Severity.ERROR,
    subject=Context,
    summary="workloads that ask for more GPUs than the ResourceQuota beside them allows",
    why="A ResourceQuota counts what all pods of its namespace ask for. The pod that would go over it is refused: a "
    "Deployment stays below its replicas, a gang never starts whole.",
    bad="""\
apiVersion: v1
kind: ResourceQuota
metadata:
  name: gpus
  namespace: research
spec:
  hard:
    requests.nvidia.com/gpu: "8"
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
  namespace: research
spec:
  replicas: 2
  selector:
    matchLabels: {app: llama}
  template:
    metadata:
      labels: {app: llama}
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    good="""\
apiVersion: v1
kind: ResourceQuota
metadata:
  name: gpus
  namespace: research
spec:
  hard:
    requests.nvidia.com/gpu: "16"
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
  namespace: research
spec:
  replicas: 2
  selector:
    matchLabels: {app: llama}
  template:
    metadata:
      labels: {app: llama}
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/policy/resource-quotas/#resource-quota-for-extended-resources",
            "requests.nvidia.com/gpu",
        ),
    ),
)
def namespace_quota_exceeded(run: Context, _context: Context) -> Iterator[Problem]:
    for document in run.documents:
        if document.kind != "ResourceQuota" or document.api_version != "v1" or _is_scoped(document):
            continue
        namespace = look.text(document.obj, ("metadata", "namespace"))
        for key, hard in look.mapping(document.obj, ("spec", "hard")).items():
            resource, limit = key.removeprefix("requests."), _amount(hard)
            if "/" not in resource or limit is None:
                continue
            asked = {
                f"{one.kind} {one.name}": sum(
                    pod_set.num_pods * pod_set.requests.get(resource, 0) for pod_set in one.pod_sets
                )
                * one.replicas.min
                for one in run.workloads
                if one.namespace == namespace
            }
            # Serving and jobs may not run at the same time: only what one workload alone asks for is certain.
            most = max(asked, key=lambda name: asked[name], default="")
            if most and asked[most] > limit:
                yield problem(
                    document,
                    ("spec", "hard", key),
                    f"{most} asks for {asked[most]} {resource}, and the namespace may have {hard}",
                    evidence=(f"{asked[most]} > {key} {hard}",),
                )


def _is_scoped(document: Document) -> bool:
    return bool(look.at(document.obj, ("spec", "scopes")) or look.at(document.obj, ("spec", "scopeSelector")))
