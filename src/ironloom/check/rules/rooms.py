"""Whether a pod fits a node of the fleet, empty or as it is now, and what stays idle beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ironloom.catalog import accelerators
from ironloom.check import pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.check.rules.resources import GPU_DOCS, amount_said, resource_path
from ironloom.fleet.model import Fleet, FleetNode
from ironloom.place.fit import SHARES, NodeFit
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import PodSet, Workload, is_gpu_resource

MOST_GPUS = 16
"""Of one machine that is sold (NVIDIA DGX-2, Google a2-megagpu-16g)."""
_NOTHING: Mapping[str, int] = {}


@rule(
    id="IL122",
    name="more-gpus-than-a-node-has",
    family="selection",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a pod that asks for more GPUs than any node has",
    why="One pod runs on one node. What needs more GPUs than a node has must be several pods: a gang (JobSet, "
    "LeaderWorkerSet, a multi-node job), with tensor parallelism inside the node and another kind across.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 32
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 8
""",
    sources=(
        GPU_DOCS,
        Source("https://github.com/vllm-project/vllm/issues/5450", "tensor parallel size above what a node has"),
    ),
)
def more_gpus_than_a_node_has(workload: Workload, context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        resource, number = pod_set.gpus()
        if not number or resource.startswith("nvidia.com/mig-"):
            continue
        path = resource_path(pod_set, resource)
        if context.fleet is None or not context.fleet.nodes:
            if number > MOST_GPUS:
                yield problem(
                    workload.document,
                    path,
                    f"one pod asks for {number} {resource}, and no machine that is sold has more than {MOST_GPUS}",
                    confidence=Confidence.LIKELY,
                    help="spread it over several pods",
                )
            continue
        able = [node for node in pods.matched(pod_set, context) if node.allocatable.get(resource)]
        most = max(able, key=lambda node: node.allocatable[resource], default=None)
        if most is None or most.allocatable[resource] >= number or _pool_may(context.fleet, resource, number):
            continue
        siblings = sum(1 for node in able if node.allocatable[resource] == most.allocatable[resource])
        whole = most.expected_num_gpus or 0
        degraded = (f"{most.name} should have {whole}: it is degraded",) if most.is_degraded and whole >= number else ()
        yield problem(
            workload.document,
            path,
            f"a pod asks for {number} {resource}, and no node that it may be on has more than "
            f"{most.allocatable[resource]}",
            evidence=(f"{most.allocatable[resource]} on each of {pods.nodes_said(siblings)}", *degraded),
        )


def _pool_may(fleet: Fleet, resource: str, amount: int) -> bool:
    """Whether a pool could bring a node with that much; a pool of which nothing is known could."""
    return any(
        pool.num_more != 0 and (not pool.allocatable or pool.allocatable.get(resource, 0) >= amount)
        for pool in fleet.pools
    )


@rule(
    id="IL123",
    name="no-node-is-large-enough",
    family="selection",
    severity=Severity.ERROR,
    subject=Workload,
    summary="cpu, memory or storage that no node with the GPUs has",
    why="What a node lets pods ask for is less than the machine has: the kubelet and the DaemonSets keep some. A pod "
    "that asks for the whole machine's cpu or memory fits nowhere, even on empty nodes, and is Pending for ever.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    resources:
      requests:
        cpu: "192"
      limits:
        nvidia.com/gpu: 8
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    resources:
      requests:
        cpu: "110"
      limits:
        nvidia.com/gpu: 8
""",
    sources=(
        Source("https://github.com/marin-community/marin/issues/8925", "nodes excluded for cpu: the request was 192"),
        Source("https://kubernetes.io/docs/tasks/administer-cluster/reserve-compute-resources/", "what is kept"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=2)),
)
def no_node_is_large_enough(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None:
        return
    for pod_set in workload.pod_sets:
        able = pods.able(workload, pod_set, context)
        standing = pods.standing(context)
        for resource, amount in pod_set.requests.items():
            if not amount or is_gpu_resource(resource) or resource in SHARES or not able:
                continue
            best = max(able, key=lambda node: _lasting(node, resource, standing))
            room = _lasting(best, resource, standing)
            if amount <= room or _pool_may(fleet, resource, amount):
                continue
            kept = standing.get(best.name, _NOTHING).get(resource, 0)
            has = best.allocatable.get(resource, 0)
            less = f", less {amount_said(resource, kept)} of its DaemonSets" if kept else ""
            beside = f" with {amount_said(*pod_set.gpus())}" if pod_set.gpus()[1] else ""
            yield problem(
                workload.document,
                resource_path(pod_set, resource),
                f"a pod asks for {amount_said(resource, amount)}, and the most on a node{beside} is "
                f"{amount_said(resource, room)}",
                evidence=(
                    f"{best.name}: {amount_said(resource, has)} allocatable{less}",
                    f"0/{len(able)} nodes are available: {len(able)} Insufficient {resource}",
                ),
            )


def _lasting(node: FleetNode, resource: str, standing: Mapping[str, Mapping[str, int]]) -> int:
    return max(0, node.allocatable.get(resource, 0) - standing.get(node.name, _NOTHING).get(resource, 0))


@rule(
    id="IL124",
    name="gpus-stranded",
    family="selection",
    severity=Severity.WARNING,
    subject=Workload,
    summary="cpu or memory so large that GPUs of the node stay idle",
    why="A pod takes a part of the node's GPUs and more than that part of its cpu or memory. The GPUs that remain have "
    "nothing beside them to run a pod with: they are paid for and idle.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      requests:
        cpu: "100"
      limits:
        nvidia.com/gpu: 2
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      requests:
        cpu: "28"
      limits:
        nvidia.com/gpu: 2
""",
    sources=(
        Source("https://github.com/marin-community/marin/issues/8925", "GPUs that cpu requests strand"),
        Source("https://www.usenix.org/conference/atc23/presentation/weng", "GPUs that cannot be allocated for cpu"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=2)),
)
def gpus_stranded(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None:
        return
    for pod_set in workload.pod_sets:
        resource, number = pod_set.gpus()
        if not number:
            continue
        able = pods.able(workload, pod_set, context)
        standing = pods.standing(context)
        strands = [found for node in able if (found := _strands(pod_set, node, resource, number, standing))]
        if not able or len(strands) < len(able):
            continue
        # Of nodes of several kinds, the one where it costs least: this holds on every one of them.
        idle, fitting, short, node = min(strands, key=lambda one: one[0])
        total, asked = node.allocatable[resource], pod_set.requests[short]
        room = _lasting(node, short, standing)
        is_alone = workload.num_pods * max(workload.replicas.max or 0, workload.replicas.min) <= 1
        yield problem(
            workload.document,
            resource_path(pod_set, short),
            f"{amount_said(short, asked)} for {number} of a node's {total} GPUs leaves {pods.gpus_said(idle)} idle",
            evidence=(
                f"{amount_said(short, room)} ÷ {amount_said(short, asked)}: {pods.pods_said(fitting)} a node",
                f"its {total} GPUs could hold {total // number}",
                f"the share of {pods.gpus_said(number)} is {amount_said(short, room * number // total)}",
            ),
            severity=Severity.NOTE if is_alone else None,
        )


def _strands(
    pod_set: PodSet, node: FleetNode, resource: str, number: int, standing: Mapping[str, Mapping[str, int]]
) -> tuple[int, int, str, FleetNode] | None:
    """(GPUs that stay idle, pods that fit, what runs out, the node); None where the GPUs run out first."""
    by_gpus = node.allocatable.get(resource, 0) // number
    fits = {
        name: _lasting(node, name, standing) // amount
        for name, amount in pod_set.requests.items()
        if amount and name in ("cpu", "memory", "ephemeral-storage")
    }
    short = min(fits, key=lambda name: fits[name], default=None)
    if short is None or not 0 < fits[short] < by_gpus:
        return None
    return node.allocatable[resource] - fits[short] * number, fits[short], short, node


@rule(
    id="IL125",
    name="no-room-now",
    family="selection",
    severity=Severity.NOTE,
    subject=Workload,
    summary="fits the fleet, and not what is free of it now",
    why="Nothing is wrong with the manifest: its pods wait until others end, or until nodes come. Told so that nobody "
    "takes the wait for a fault; `evidence` has the count by reason, as the scheduler's event will have it.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    resources:
      limits:
        nvidia.com/gpu: 8
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    resources:
      limits:
        nvidia.com/gpu: 4
""",
    sources=(Source("https://github.com/kubernetes-sigs/kueue/issues/4580", "users start jobs to learn if they fit"),),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(examples.node("g1", used_gpus=4), examples.node("g2", used_gpus=4)),
)
def no_room_now(workload: Workload, context: Context) -> Iterator[Problem]:
    for pod_set, found, wanted in _short_of_room(workload, context):
        fleet = context.fleet
        more = [pool for pool in (fleet.pools if fleet else ()) if pool.num_more]
        yield problem(
            workload.document,
            _room_path(pod_set),
            f"{found.num_pods} of {wanted} pods fit what is free now; the others wait"
            if wanted > 1
            else "no node has room for the pod now; it waits",
            at_key=True,
            evidence=(
                str(found),
                *(f"pool {pool.name} can still grow by {pods.nodes_said(pool.num_more or 0)}" for pool in more),
            ),
        )


@rule(
    id="IL126",
    name="pools-at-their-maximum",
    family="selection",
    severity=Severity.WARNING,
    subject=Workload,
    summary="no room, and every pool that could bring a node is at its maximum",
    why="An autoscaler adds no node above a pool's maximum: the pod waits for others to end, whatever the cloud could "
    "give. On a pool that does not scale, the same holds for its target.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    resources:
      limits:
        nvidia.com/gpu: 8
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    resources:
      limits:
        nvidia.com/gpu: 4
""",
    sources=(
        Source(
            "https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md",
            "a node group is never scaled above its maximum (`max node group size reached`)",
        ),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(
        examples.node("g1", used_gpus=4),
        pools=(examples.pool("h100", num_nodes=1, max_nodes=1),),
    ),
)
def pools_at_their_maximum(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None or not fleet.pools or any(pool.max_nodes is None or pool.num_more for pool in fleet.pools):
        return
    for pod_set, found, wanted in _short_of_room(workload, context):
        if not pod_set.gpus()[1]:
            continue
        yield problem(
            workload.document,
            _room_path(pod_set),
            f"{found.num_pods} of {wanted} pods fit, and no pool of nodes may grow",
            at_key=True,
            evidence=tuple(f"{pool.name}: {pool.num_nodes} of at most {pool.max_nodes} nodes" for pool in fleet.pools),
        )


def _short_of_room(workload: Workload, context: Context) -> Iterator[tuple[PodSet, NodeFit, int]]:
    """(set, where it fits now, pods that are wanted) of the sets that would fit an empty fleet and not this one."""
    fleet = context.fleet
    if fleet is None or not fleet.nodes:
        return
    for pod_set in workload.pod_sets:
        wanted = pod_set.num_pods * workload.replicas.min
        if not wanted or not pods.ever(workload, pod_set, context, fleet).pods_by_node:
            continue
        found = pods.now(workload, pod_set, context, fleet)
        if found.num_pods < wanted:
            yield pod_set, found, wanted


def _room_path(pod_set: PodSet) -> Path:
    resource, number = pod_set.gpus()
    return resource_path(pod_set, resource) if number else pod_set.path


@rule(
    id="IL129",
    name="gpu-kinds-mixed",
    family="selection",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a gang whose pods may land on GPUs of different kinds",
    why="Pods of one gang work in step: the slowest GPU sets the pace of all, and the smallest memory is what every "
    "rank can use. Without a selector the scheduler mixes whatever is free.",
    bad="""\
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: llama
spec:
  replicas: 1
  leaderWorkerTemplate:
    size: 2
    workerTemplate:
      spec:
        containers:
        - name: main
          image: vllm/vllm-openai:v0.11.0
          resources:
            limits:
              nvidia.com/gpu: 8
""",
    good="""\
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: llama
spec:
  replicas: 1
  leaderWorkerTemplate:
    size: 2
    workerTemplate:
      spec:
        nodeSelector:
          pool: h100
        containers:
        - name: main
          image: vllm/vllm-openai:v0.11.0
          resources:
            limits:
              nvidia.com/gpu: 8
""",
    sources=(
        Source(
            "https://docs.coreweave.com/products/cks/clusters/scheduling/workload-scheduling",
            "select the node type by its label",
        ),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(
        *(examples.node(f"h{index}", labels={"pool": "h100"}) for index in range(2)),
        *(examples.node(f"a{index}", labels={"pool": "a100"}, accelerator="A100-SXM4-80GB") for index in range(2)),
    ),
)
def gpu_kinds_mixed(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None or not pods.is_together(workload):
        return
    for pod_set in workload.pod_sets:
        if pod_set.num_pods < 2 or not pod_set.gpus()[1]:
            continue
        kinds: dict[str, int] = {}
        for node in pods.able(workload, pod_set, context):
            if node.accelerator:
                kinds[node.accelerator] = kinds.get(node.accelerator, 0) + 1
        if len(kinds) < 2 or any(wish.is_required for wish in pod_set.topology):
            continue  # a required domain may well hold one kind only
        yield problem(
            workload.document,
            pod_set.path,
            f"the {pod_set.num_pods} pods of the gang may land on {len(kinds)} kinds of GPU",
            at_key=True,
            evidence=tuple(f"{kind}{_memory(kind)}: {pods.nodes_said(count)}" for kind, count in sorted(kinds.items())),
            help="select one kind by its label, such as node.kubernetes.io/instance-type",
        )


def _memory(kind: str) -> str:
    known = accelerators.ACCELERATORS.get(kind)
    return f" ({known.marketed_gb} GB)" if known is not None else ""
