"""Whether what a pod asks for is something that a node can give, and what stays idle beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from ironloom.check import edits, look, pods
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.units import format_bytes, parse_quantity
from ironloom.workload.manifests.schema import Path
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.workload import Container, PodSet, Workload

GPU_DOCS = Source(
    "https://kubernetes.io/docs/tasks/manage-gpus/scheduling-gpus/",
    "GPUs stand in limits; a request without a limit, or another than it, is refused",
)
BYTES = ("memory", "ephemeral-storage", "hugepages-")
MIG_PROFILES = frozenset(
    {
        "1g.5gb", "1g.6gb", "1g.10gb", "1g.11gb", "1g.12gb", "1g.16gb", "1g.18gb", "1g.20gb", "1g.23gb", "1g.24gb",
        "1g.34gb", "1g.35gb", "1g.45gb", "1g.47gb", "1g.67gb", "1g.70gb", "1g.71gb",
        "2g.10gb", "2g.12gb", "2g.20gb", "2g.22gb", "2g.24gb", "2g.32gb", "2g.35gb", "2g.45gb", "2g.47gb", "2g.48gb",
        "2g.67gb", "2g.70gb", "2g.71gb",
        "3g.20gb", "3g.40gb", "3g.46gb", "3g.47gb", "3g.48gb", "3g.71gb", "3g.90gb", "3g.93gb", "3g.95gb",
        "3g.135gb", "3g.139gb", "3g.141gb",
        "4g.20gb", "4g.24gb", "4g.40gb", "4g.46gb", "4g.47gb", "4g.48gb", "4g.71gb", "4g.90gb", "4g.93gb", "4g.95gb",
        "4g.96gb", "4g.135gb", "4g.139gb", "4g.141gb",
        "7g.40gb", "7g.80gb", "7g.93gb", "7g.94gb", "7g.95gb", "7g.96gb", "7g.141gb", "7g.180gb", "7g.186gb",
        "7g.189gb", "7g.269gb", "7g.278gb", "7g.279gb", "7g.284gb",
    }
)  # fmt: skip
"""https://docs.nvidia.com/datacenter/tesla/mig-user-guide/supported-mig-profiles.html"""
_MIG = re.compile(r"nvidia\.com/mig-(\d+g\.\d+gb)((?:\.me|\.gfx|\.me\.all)?)")
_CUDA_SERVER = re.compile(
    r"(?:^|/)(?:vllm/vllm-openai|lmsysorg/sglang|huggingface/text-generation-inference)(?=[:@]|$)"
)
_OTHER_DEVICE = re.compile(r"cpu|rocm|xpu|tpu|neuron|gaudi|hpu|arm64|npu|amd", re.I)


def is_extended(resource: str) -> bool:
    """Whether a resource is one of a device plugin's: whole pieces, never overcommitted."""
    return "/" in resource and not resource.startswith(("kubernetes.io/", "requests."))


def amount_said(resource: str, amount: int) -> str:
    """An amount in words: `96 cpu`, `1.9 TiB memory`, `8 nvidia.com/gpu`."""
    if resource == "cpu":
        return f"{amount / 1000:g} cpu"
    return f"{format_bytes(amount)} {resource}" if resource.startswith(BYTES) else f"{amount} {resource}"


def resource_path(pod_set: PodSet, resource: str) -> Path:
    """Where the largest request of a resource in the set is written."""
    holders = [one for one in pod_set.containers if one.requests.get(resource)]
    if not holders:
        return pod_set.path
    most = max(holders, key=lambda one: one.requests[resource])
    part = "requests" if resource in look.mapping(most.spec, ("resources", "requests")) else "limits"
    return (*most.path, "resources", part, resource)


@rule(
    id="IL120",
    name="gpu-request-is-not-its-limit",
    family="selection",
    severity=Severity.ERROR,
    subject=Workload,
    summary="GPUs in requests without a limit, or another number than it",
    why="GPUs and other devices cannot be overcommitted. The API server refuses a pod whose request of one has no "
    "limit, or another limit; of a Deployment or Job the object is accepted and its pods are not, so it stays at 0.",
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
      limits:
        nvidia.com/gpu: 2
      requests:
        nvidia.com/gpu: 2
""",
    sources=(GPU_DOCS, Source("https://github.com/kubeflow/pipelines/issues/346", "requests alone are refused")),
)
def gpu_request_is_not_its_limit(workload: Workload, _context: Context) -> Iterator[Problem]:
    for container, requests, limits in _written(workload):
        for resource, asked in requests.items():
            if not is_extended(resource) and not resource.startswith("hugepages-"):
                continue
            limit, path = limits.get(resource), (*container.path, "resources", "requests", resource)
            if limit is None:
                if not _quantity(asked):
                    continue  # asking for none is no request
                yield problem(
                    workload.document,
                    path,
                    f"{resource} is requested without a limit, which the API server refuses",
                    help=f"set limits: {resource}: {asked}",
                    patch=_add_limit(workload, container, resource, asked, bool(limits)),
                )
            elif _quantity(limit) is not None and _quantity(asked) is not None and _quantity(limit) != _quantity(asked):
                yield problem(
                    workload.document,
                    path,
                    f"{resource} is requested as {asked} and limited to {limit}: for a device they must be the same",
                    help="write one number in both, or leave the request out",
                )


def _written(workload: Workload) -> Iterator[tuple[Container, Mapping[str, object], Mapping[str, object]]]:
    for pod_set in workload.pod_sets:
        for container in pod_set.containers:
            if look.at(workload.document.obj, (*container.path, "resources")) is not None:
                spec = container.spec
                yield (
                    container,
                    look.mapping(spec, ("resources", "requests")),
                    look.mapping(spec, ("resources", "limits")),
                )


def _quantity(value: object) -> object:
    """The amount; None for what is none (a template's word, a list)."""
    try:
        return parse_quantity(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except ValueError:
        return None


def _add_limit(
    workload: Workload, container: Container, resource: str, asked: object, has_limits: bool
) -> Patch | None:
    document, base = workload.document, (*container.path, "resources")
    line = f"{resource}: {asked}" if isinstance(asked, int) else f'{resource}: "{asked}"'
    if has_limits:
        edit = edits.add_first(document, (*base, "limits"), [line])
    else:
        edit = edits.add_first(document, base, ["limits:", f"  {line}"])
    return Patch(title=f"limit {resource} to {asked}", edits=(edit,)) if edit is not None else None


@rule(
    id="IL121",
    name="gpu-not-whole",
    family="selection",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a fraction of a GPU",
    why="Devices are counted in whole pieces: the API server refuses 0.5 or 500m. A part of a GPU is asked for by what "
    "shares it: a MIG profile, time slices (1 of a node that offers more than it has), a scheduler with fractions.",
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
        nvidia.com/gpu: "0.5"
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
        nvidia.com/gpu: "1"
""",
    sources=(
        GPU_DOCS,
        Source(
            "https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#extended-resources",
            "extended resources are whole numbers",
        ),
    ),
)
def gpu_not_whole(workload: Workload, _context: Context) -> Iterator[Problem]:
    for container, requests, limits in _written(workload):
        for part, amounts in (("requests", requests), ("limits", limits)):
            for resource, asked in amounts.items():
                amount = _quantity(asked)
                if is_extended(resource) and amount is not None and amount != int(amount):  # type: ignore[call-overload]
                    yield problem(
                        workload.document,
                        (*container.path, "resources", part, resource),
                        f"{resource}: {asked} is no whole number of devices",
                        help="ask for whole ones, or for a MIG profile (nvidia.com/mig-1g.10gb: 1)",
                    )


@rule(
    id="IL127",
    name="mig-profile-unknown",
    family="selection",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a MIG resource of a profile that no GPU has",
    why="MIG profiles differ from GPU to GPU: 1g.10gb is the smallest of an H100 80 GB, 1g.18gb of an H200, 1g.23gb of "
    "a B200. A resource name that no node offers is never scheduled.",
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
        nvidia.com/mig-1g.8gb: 1
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
        nvidia.com/mig-1g.10gb: 1
""",
    sources=(
        Source(
            "https://docs.nvidia.com/datacenter/tesla/mig-user-guide/supported-mig-profiles.html",
            "the profiles of each GPU",
        ),
    ),
)
def mig_profile_unknown(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    offered = {name for node in fleet.nodes for name in node.allocatable} if fleet is not None else set()
    for container, requests, limits in _written(workload):
        for part, amounts in (("limits", limits), ("requests", requests)):
            for resource in amounts:
                if not resource.startswith("nvidia.com/mig-") or (part == "requests" and resource in limits):
                    continue
                found = _MIG.fullmatch(resource)
                if resource in offered or (found is not None and found[1] in MIG_PROFILES):
                    continue
                size = resource.removeprefix("nvidia.com/mig-")
                near = nearest(size, MIG_PROFILES)
                yield problem(
                    workload.document,
                    (*container.path, "resources", part, resource),
                    f"{size} is no MIG profile of a GPU that is known",
                    at_key=True,
                    help=f"did you mean nvidia.com/mig-{near}?" if near else "nvidia-smi mig -lgip lists a GPU's",
                    confidence=Confidence.LIKELY,
                )


@rule(
    id="IL128",
    name="gpu-server-without-gpus",
    family="selection",
    severity=Severity.WARNING,
    subject=Workload,
    summary="an inference server built for CUDA in a pod that asks for no device",
    why="The image of the server starts only on an NVIDIA GPU. A pod that asks for none is put on any node and ends "
    "with `Failed to infer device type`; where NVIDIA's runtime is the default, it takes all GPUs of a node behind the "
    "scheduler's back.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    args: [--model, Qwen/Qwen3-8B]
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
    args: [--model, Qwen/Qwen3-8B]
    resources:
      limits:
        nvidia.com/gpu: 1
""",
    sources=(
        GPU_DOCS,
        Source("https://github.com/vllm-project/vllm/pull/14200", "no GPU seen: Failed to infer device type"),
    ),
)
def gpu_server_without_gpus(workload: Workload, _context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        if any(is_extended(name) for name in pod_set.requests) or pod_set.spec.get("resourceClaims"):
            continue
        if workload.kind.startswith("Ray") or pod_set.spec.get("runtimeClassName"):
            continue  # Ray's head only directs; a runtime class may give the node's GPUs
        for container in pods.main_containers(pod_set):
            tag = container.image.partition("@")[0].rpartition(":")[2]
            if not _CUDA_SERVER.search(container.image) or _OTHER_DEVICE.search(tag):
                continue
            if "NVIDIA_VISIBLE_DEVICES" in container.env or not pods.programs(container) & {"vllm", "sglang", "tgi"}:
                continue
            yield problem(
                workload.document,
                container.path,
                f"{container.image} needs a GPU, and the pod asks for none",
                help="set resources.limits nvidia.com/gpu",
                confidence=Confidence.LIKELY,
            )


@rule(
    id="IL130",
    name="hugepages-alone",
    family="selection",
    severity=Severity.ERROR,
    subject=Workload,
    summary="huge pages without cpu or memory",
    why="The API server refuses a container that asks for huge pages and for neither cpu nor memory: `HugePages "
    "require cpu or memory`. EFA and DPDK examples that are cut down often lose them.",
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
        hugepages-2Mi: 5120Mi
        vpc.amazonaws.com/efa: 32
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
        memory: 64Gi
        hugepages-2Mi: 5120Mi
        vpc.amazonaws.com/efa: 32
""",
    sources=(
        Source("https://kubernetes.io/docs/tasks/manage-hugepages/scheduling-hugepages/", "what huge pages require"),
    ),
)
def hugepages_alone(workload: Workload, _context: Context) -> Iterator[Problem]:
    for container, requests, limits in _written(workload):
        both: Sequence[str] = [*limits, *requests]
        huge = next((name for name in both if name.startswith("hugepages-")), None)
        if huge is None or "cpu" in both or "memory" in both:
            continue
        part = "limits" if huge in limits else "requests"
        yield problem(
            workload.document,
            (*container.path, "resources", part, huge),
            f"{huge} needs cpu or memory beside it: the API server refuses the pod",
            at_key=True,
        )
