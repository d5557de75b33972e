"""Whether the labels that a pod asks of its node are on any node, and whether the node lets it on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec

from ironloom.catalog import accelerators, instances
from ironloom.check import edits, look, pods
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.fleet.model import Fleet, FleetNode, Taint
from ironloom.place.affinity import REQUIRED
from ironloom.place.fit import untolerated
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.workload import PodSet, Workload

ASSIGNING = Source(
    "https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/",
    "a pod waits until a node has every label that it asks for",
)
COREWEAVE_KEYS = frozenset({"gpu.nvidia.com/class", "gpu.nvidia.com/model"})
GFD_PRODUCT = "nvidia.com/gpu.product"
GKE_ACCELERATOR = "cloud.google.com/gke-accelerator"
KARPENTER_GPU = "karpenter.k8s.aws/instance-gpu-name"
GKE_VALUES = frozenset(
    {
        "nvidia-tesla-k80", "nvidia-tesla-p4", "nvidia-tesla-p100", "nvidia-tesla-v100", "nvidia-tesla-t4",
        "nvidia-tesla-a100", "nvidia-a100-80gb", "nvidia-l4", "nvidia-h100-80gb", "nvidia-h100-mega-80gb",
        "nvidia-h200-141gb", "nvidia-b200", "nvidia-gb200", "nvidia-gb300", "nvidia-b300", "nvidia-rtx-pro-6000",
    }
)  # fmt: skip
"""https://cloud.google.com/kubernetes-engine/docs/concepts/gpus"""
_NAMED_ALONE = frozenset({"H100", "H200", "B200", "B300", "GB200", "GB300", "L4", "L40", "L40S"})
"""Drivers that know these call them `NVIDIA H100 80GB HBM3` and so on, never by the family alone."""
_COREWEAVE_OLDER = frozenset({"A100-PCIe-80GB", "A100-PCIe-40GB", "A100-SXM4-40GB"})
"""Sold before, and seen as labels."""


class Wanted(msgspec.Struct, frozen=True):
    """One label that a pod requires of its node."""

    key: str
    values: tuple[str, ...]
    """One of them; empty for any value."""
    path: Path
    """Of the value, or of the list of values."""
    key_path: Path
    term: int | None
    """Number of the nodeSelectorTerm it stands in; None for nodeSelector."""


def wanted_labels(pod_set: PodSet) -> Iterator[Wanted]:
    """The labels that nodeSelector and required node affinity ask for by value or existence."""
    base: Path = (*pod_set.path, "nodeSelector")
    for key, value in look.mapping(pod_set.spec, ("nodeSelector",)).items():
        if isinstance(value, str):
            yield Wanted(key, (value,), (*base, key), (*base, key), None)
    inside = ("affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms")
    for index, term in enumerate(look.entries(pod_set.spec, inside)):
        for number, one in enumerate(look.entries(term, ("matchExpressions",))):
            key, operator = look.text(one, ("key",)), look.text(one, ("operator",))
            values = tuple(value for value in look.entries(one, ("values",)) if isinstance(value, str))
            path: Path = (*pod_set.path, *inside, index, "matchExpressions", number)
            if key and operator == "In" and values:
                exact = (*path, "values", 0) if len(values) == 1 else (*path, "values")
                yield Wanted(key, values, exact, (*path, "key"), index)
            elif key and operator == "Exists":
                yield Wanted(key, (), path, (*path, "key"), index)


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
    id="IL102",
    name="gpu-label-value-unknown",
    family="selection",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a GPU label value that its cloud does not use",
    why="The value is a GPU's name in another spelling than the one the nodes are labelled with, or a product that the "
    "cloud does not have. Where no node has it, the pod is Pending for ever. Without a fleet this is told from the "
    "catalogue; with one, what the nodes have decides.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeSelector:
    gpu.nvidia.com/model: H100_NVL
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 2
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeSelector:
    gpu.nvidia.com/model: H100_NVLINK_80GB
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 2
""",
    sources=(
        Source("https://docs.coreweave.com/platform/instances/gpu-instances", "which GPUs CoreWeave's instances carry"),
        Source("https://github.com/skypilot-org/skypilot/issues/5628", "a CoreWeave node's labels: H100_NVLINK_80GB"),
        Source("https://cloud.google.com/kubernetes-engine/docs/concepts/gpus", "the values of GKE's label"),
        Source("https://github.com/NVIDIA/k8s-device-plugin/tree/main/docs/gpu-feature-discovery", "gpu.product"),
    ),
)
def gpu_label_value_unknown(workload: Workload, context: Context) -> Iterator[Problem]:
    if context.fleet is not None and context.fleet.nodes:
        return  # what its nodes are labelled with is known: IL101 looks there
    for pod_set in workload.pod_sets:
        for one in wanted_labels(pod_set):
            wrong = [(value, told) for value in one.values if (told := _wrong_value(one.key, value))]
            if not wrong or len(wrong) < len(one.values):
                continue
            value, (why, instead) = wrong[0]
            yield problem(
                workload.document,
                one.path,
                f"{one.key}={value} is on no node that is known: {why}",
                evidence=(instead,),
                help="read the label off a node: kubectl get nodes -L " + one.key,
                confidence=Confidence.LIKELY,
            )


def _wrong_value(key: str, value: str) -> tuple[str, str] | None:
    """(why no node has this value, what there is instead); None where it may be."""
    if key in COREWEAVE_KEYS:
        return _wrong_coreweave(value)
    if key == GKE_ACCELERATOR and value not in GKE_VALUES:
        near = nearest(value, GKE_VALUES)
        return ("GKE has no accelerator of that name", f"near it: {near}") if near else None
    if key == GFD_PRODUCT and value in _NAMED_ALONE:
        known = accelerators.find(value)
        full = [alias for alias in (known.aliases if known else ()) if alias.startswith("NVIDIA-")]
        said = f"such as {full[0]}" if full else "such as NVIDIA-L4"
        return "GPU Feature Discovery writes the driver's whole product name", said
    if key == KARPENTER_GPU and value != value.lower():
        return "Karpenter writes it in small letters", value.lower()
    return None


def _wrong_coreweave(value: str) -> tuple[str, str] | None:
    found = accelerators.find(value)
    if found is None or found.name in _COREWEAVE_OLDER:
        return None
    family = found.name.partition("-")[0]
    sold = [one for one in instances.INSTANCES.values() if one.provider == "coreweave"]
    alike = [one for one in sold if one.accelerator.partition("-")[0] == family]
    if not alike or any(one.accelerator == found.name for one in alike):
        return None
    said = "; ".join(f"{one.name} has {one.num_gpus} {one.accelerator}" for one in alike)
    return f"CoreWeave has no instance with {found.name}", f"its instance types with {family}: {said}"


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
    id="IL104",
    name="taint-not-tolerated",
    family="selection",
    severity=Severity.ERROR,
    subject=Workload,
    summary="every node that could run the pod has a taint that it does not tolerate",
    why="GPU nodes are often tainted so that other pods stay off. Without the toleration the GPU pod stays off too, as "
    "Pending with `untolerated taint`. On GKE a pod that asks for GPUs is given the toleration; elsewhere it must be "
    "written.",
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
        nvidia.com/gpu: 1
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  tolerations:
  - key: nvidia.com/gpu
    operator: Exists
    effect: NoSchedule
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 1
""",
    sources=(
        Source("https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/", "how taints keep off"),
        Source("https://github.com/NVIDIA/aicr/issues/2314", "GPU pods without a toleration for the nodes' taint"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(
        examples.node("g1", taints=(Taint(key="nvidia.com/gpu", value="present", effect="NoSchedule"),))
    ),
)
def taint_not_tolerated(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None:
        return
    more = pods.tolerations(workload, context)
    for pod_set in workload.pod_sets:
        resource, number = pod_set.gpus()
        able = [
            node for node in pods.matched(pod_set, context) if not number or node.allocatable.get(resource, 0) >= number
        ]
        kept = [(node, taint) for node in able if (taint := untolerated(pod_set, node, more)) is not None]
        if not able or len(kept) < len(able) or not pod_set.is_written:
            continue
        taints = Counter(taint for _, taint in kept)
        taint, _ = taints.most_common(1)[0]
        said = sorted(
            f"{count} node(s) had untolerated taint {{{one.key}: {one.value}}}" for one, count in taints.items()
        )
        yield problem(
            workload.document,
            pod_set.path,
            f"none of the {pods.nodes_said(len(able))} that could run the pod lets it on: {taint.key} is not tolerated",
            at_key=True,
            evidence=(f"0/{len(able)} nodes are available: {', '.join(said)}",),
            help=f"tolerate {taint.key}",
            patch=_tolerate(workload, pod_set, taint),
            confidence=Confidence.LIKELY if pod_set.spec.get("runtimeClassName") else Confidence.CERTAIN,
        )


def _tolerate(workload: Workload, pod_set: PodSet, taint: Taint) -> Patch | None:
    item = [f"- key: {taint.key}", "  operator: Exists", f"  effect: {taint.effect}"]
    if "tolerations" in pod_set.spec:
        edit = edits.add_first(workload.document, (*pod_set.path, "tolerations"), item)
    else:
        edit = edits.add_first(workload.document, pod_set.path, ["tolerations:", *item])
    return Patch(title=f"tolerate {taint.key}", edits=(edit,)) if edit is not None else None


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


@rule(
    id="IL106",
    name="node-name-fixed",
    family="selection",
    severity=Severity.WARNING,
    subject=Workload,
    summary="nodeName in a pod: no scheduler looks at its GPUs",
    why="A pod with nodeName skips the scheduler: nothing checks whether GPUs are free, and the kubelet refuses it "
    "(OutOfnvidia.com/gpu) when they are not. All replicas go to the one node; queues, gangs and taints are passed by.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeName: g0b4c1e
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
    kubernetes.io/hostname: g0b4c1e
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 1
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodename",
            "the scheduler ignores the pod, and the kubelet refuses what does not fit",
        ),
        Source("https://github.com/kubernetes/kubernetes/issues/98928", "a pod that the kubelet refused stays so"),
    ),
)
def node_name_fixed(workload: Workload, _context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        name = look.text(pod_set.spec, ("nodeName",))
        # A pod out of a cluster has been given its node by the scheduler.
        if name and pod_set.gpus()[1] and "status" not in workload.document.obj:
            yield problem(
                workload.document,
                (*pod_set.path, "nodeName"),
                f"nodeName {name} passes the scheduler by: nobody checks whether its GPUs are free",
                help=f"select the node by its label: nodeSelector kubernetes.io/hostname: {name}",
            )


@rule(
    id="IL107",
    name="runtime-class-unknown",
    family="selection",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a runtimeClassName that the cluster does not have",
    why="The API server's admission refuses a pod whose RuntimeClass does not exist; the controller tries again and "
    "again, and no pod is ever made.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  runtimeClassName: nvidia-cdi
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  runtimeClassName: nvidia
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
""",
    sources=(
        Source("https://kubernetes.io/docs/concepts/containers/runtime-class/", "the class must be there beforehand"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(
        examples.node("g1"), names={"node.k8s.io/RuntimeClass": frozenset({"nvidia"})}
    ),
)
def runtime_class_unknown(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None:
        return
    for pod_set in workload.pod_sets:
        name = look.text(pod_set.spec, ("runtimeClassName",))
        if (
            not name
            or fleet.has("node.k8s.io/RuntimeClass", name) is not False
            or context.named("RuntimeClass", name, "")
        ):
            continue
        there = sorted(fleet.names["node.k8s.io/RuntimeClass"])
        near = nearest(name, there)
        yield problem(
            workload.document,
            (*pod_set.path, "runtimeClassName"),
            f"the cluster has no RuntimeClass {name}",
            evidence=(f"it has {', '.join(there) or 'none'}",),
            help=f"did you mean {near}?" if near else "",
        )
