"""The devices of a fast network: whether pods that talk across nodes ask for them and may use them."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.catalog import instances
from ironloom.check import edits, look, pods
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.labels import wanted_labels
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.fleet.model import FleetNode
from ironloom.workload.workload import PodSet, Workload

FABRIC_RESOURCES = (
    "rdma/", "vpc.amazonaws.com/efa", "networking.gke.io.networks/", "openshift.io/", "nvidia.com/hostdev",
    "mellanox.com/", "intel.com/",
)  # fmt: skip
"""Beginnings of resource names by which device plugins give network devices."""


@rule(
    id="IL304",
    name="fabric-device-not-asked-for",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a gang over several nodes with a fast fabric that asks for no device of it",
    why="InfiniBand, RoCE and EFA devices are given to pods that ask for them. Without the resource NCCL finds none "
    "and goes over TCP, without an error: training runs at a small part of the speed that is paid for.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 2
  completions: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      nodeSelector:
        node.kubernetes.io/instance-type: gd-8xh100ib-i128
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --nproc-per-node=8, train.py]
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
    spec:
      restartPolicy: Never
      nodeSelector:
        node.kubernetes.io/instance-type: gd-8xh100ib-i128
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --nproc-per-node=8, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
            rdma/ib: 1
""",
    sources=(
        Source("https://docs.coreweave.com/products/networking/hpc-interconnect/use-gpudirect-rdma", "rdma/ib: 1"),
        Source("https://github.com/vllm-project/vllm/issues/42075", "NCCL on TCP without an error"),
        Source("https://docs.aws.amazon.com/eks/latest/userguide/node-efa.html", "vpc.amazonaws.com/efa"),
    ),
)
def fabric_device_not_asked_for(workload: Workload, context: Context) -> Iterator[Problem]:
    if not pods.is_together(workload):
        return
    for pod_set in workload.pod_sets:
        resource, number = pod_set.gpus()
        holders = list(pods.gpu_containers(pod_set))
        if not holders or number < 1 or pod_set.num_pods < 2 or pod_set.spec.get("hostNetwork") is True:
            continue
        if pod_set.spec.get("resourceClaims") or any(name.startswith(FABRIC_RESOURCES) for name in pod_set.requests):
            continue
        if _uses_nvlink_alone(pod_set):
            continue
        told = _fabric_of(pod_set, context, resource, number)
        if told is None:
            continue
        device, evidence, confidence = told
        container = holders[0][0]
        part = "limits" if look.mapping(container.spec, ("resources", "limits")) else "requests"
        edit = edits.add_first(workload.document, (*container.path, "resources", part), [f"{device}: 1"])
        is_plain = device.startswith("rdma/")
        yield problem(
            workload.document,
            (*container.path, "resources"),
            f"{pod_set.num_pods} pods talk across nodes, and none asks for {device}: NCCL goes over TCP",
            at_key=True,
            evidence=(evidence,),
            help=f"ask for {device}",
            patch=Patch(title=f"ask for {device}", edits=(edit,), is_safe=False) if edit and is_plain else None,
            confidence=confidence,
        )


def _uses_nvlink_alone(pod_set: PodSet) -> bool:
    """Whether the pods are kept inside one NVLink domain, where NCCL needs no other network."""
    return any(
        wish.is_required and wish.key in ("nvidia.com/gpu.clique", "ds.coreweave.com/nvlink.domain")
        for wish in pod_set.topology
    )


def _fabric_of(pod_set: PodSet, context: Context, resource: str, number: int) -> tuple[str, str, Confidence] | None:
    """(device to ask for, what says so, how sure) of the nodes that the pods may be on; None where they have none, or
    where it is not known."""
    if context.fleet is not None and context.fleet.nodes:
        nodes = [one for one in pods.matched(pod_set, context) if one.allocatable.get(resource, 0) >= number]
        devices = [_device(node) for node in nodes]
        if not nodes or not all(devices):
            return None
        return (
            devices[0],
            f"{pods.nodes_said(len(nodes))} with room for the pod: {devices[0]} on each",
            Confidence.CERTAIN,
        )
    for one in wanted_labels(pod_set):
        if one.key == "backend.coreweave.cloud/flavor" and one.values == ("infiniband",):
            return "rdma/ib", "its nodes are selected by their fabric", Confidence.LIKELY
        types = [instances.find(value) for value in one.values]
        known = [each for each in types if each is not None]
        if not known or len(known) < len(one.values):
            continue
        if all(each.provider == "coreweave" and each.network in ("infiniband", "roce") for each in known):
            said = f"{known[0].name} has {known[0].network}"
            rate = f" of {known[0].gbit_per_s:g} Gbit/s" if known[0].gbit_per_s else ""
            return "rdma/ib", said + rate, Confidence.LIKELY
        if all(each.network == "efa" for each in known):
            return "vpc.amazonaws.com/efa", f"{known[0].name} has EFA", Confidence.LIKELY
    return None


def _device(node: FleetNode) -> str:
    found = sorted(
        name for name, amount in node.allocatable.items() if amount and name.startswith(FABRIC_RESOURCES[:3])
    )
    return found[0] if found else ""


@rule(
    id="IL305",
    name="rdma-without-memory-lock",
    family="network",
    severity=Severity.NOTE,
    subject=Workload,
    summary="an RDMA device without the capability IPC_LOCK",
    why="RDMA registers memory, and registered memory is locked. Where the container runtime limits locked memory (64 "
    "KB to 64 MB by default), ibv_reg_mr fails with `Cannot allocate memory` unless the container has IPC_LOCK. "
    "Clouds that lift the limit on their nodes, CoreWeave among them, need nothing.",
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
        rdma/hca_shared_devices_a: 1
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
    securityContext:
      capabilities:
        add: [IPC_LOCK]
    resources:
      limits:
        nvidia.com/gpu: 8
        rdma/hca_shared_devices_a: 1
""",
    sources=(
        Source(
            "https://github.com/Mellanox/k8s-rdma-sriov-dev-plugin/issues/29", "no queue pair without IPC_LOCK in a pod"
        ),
        Source("https://github.com/Mellanox/k8s-rdma-shared-dev-plugin", "the sample pod adds IPC_LOCK"),
    ),
)
def rdma_without_memory_lock(workload: Workload, _context: Context) -> Iterator[Problem]:
    # KServe lays the template over a preset of the cluster's; its presets for several nodes add the capability.
    if workload.kind == "LLMInferenceService" and workload.num_pods > 1:
        return
    for pod_set in workload.pod_sets:
        for container in pods.main_containers(pod_set):
            device = next((name for name in container.requests if name.startswith("rdma/")), None)
            # CoreWeave's name for it; its own samples add no capability.
            if device is None or device == "rdma/ib":
                continue
            context = look.mapping(container.spec, ("securityContext",))
            added = [str(one).upper() for one in look.entries(context, ("capabilities", "add"))]
            if context.get("privileged") is True or {"IPC_LOCK", "CAP_IPC_LOCK", "ALL"} & set(added):
                continue
            yield problem(
                workload.document,
                container.path,
                f"container {container.name} asks for {device} and may not lock memory",
                help="add securityContext.capabilities.add: [IPC_LOCK], unless the nodes lift the limit",
                confidence=Confidence.POSSIBLE,
            )
            return  # once says it for all of the workload's pods
