"""Whether pods that must stand together can: the level's label, the room in one domain of it, and what asks for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ironloom.catalog import instances
from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.check.rules.selection import wanted_labels
from ironloom.fleet.model import Fleet
from ironloom.place.affinity import Term, terms
from ironloom.place.domains import Room, rooms, values, whole_slices
from ironloom.place.fit import NodeFit, fit, fit_ever
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.workload import PodSet, Role, TopologyWish, Workload

ZONE = "topology.kubernetes.io/zone"
HOST = "kubernetes.io/hostname"
RACK_MOST_NODES = 20
"""The largest rack of GPU nodes that is sold holds 18 (NVL72)."""
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
            sizes = values(context.fleet, ZONE) if context.fleet is not None else {}
            largest = max(sizes.values(), default=0)
            if sizes and largest <= RACK_MOST_NODES:
                continue  # here it may well be one
            counted = (f"the largest of {len(sizes)} zones has {pods.nodes_said(largest)}",) if largest else ()
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
                confidence=Confidence.CERTAIN if largest else Confidence.LIKELY,
            )


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


@rule(
    id="IL205",
    name="gang-exceeds-every-domain",
    family="topology",
    severity=Severity.ERROR,
    subject=Workload,
    summary="pods that must share one domain, of which no domain is large enough",
    why="A required level is a promise that nothing breaks: when no domain could hold all the pods even if it were "
    "empty, the gang waits for ever while the fleet has idle GPUs. A coarser level, fewer pods or `preferred` helps.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 12
  completions: 12
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
    good="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 12
  completions: 12
  completionMode: Indexed
  template:
    metadata:
      annotations:
        kueue.x-k8s.io/podset-preferred-topology: backend.coreweave.cloud/leafgroup
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
        Source("https://github.com/marin-community/marin/issues/6950", "64 H100 nodes in leaf groups of 1 to 11"),
        Source("https://github.com/kubernetes-sigs/kueue/issues/4329", "why a topology does not fit is asked for"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=4, b=8)),
)
def gang_exceeds_every_domain(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None or any(pool.num_more != 0 for pool in fleet.pools):
        return
    more = pods.tolerations(workload, context)
    for pod_set, wish, per_domain, num_domains in _needs(workload, fleet):
        ever = fit_ever(pod_set, fleet, namespace=pods.namespace(workload), tolerations=more)
        short = _shortage(fleet, wish, ever, per_domain, num_domains)
        if ever.pods_by_node and short:
            yield problem(
                workload.document,
                wish.path,
                f"{_gang_said(per_domain, num_domains)} must share one {wish.key}, and no domain of it is large enough"
                if num_domains == 1
                else f"{num_domains} domains of {wish.key} must hold {per_domain} pods each, and there are not as many",
                evidence=(*short, str(ever)),
                help="ask for a coarser level, or for this one as preferred",
            )


@rule(
    id="IL206",
    name="no-free-domain-now",
    family="topology",
    severity=Severity.NOTE,
    subject=Workload,
    summary="a gang that one domain could hold, and none has room for now",
    why="The fleet may have free GPUs enough, and still no domain with enough of them: the gang waits until pods of "
    "one domain end. Queues preempt for quota, not for topology, so a high priority does not shorten it.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 3
  completions: 3
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
    good="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 2
  completions: 2
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
        Source("https://github.com/marin-community/marin/issues/8925", "a production gang behind batch jobs"),
        Source("https://github.com/kubernetes-sigs/kueue/issues/10815", "preemption looks at quota, not at topology"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(
        *(
            examples.node(f"{group}{index}", labels={"backend.coreweave.cloud/leafgroup": group}, used_gpus=used)
            for group in "ab"
            for index, used in enumerate((0, 0, 8))
        )
    ),
)
def no_free_domain_now(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None:
        return
    more = pods.tolerations(workload, context)
    for pod_set, wish, per_domain, num_domains in _needs(workload, fleet):
        if wish.source == "affinity":
            continue  # where its first pod is decides, and whether it runs already
        own = pods.own_pods(workload, pod_set)
        ever = fit_ever(pod_set, fleet, namespace=pods.namespace(workload), tolerations=more)
        now = fit(pod_set, fleet, namespace=pods.namespace(workload), tolerations=more, ignored=own)
        short = _shortage(fleet, wish, now, per_domain, num_domains)
        if short and not _shortage(fleet, wish, ever, per_domain, num_domains):
            yield problem(
                workload.document,
                wish.path,
                f"no {wish.key} has room for {_gang_said(per_domain, num_domains)} now: the gang waits",
                evidence=(*short, f"the fleet has room for {now.num_pods} such pods in all", str(now)),
            )


def _gang_said(per_domain: int, num_domains: int) -> str:
    return f"{per_domain} pods" if num_domains == 1 else f"{num_domains} times {per_domain} pods"


def _needs(workload: Workload, fleet: Fleet) -> Iterator[tuple[PodSet, TopologyWish, int, int]]:
    """(set, wish, pods that must share a domain, domains that are needed) of required wishes by a label that is
    there."""
    for pod_set in workload.pod_sets:
        for wish in pod_set.topology:
            if wish.key and wish.is_required and values(fleet, wish.key):
                per_domain, num_domains = _need(workload, pod_set, wish)
                if per_domain > 1:
                    yield pod_set, wish, per_domain, num_domains


def _need(workload: Workload, pod_set: PodSet, wish: TopologyWish) -> tuple[int, int]:
    copies = max(1, workload.replicas.min)
    if wish.source == "affinity":
        index = wish.path[-2]
        own = any(
            term.index == index and term.takes(pods.namespace(workload), pod_set.labels)
            for term in terms(pod_set.spec, "podAffinity", pods.namespace(workload))
        )
        return (pod_set.num_pods * copies, 1) if own else (0, 0)
    if wish.source == "jobset":
        jobs = look.integer(workload.document.obj, (*_job_path(pod_set), "replicas")) or 1
        return pod_set.num_pods // max(1, jobs), jobs
    if wish.source == "lws":
        return pod_set.num_pods, copies
    if workload.kind == "Deployment":
        return 1, 1  # each pod of it is a workload of its own to a queue
    return pod_set.num_pods * (copies if workload.kind == "StatefulSet" else 1), 1


def _job_path(pod_set: PodSet) -> Path:
    """Of the replicated job that a set of a JobSet is: spec.replicatedJobs[0]."""
    end = pod_set.path.index("replicatedJobs") + 2 if "replicatedJobs" in pod_set.path else len(pod_set.path)
    return pod_set.path[:end]


def _shortage(fleet: Fleet, wish: TopologyWish, found: NodeFit, per_domain: int, num_domains: int) -> tuple[str, ...]:
    """What proves that the domains of the level do not hold the gang; empty where they do."""
    there = rooms(fleet, wish.key, found)
    able = sum(1 for one in there if one.num_pods >= per_domain)
    sliced = wish.slice_size > 0 and wish.slice_key == wish.key
    if sliced:
        need = -(-per_domain // wish.slice_size)
        got = whole_slices(there, wish.slice_size)
        return () if got >= need else (f"{got} of {need} slices of {wish.slice_size} pods fit",)
    if able >= num_domains:
        return ()
    return (
        f"the largest of {len(there)} domains holds {there[0].num_pods} of {per_domain} pods: "
        + ", ".join(_room_said(one) for one in there[:4])
        + (f" and {len(there) - 4} more" if len(there) > 4 else ""),
    )


def _room_said(one: Room) -> str:
    return f"{one.value} {one.num_pods} on {pods.nodes_said(one.num_nodes)}"


@rule(
    id="IL207",
    name="replicas-exceed-separate-nodes",
    family="topology",
    severity=Severity.ERROR,
    subject=Workload,
    summary="more pods than nodes, where no two may share a node",
    why="A required anti-affinity to its own kind, or a port of the host, allows one pod a node: what is above the "
    "number of nodes that take the pod is Pending for ever.",
    bad="""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  replicas: 3
  selector:
    matchLabels: {app: llama}
  template:
    metadata:
      labels: {app: llama}
    spec:
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels: {app: llama}
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        resources:
          limits:
            nvidia.com/gpu: 1
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
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels: {app: llama}
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        resources:
          limits:
            nvidia.com/gpu: 1
""",
    sources=(POD_AFFINITY,),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=2)),
)
def replicas_exceed_separate_nodes(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None or any(pool.num_more != 0 for pool in fleet.pools):
        return
    more = pods.tolerations(workload, context)
    for pod_set in workload.pod_sets:
        wanted = pod_set.num_pods * workload.replicas.min
        ever = fit_ever(pod_set, fleet, namespace=pods.namespace(workload), tolerations=more)
        per_node = set(ever.pods_by_node.values())
        if wanted < 2 or per_node != {1} or wanted <= ever.num_pods or not _is_exclusive(pod_set, workload):
            continue
        yield problem(
            workload.document,
            workload.replicas.path or pod_set.path,
            f"{wanted} pods, no two on one node, and {pods.nodes_said(len(ever.pods_by_node))} that take one",
            evidence=(str(ever),),
        )


def _is_exclusive(pod_set: PodSet, workload: Workload) -> bool:
    return any(
        term.key == HOST and term.takes(pods.namespace(workload), pod_set.labels)
        for term in terms(pod_set.spec, "podAntiAffinity", pods.namespace(workload))
    )


@rule(
    id="IL208",
    name="host-cannot-hold-the-gang",
    family="topology",
    severity=Severity.ERROR,
    subject=Workload,
    summary="all pods required on one host, with more GPUs than any machine has",
    why="kubernetes.io/hostname is a level of one node. Pods that must share it share one machine's GPUs: 8 or 16, not "
    "more.",
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
        kueue.x-k8s.io/podset-required-topology: kubernetes.io/hostname
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
        kueue.x-k8s.io/podset-required-topology: cloud.provider.com/topology-rack
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(KUEUE_TAS,),
)
def host_cannot_hold_the_gang(workload: Workload, context: Context) -> Iterator[Problem]:
    if context.fleet is not None and context.fleet.nodes:
        return  # IL205 counts
    for pod_set in workload.pod_sets:
        for wish in pod_set.topology:
            if wish.key != HOST or not wish.is_required:
                continue
            per_domain, _ = _need(workload, pod_set, wish)
            number = pod_set.gpus()[1]
            if per_domain > 1 and per_domain * number > 16:
                yield problem(
                    workload.document,
                    wish.path,
                    f"{per_domain} pods of {number} GPUs must share one host: no machine has "
                    f"{per_domain * number} GPUs",
                    evidence=(f"{per_domain} × {number} = {per_domain * number} GPUs; machines have at most 16",),
                    help="require a rack or leaf group instead",
                )
