"""Whether an image is made for the processors of the nodes that its pods are to run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ironloom.catalog import accelerators, instances
from ironloom.check import images, pods
from ironloom.check.fields import PLACEHOLDER
from ironloom.check.finding import Confidence, Severity
from ironloom.check.labels import wanted_labels
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.workload import PodSet, Workload

ARCH_LABELS = frozenset({"kubernetes.io/arch", "beta.kubernetes.io/arch"})
GRACE = ("GH200", "GB200", "GB300")
"""Beginnings of the names of accelerators that come with a Grace CPU, which is of arm64."""


@rule(
    id="IL109",
    name="image-of-another-architecture",
    family="selection",
    severity=Severity.ERROR,
    subject=Workload,
    summary="an image for amd64 on nodes of arm64, or the other way round",
    why="GB200, GB300 and GH200 nodes have Grace CPUs, which are arm64. An image that is published for amd64 alone is "
    "not found there (`no matching manifest for linux/arm64`), or it starts and ends at once with `exec format "
    "error`; a gang then waits for pods that never run.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeSelector:
    node.kubernetes.io/instance-type: gb200-4x
  containers:
  - name: main
    image: vllm/vllm-openai:v0.9.2
    resources:
      limits:
        nvidia.com/gpu: 4
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeSelector:
    node.kubernetes.io/instance-type: gb200-4x
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 4
""",
    sources=(
        Source("https://github.com/vllm-project/vllm/issues/22206", "amd64 was the only build on Docker Hub"),
        Source("https://github.com/vllm-project/vllm/issues/30076", "Exec format error on aarch64"),
        Source(
            "https://cloud.google.com/kubernetes-engine/docs/how-to/prepare-arm-workloads-for-deployment",
            "an image must be built for the nodes' architecture",
        ),
    ),
)
def image_of_another_architecture(workload: Workload, context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        nodes = _architectures(workload, pod_set, context)
        for container in pod_set.containers if nodes else ():
            made = images.architecture(container.image)
            if made is None or PLACEHOLDER.search(container.image):
                continue
            wrong = {arch: why for arch, why in nodes.items() if arch != made[0]}
            if not wrong:
                continue
            said = " and ".join(wrong)
            is_all = len(wrong) == len(nodes)
            yield problem(
                workload.document,
                (*container.path, "image"),
                f"{container.image} is for {made[0]}, and the pod runs on {said}"
                if is_all
                else f"{container.image} is for {made[0]}, and some nodes that take the pod are of {said}",
                evidence=(made[1], *nodes.values()),
                help=f"take an image that is built for {said}"
                if is_all
                else f"take one that is built for both, or select nodes by kubernetes.io/arch: {made[0]}",
                severity=None if is_all else Severity.WARNING,
                confidence=Confidence.LIKELY,
            )


def _architectures(workload: Workload, pod_set: PodSet, context: Context) -> Mapping[str, str]:
    """The architectures of the nodes that the pods may run on, each with what says so; none where it is not known."""
    if context.fleet is not None and context.fleet.nodes:
        found: dict[str, int] = {}
        for node in pods.able(workload, pod_set, context):
            arch = node.labels.get("kubernetes.io/arch")
            if not arch:
                return {}
            found[arch] = found.get(arch, 0) + 1
        return {arch: f"{pods.nodes_said(count)} that take the pod: {arch}" for arch, count in found.items()}
    for one in wanted_labels(pod_set):
        if one.key in ARCH_LABELS and len(one.values) == 1:
            return {one.values[0]: f"{one.key}: {one.values[0]}"}
    for one in wanted_labels(pod_set):
        if one.values and all(_is_grace(value) for value in one.values):
            return {images.ARM64: f"{one.values[0]} has Grace CPUs"}
    if context.accelerator is not None and context.accelerator.name.startswith(GRACE) and pod_set.gpus()[1]:
        return {images.ARM64: f"{context.accelerator.name} comes with a Grace CPU"}
    return {}


def _is_grace(value: str) -> bool:
    """Whether a label's value names an instance type or a GPU that comes with a Grace CPU."""
    kind = instances.find(value)
    known = kind.accelerator if kind is not None else None
    if known is None:
        found = accelerators.find(value)
        known = found.name if found is not None else ""
    return known.startswith(GRACE)
