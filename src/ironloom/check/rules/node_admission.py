"""Whether a node lets the pod on: its taints, its runtime classes, and a node that is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ironloom.check import edits, look, pods
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.fleet.model import Taint
from ironloom.place.fit import untolerated
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.workload import PodSet, Workload


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
