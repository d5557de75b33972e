"""What asks pods to stand together: whether anything answers, whether it means what it says, whether it helps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ironloom.catalog import instances
from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.labels import wanted_labels
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.fleet.model import FleetNode, Level
from ironloom.place.affinity import Term, terms
from ironloom.place.domains import values
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.workload import PodSet, Role, TopologyWish, Workload

ZONE = "topology.kubernetes.io/zone"
SURE = 0.7
"""Share from which what the data says of a level's meaning is taken for it."""
CONTROLLERS = (
    "batch.kubernetes.io/", "jobset.sigs.k8s.io/", "leaderworkerset.sigs.k8s.io/", "apps.kubernetes.io/",
    "serving.kserve.io/", "training.kubeflow.org/", "statefulset.kubernetes.io/", "ray.io/", "kueue.x-k8s.io/",
    "app.kubernetes.io/managed-by", "serving.knative.dev/",
)  # fmt: skip
"""Prefixes of labels that controllers put on their pods."""
CONTROLLERS_OLD = frozenset({"job-name", "controller-uid", "pod-template-hash", "controller-revision-hash"})
POD_AFFINITY = Source(
    "https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity",
    "what a required term asks of the node, and that the first pod of its own group is let through",
)
KUEUE_TAS = Source(
    "https://kueue.sigs.k8s.io/docs/concepts/topology_aware_scheduling/",
    "which annotations there are, and that they stand on the pod template",
)


@rule(
    id="IL201",
    name="affinity-to-no-pod",
    family="topology",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a required pod affinity that matches neither the pod itself nor any other",
    why="A pod whose required affinity looks for its own kind is let through when it is the first: but only when its "
    "own labels match the term. Without them no pod is ever first, and all replicas are Pending.",
    bad="""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  replicas: 2
  selector:
    matchLabels: {role: server}
  template:
    metadata:
      labels: {role: server}
    spec:
      affinity:
        podAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels: {app: llama}
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
""",
    good="""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  replicas: 2
  selector:
    matchLabels: {app: llama}
  template:
    metadata:
      labels: {app: llama}
    spec:
      affinity:
        podAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels: {app: llama}
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
""",
    sources=(
        POD_AFFINITY,
        Source("https://github.com/kubernetes/kubernetes/pull/91168", "the first pod must match its own terms"),
        Source("https://github.com/kubernetes/website/issues/38339", "the rule as documentation asks for it"),
        Source("https://github.com/kubernetes/kubernetes/issues/68547", "a term of a topologyKey alone"),
    ),
)
def affinity_to_no_pod(workload: Workload, context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        for term in terms(pod_set.spec, "podAffinity", pods.namespace(workload)):
            keys = _selected(term.selector)
            if (
                not pod_set.is_written
                or term.takes(pods.namespace(workload), pod_set.labels)
                or _is_a_controllers(keys)
            ):
                continue
            if _somebody(term, workload, context):
                continue
            is_meant = workload.name in {value for found in keys.values() for value in found}
            if term.selector is None:
                yield problem(
                    workload.document,
                    _term_path(pod_set, term.index, "topologyKey"),
                    "a required affinity without a labelSelector matches no pod: all of them stay Pending",
                    evidence=("a term without labelSelector matches with no pods; an empty one, {}, with all",),
                    help="say with labelSelector which pods these are to stand by",
                )
                continue
            if context.fleet is None and not is_meant:
                continue  # another workload's pods, which a fleet would show
            said = ", ".join(f"{key}={'|'.join(found)}" if found else key for key, found in keys.items())
            own = ", ".join(f"{key}={value}" for key, value in pod_set.labels.items())
            yield problem(
                workload.document,
                _term_path(pod_set, term.index, "labelSelector"),
                "no pod matches the required affinity, the pod itself neither: all of them stay Pending",
                at_key=True,
                evidence=(
                    f"it looks for {said}",
                    f"the pods' labels are {own}" if own else "the pods have no labels",
                    *((f"0 of {len(context.fleet.pods)} pods of the fleet match",) if context.fleet else ()),
                ),
                help=f"label the pods {said}" if is_meant else "",
                confidence=Confidence.CERTAIN if context.fleet else Confidence.LIKELY,
            )


def _term_path(pod_set: PodSet, index: int, *rest: str) -> Path:
    inside = ("affinity", "podAffinity", "requiredDuringSchedulingIgnoredDuringExecution", index)
    return (*pod_set.path, *inside, *rest)


def _selected(selector: object) -> dict[str, tuple[str, ...]]:
    """Keys of a label selector, each with the values that it takes; none for a mere existence."""
    found: dict[str, tuple[str, ...]] = {
        key: (value,) for key, value in look.mapping(selector, ("matchLabels",)).items() if isinstance(value, str)
    }
    for one in look.entries(selector, ("matchExpressions",)):
        key = look.text(one, ("key",))
        found[key] = tuple(value for value in look.entries(one, ("values",)) if isinstance(value, str))
    return found


def _is_a_controllers(keys: Mapping[str, object]) -> bool:
    """Whether a controller may put such a label on the pods."""
    return any(key.startswith(CONTROLLERS) or key in CONTROLLERS_OLD for key in keys)


def _somebody(term: Term, workload: Workload, context: Context) -> bool:
    """Whether a pod of another workload of the run, or one that is in the fleet, matches."""
    here = (
        term.takes(pods.namespace(workload), pod_set.labels)
        for other in context.workloads
        for pod_set in other.pod_sets
    )
    there = (term.takes(pod.namespace, pod.labels) for pod in (context.fleet.pods if context.fleet else ()))
    return any(here) or any(there)


@rule(
    id="IL202",
    name="zone-is-no-rack",
    family="topology",
    severity=Severity.WARNING,
    subject=Workload,
    summary="topology.kubernetes.io/zone where a rack is meant",
    why="By convention a zone is an availability zone: a data hall or several. Pods in one zone may be many switches "
    "apart. Racks, leaf groups and NVLink domains have labels of their own, which differ from cloud to cloud; some "
    "clusters do put racks into the zone label, so with a fleet the nodes of each value are counted.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
  labels: {app: train}
spec:
  # keep the workers in one rack
  affinity:
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: topology.kubernetes.io/zone
        labelSelector:
          matchLabels: {app: train}
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
  labels: {app: train}
spec:
  # keep the workers in one rack
  affinity:
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: node.coreweave.cloud/rack
        labelSelector:
          matchLabels: {app: train}
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(
        Source("https://kubernetes.io/docs/reference/labels-annotations-taints/#topologykubernetesiozone", "a zone"),
        Source(
            "https://docs.coreweave.com/products/networking/hpc-interconnect/infiniband-labels",
            "the labels of racks and of leaf groups",
        ),
    ),
)
def zone_is_no_rack(workload: Workload, context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        for wish in pod_set.topology:
            if wish.key != ZONE or not re.search(r"\brack", _comment_above(workload, pod_set, wish), re.I):
                continue
            if any(_is_rack_scale(value) for one in wanted_labels(pod_set) for value in one.values):
                continue  # on such nodes CoreWeave's zone is the rack
            nodes = context.fleet.nodes if context.fleet is not None else ()
            meaning = _meaning(nodes) if any(ZONE in node.labels for node in nodes) else None
            if meaning is not None and (meaning.name == "rack" or meaning.confidence < SURE):
                continue  # here it is one, or may well be
            counted = (f"on this fleet: {meaning.name} ({meaning.why})",) if meaning is not None else ()
            racks = [key for key in ("node.coreweave.cloud/rack", "backend.coreweave.cloud/leafgroup")
                     if context.fleet is not None and values(context.fleet, key)]  # fmt: skip
            yield problem(
                workload.document,
                wish.path,
                f"{ZONE} is no rack: by convention it is one data hall or several",
                evidence=(*counted, "its comment says rack; the key is an availability zone's"),
                help=f"the nodes have {' and '.join(racks)}"
                if racks
                else "use the label of the rack or leaf switch, "
                "such as node.coreweave.cloud/rack, backend.coreweave.cloud/leafgroup or "
                "topology.k8s.aws/network-node-layer-3",
                confidence=Confidence.CERTAIN if meaning is not None else Confidence.LIKELY,
            )


def _meaning(nodes: Sequence[FleetNode]) -> Level:
    """What the zone is on these nodes."""
    from ironloom.fleet.levels import meaning_of  # it brings the dialects of every cloud's labels

    return meaning_of(ZONE, nodes)


def _is_rack_scale(instance_type: str) -> bool:
    """Whether a rack of such nodes is one NVLink domain (NVL72)."""
    known = instances.find(instance_type)
    return known is not None and known.nvlink_domain_nodes > 1


def _comment_above(workload: Workload, pod_set: PodSet, wish: TopologyWish) -> str:
    """The comments right above the affinity and inside it, down to the key."""
    document = workload.document
    path = (*pod_set.path, "affinity") if wish.source == "affinity" else wish.path
    start, end = document.positions.key(path).start, document.positions.value(wish.path).end
    lines = document.text[:start].splitlines()[:-1] if document.text else []
    above: list[str] = []
    while lines and lines[-1].lstrip().startswith("#"):
        above.append(lines.pop())
    inside = [line.partition("#")[2] for line in document.text[start:end].splitlines() if "#" in line]
    return "\n".join((*reversed(above), *inside))


@rule(
    id="IL203",
    name="colocated-without-need",
    family="topology",
    severity=Severity.WARNING,
    subject=Workload,
    summary="replicas that do not talk to each other, required to stand together",
    why="Each replica of a service answers its own requests: with the model inside one pod, nothing crosses from pod "
    "to pod that a short way would speed up. The requirement only takes away: replicas wait for room in the one domain "
    "that the first of them chose, and one fault of it takes them all. It is no gang scheduling either.",
    bad="""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  replicas: 4
  selector:
    matchLabels: {app: llama}
  template:
    metadata:
      labels: {app: llama}
    spec:
      affinity:
        podAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - topologyKey: topology.kubernetes.io/zone
            labelSelector:
              matchLabels: {app: llama}
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        args: [--model, Qwen/Qwen3-32B, --tensor-parallel-size, "2"]
        resources:
          limits:
            nvidia.com/gpu: 2
""",
    good="""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  replicas: 4
  selector:
    matchLabels: {app: llama}
  template:
    metadata:
      labels: {app: llama}
    spec:
      topologySpreadConstraints:
      - topologyKey: topology.kubernetes.io/zone
        maxSkew: 1
        whenUnsatisfiable: ScheduleAnyway
        labelSelector:
          matchLabels: {app: llama}
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        args: [--model, Qwen/Qwen3-32B, --tensor-parallel-size, "2"]
        resources:
          limits:
            nvidia.com/gpu: 2
""",
    sources=(
        POD_AFFINITY,
        Source("https://docs.vllm.ai/en/latest/serving/parallelism_scaling.html", "one node needs no other's network"),
    ),
)
def colocated_without_need(workload: Workload, _context: Context) -> Iterator[Problem]:
    most = max(workload.replicas.max or 0, workload.replicas.min)
    if workload.is_gang or workload.kind != "Deployment" or most < 2:
        return
    for pod_set in workload.pod_sets:
        number = pod_set.gpus()[1]
        if pod_set.role is not Role.SERVING or not number:
            continue
        for term in terms(pod_set.spec, "podAffinity", pods.namespace(workload)):
            names = {value for found in _selected(term.selector).values() for value in found}
            if not term.takes(pods.namespace(workload), pod_set.labels) and workload.name not in names:
                continue
            yield problem(
                workload.document,
                _term_path(pod_set, term.index)[:-1],
                f"{most} replicas that do not talk to each other must stand in one {term.key}",
                at_key=True,
                evidence=(f"each replica is one pod with {number} GPUs: its parallelism stays inside the node",),
                help="leave it out, or spread the replicas (topologySpreadConstraints); for a model over several "
                "nodes use a LeaderWorkerSet",
                confidence=Confidence.LIKELY,
            )


@rule(
    id="IL204",
    name="topology-key-unknown",
    family="topology",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a required topology key that no node has",
    why="A node without the label is in no domain. When the key is required and no node has it, nothing is placed; a "
    "queue with topology-aware scheduling leaves the workload inadmissible.",
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
    metadata:
      annotations:
        kueue.x-k8s.io/podset-required-topology: backend.coreweave.cloud/leaf-group
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
spec:
  parallelism: 4
  completions: 4
  completionMode: Indexed
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
        KUEUE_TAS,
        POD_AFFINITY,
        Source("https://github.com/kubernetes-sigs/jobset/issues/637", "without the label on nodes nothing is placed"),
        Source("https://github.com/kubernetes-sigs/kueue/issues/5039", "`no topology domains at level`"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=4, b=8)),
)
def topology_key_unknown(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None or not fleet.nodes or any(pool.num_more != 0 for pool in fleet.pools):
        return
    for pod_set in workload.pod_sets:
        for wish in pod_set.topology:
            if not wish.key or not wish.is_required or values(fleet, wish.key):
                continue
            near = nearest(wish.key, {key for node in fleet.nodes for key in node.labels})
            levels = [level.key for level in fleet.levels]
            yield problem(
                workload.document,
                wish.path,
                f"no node has the label {wish.key}, which is required as the topology key",
                evidence=(f"0/{len(fleet.nodes)} nodes have {wish.key}",),
                help=f"did you mean {near}?"
                if near
                else f"the fleet's levels are {', '.join(levels)}"
                if levels
                else "",
            )
