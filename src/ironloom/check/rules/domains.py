"""Whether one domain of the required level holds the pods that must share it."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.check import look, pods
from ironloom.check.finding import Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.fleet.model import Fleet
from ironloom.place.affinity import terms
from ironloom.place.domains import Room, rooms, values
from ironloom.place.fit import NodeFit
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import PodSet, TopologyWish, Workload

HOST = "kubernetes.io/hostname"
POD_AFFINITY = Source(
    "https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity",
    "what a required term asks of the node, and that the first pod of its own group is let through",
)
KUEUE_TAS = Source(
    "https://kueue.sigs.k8s.io/docs/concepts/topology_aware_scheduling/",
    "which annotations there are, and that they stand on the pod template",
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
    for pod_set, wish, per_domain, num_domains in _needs(workload, fleet):
        ever = pods.ever(workload, pod_set, context, fleet)
        short = _shortage(fleet, wish, ever, per_domain, num_domains)
        if ever.pods_by_node and short:
            yield problem(
                workload.document,
                wish.path,
                f"{_gang_said(per_domain, num_domains)} must share one {wish.key}, and no domain of it is large enough"
                if num_domains == 1
                else f"{num_domains} domains of {wish.key} must hold {per_domain} pods each, and there are not as many",
                evidence=(*short, str(ever)),
                help="ask for a coarser level"
                + (", or for this one as preferred" if wish.source in ("kueue", "affinity", "kai") else ""),
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
    for pod_set, wish, per_domain, num_domains in _needs(workload, fleet):
        if wish.source == "affinity":
            continue  # where its first pod is decides, and whether it runs already
        ever, now = pods.ever(workload, pod_set, context, fleet), pods.now(workload, pod_set, context, fleet)
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
    sliced = wish.slice_size > 1 and wish.slice_key not in ("", wish.key)
    there = (
        rooms(fleet, wish.key, found, slice_key=wish.slice_key, slice_size=wish.slice_size)
        if sliced
        else rooms(fleet, wish.key, found)
    )
    able = sum(1 for one in there if one.num_pods >= per_domain)
    if able >= num_domains:
        return ()
    if not there:
        return (f"no node has both {wish.key} and {wish.slice_key}",)
    enough = (f"{able} of the {num_domains} domains that are needed hold {per_domain} pods",) if num_domains > 1 else ()
    whole = f" in slices of {wish.slice_size} in one {wish.slice_key}" if sliced else ""
    return (
        *enough,
        f"the largest of {len(there)} domain{'s' if len(there) != 1 else ''} holds {there[0].num_pods} "
        f"pod{'s' if there[0].num_pods != 1 else ''}{whole}, {per_domain} are needed: "
        + ", ".join(_room_said(wish.key, one) for one in there[:4])
        + (f" and {len(there) - 4} more" if len(there) > 4 else ""),
    )


def _room_said(key: str, one: Room) -> str:
    """`leafgroup 1: 4 pods on 4 nodes`; a value may be a number."""
    return f"{key.rpartition('/')[2]} {one.value}: {pods.pods_said(one.num_pods)} on {pods.nodes_said(one.num_nodes)}"


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
    for pod_set in workload.pod_sets:
        wanted = pod_set.num_pods * workload.replicas.min
        if wanted < 2 or not _is_exclusive(pod_set, workload):
            continue
        ever = pods.ever(workload, pod_set, context, fleet)
        per_node = set(ever.pods_by_node.values())
        if per_node != {1} or wanted <= ever.num_pods:
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
                    f"{per_domain} pods of {pods.gpus_said(number)} must share one host: no machine has "
                    f"{per_domain * number} GPUs",
                    evidence=(f"{per_domain} × {number} = {per_domain * number} GPUs; machines have at most 16",),
                    help="require a rack or leaf group instead",
                )
