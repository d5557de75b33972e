"""Values of the labels by which clouds name their GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.catalog import accelerators, instances
from ironloom.check.finding import Confidence, Severity
from ironloom.check.labels import wanted_labels
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.workload import Workload

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
