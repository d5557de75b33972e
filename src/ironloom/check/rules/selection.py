"""Whether the labels that a pod asks of its node are on any node, together and with GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from ironloom.catalog import accelerators
from ironloom.check import edits, look, pods
from ironloom.check.finding import Patch, Severity
from ironloom.check.labels import Wanted, wanted_labels
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.fleet.model import Fleet, FleetNode
from ironloom.place.affinity import REQUIRED
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.workload import PodSet, Workload

ASSIGNING = Source(
    "https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/",
    "a pod waits until a node has every label that it asks for",
)


@rule(
    id="IL101",
    name="selector-matches-no-node",
    family="selection",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a node selector or required node affinity that no node of the fleet matches",
    why="The scheduler never places the pod: it waits as Pending, with the event `didn't match Pod's node "
    "affinity/selector`, until somebody looks. Label values are compared letter by letter, and clouds spell the same "
    "GPU in different ways.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeSelector:
    gpu.nvidia.com/class: H100_NVLINK_80G
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 8
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeSelector:
    gpu.nvidia.com/class: H100_NVLINK_80GB
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 8
""",
    sources=(
        ASSIGNING,
        Source("https://github.com/skypilot-org/skypilot/issues/3318", "a label value that no node has"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(*examples.leaf_groups(a=4)),
)
def selector_matches_no_node(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None or not fleet.nodes:
        return
    for pod_set in workload.pod_sets:
        wanted = list(wanted_labels(pod_set))
        if not wanted or pods.matched(pod_set, context) or _pool_could(wanted, fleet):
            continue
        if not _is_the_writers(workload, pod_set):
            continue
        alone = [one for one in wanted if not _having(one, fleet)]
        if alone and _must_all(alone, wanted):
            for one in alone:
                yield _nobody_has(workload, one, fleet)
        else:
            evidence = tuple(f"{_said(one)}: {pods.nodes_said(len(_having(one, fleet)))}" for one in wanted)
            yield problem(
                workload.document,
                wanted[0].path,
                f"none of the {len(fleet.nodes)} nodes has all the labels that the pod asks for together",
                at_key=True,
                evidence=evidence,
            )


def _is_the_writers(workload: Workload, pod_set: PodSet) -> bool:
    """Whether what selects the nodes stands in the manifest, not in what a controller makes of it."""
    return pod_set.is_written or any(workload.writes(pod_set, field) for field in ("nodeSelector", "affinity"))


def _must_all(alone: list[Wanted], wanted: list[Wanted]) -> bool:
    """Whether what nobody has is enough to refuse every node: it stands in nodeSelector, or in each term."""
    if any(one.term is None for one in alone):
        return True
    return {one.term for one in alone} == {one.term for one in wanted if one.term is not None}


def _nobody_has(workload: Workload, one: Wanted, fleet: Fleet) -> Problem:
    there = Counter(node.labels[one.key] for node in fleet.nodes if one.key in node.labels)
    total = len(fleet.nodes)
    if not there:
        near = nearest(one.key, {key for node in fleet.nodes for key in node.labels})
        advice = f"did you mean the label {near}?" if near else "kubectl get nodes --show-labels lists what there is"
        evidence = (f"0/{total} nodes have the label {one.key}",)
        return problem(
            workload.document, one.key_path, f"no node has the label {one.key}", at_key=True,
            evidence=evidence, help=advice,
        )  # fmt: skip
    said = ", ".join(f"{value} ({count})" for value, count in there.most_common(5))
    more = f" and {len(there) - 5} more" if len(there) > 5 else ""
    near = _nearest_value(one, there)
    edit = edits.replace(workload.document, one.path, edits.scalar(near)) if near and len(one.values) == 1 else None
    return problem(
        workload.document,
        one.path,
        f"no node has {_said(one)}",
        evidence=(f"0/{total} nodes have {_said(one)}", f"{one.key} is there as {said}{more}"),
        help=f"did you mean {near}?" if near else "take a value that is there",
        patch=Patch(title=f"select {near}", edits=(edit,), is_safe=False) if edit is not None else None,
    )


def _nearest_value(one: Wanted, there: Mapping[str, int]) -> str | None:
    """The value nearest by its letters; else the one that names a GPU of the same family."""
    for value in one.values:
        near = nearest(value, there)
        if near:
            return near
    family = {value.upper().replace("NVIDIA-", "").replace("-", "_").partition("_")[0] for value in one.values}
    alike = [value for value in there if (known := accelerators.find(value)) and known.name.partition("-")[0] in family]
    return alike[0] if len(alike) == 1 else None


def _having(one: Wanted, fleet: Fleet) -> list[FleetNode]:
    return [
        node
        for node in fleet.nodes
        if one.key in node.labels and (not one.values or node.labels[one.key] in one.values)
    ]


def _said(one: Wanted) -> str:
    if len(one.values) == 1:
        return f"{one.key}={one.values[0]}"
    return f"{one.key} in ({', '.join(one.values)})" if one.values else f"the label {one.key}"


def _pool_could(wanted: list[Wanted], fleet: Fleet) -> bool:
    """Whether a pool that may grow names labels that do not speak against the pod: its nodes may be what is waited
    for. A label of which the pool says nothing may come with its nodes."""
    for pool in fleet.pools:
        if pool.num_more == 0:
            continue
        types = {"node.kubernetes.io/instance-type": pool.instance_types}
        if all(
            pool.labels[one.key] in one.values or not one.values
            if one.key in pool.labels
            else not types.get(one.key) or not one.values or bool(set(types[one.key]) & set(one.values))
            for one in wanted
        ) and any(one.key in pool.labels or one.key in types for one in wanted):
            return True
    return False


@rule(
    id="IL103",
    name="selected-nodes-have-no-gpus",
    family="selection",
    severity=Severity.ERROR,
    subject=Workload,
    summary="GPUs are asked for, and the nodes that the selector takes offer none",
    why="The labels match, and still nothing fits: the nodes are of another kind, their device plugin does not run, or "
    "their GPUs have fallen off. The pod stays Pending with `Insufficient nvidia.com/gpu`.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeSelector:
    pool: cpu
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 1
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeSelector:
    pool: gpu
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 1
""",
    sources=(
        ASSIGNING,
        Source("https://github.com/NVIDIA/aicr/issues/1858", "a node that is labelled for GPUs it does not offer"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(
        examples.node("gpu1", labels={"pool": "gpu"}), examples.node("cpu1", gpus=0, labels={"pool": "cpu"})
    ),
)
def selected_nodes_have_no_gpus(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None:
        return
    for pod_set in workload.pod_sets:
        resource, number = pod_set.gpus()
        wanted = list(wanted_labels(pod_set))
        taken = pods.matched(pod_set, context)
        if not number or not wanted or not taken or any(node.allocatable.get(resource) for node in taken):
            continue
        if not _is_the_writers(workload, pod_set) or _pool_could(wanted, fleet):
            continue
        elsewhere = sum(1 for node in fleet.nodes if node.allocatable.get(resource))
        offers = sorted({name for node in taken for name in node.allocatable if "gpu" in name or "mig" in name})
        yield problem(
            workload.document,
            wanted[0].path,
            f"the {pods.nodes_said(len(taken))} that the pod may be on offer no {resource}",
            at_key=True,
            evidence=(
                f"{_said(wanted[0])}: {pods.nodes_said(len(taken))}, with {resource}: 0",
                f"{resource} is on {pods.nodes_said(elsewhere)} of other labels",
                *((f"they offer {', '.join(offers)}",) if offers else ()),
            ),
        )


@rule(
    id="IL105",
    name="selector-contradicts-itself",
    family="selection",
    severity=Severity.ERROR,
    subject=Workload,
    summary="nodeSelector and node affinity that no node can match together",
    why="nodeSelector and every expression of a term count together: a key that must be one value and another at once "
    "matches nothing on any cluster. Terms are alternatives, expressions inside of one are not.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  nodeSelector:
    kubernetes.io/arch: amd64
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions:
          - key: kubernetes.io/arch
            operator: In
            values: [arm64]
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  nodeSelector:
    kubernetes.io/arch: arm64
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions:
          - key: kubernetes.io/arch
            operator: In
            values: [arm64]
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(ASSIGNING,),
)
def selector_contradicts_itself(workload: Workload, _context: Context) -> Iterator[Problem]:
    inside = ("affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms")
    for pod_set in workload.pod_sets:
        selector = {
            key: value for key, value in look.mapping(pod_set.spec, ("nodeSelector",)).items() if isinstance(value, str)
        }
        terms = look.entries(pod_set.spec, inside)
        clashes = [_clash(term, selector) for term in terms]
        if not terms or not all(clashes):
            continue
        index, key = clashes[0] or (0, "")
        yield problem(
            workload.document,
            (*pod_set.path, *inside, 0, "matchExpressions", index),
            f"no node can match: {key} is asked for in two ways that exclude each other",
            evidence=tuple(f"nodeSelector has {one}={value}" for one, value in selector.items() if one == key),
        )


def _clash(term: object, selector: Mapping[str, str]) -> tuple[int, str] | None:
    """(number of the expression, its key) that cannot be met in a term, given the rest of it and the selector."""
    allowed: dict[str, set[str]] = {key: {value} for key, value in selector.items()}
    for index, one in enumerate(look.entries(term, ("matchExpressions",))):
        key = look.text(one, ("key",))
        values = {value for value in look.entries(one, ("values",)) if isinstance(value, str)}
        match look.text(one, ("operator",)):
            case "In":
                allowed[key] = allowed.get(key, values) & values
            case "NotIn" if key in allowed:
                allowed[key] = allowed[key] - values
            case "DoesNotExist" if key in allowed:
                allowed[key] = set()
        if key in allowed and not allowed[key]:
            return index, key
    return None
