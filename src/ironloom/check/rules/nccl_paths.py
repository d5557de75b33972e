"""NCCL's variables by which a gang loses its fast paths."""

from __future__ import annotations

from collections.abc import Iterator

from ironloom.catalog import accelerators, instances
from ironloom.check import pods
from ironloom.check.finding import Severity
from ironloom.check.labels import wanted_labels
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.nccl import ENV, each_variable
from ironloom.workload.workload import PodSet, Workload

_NVLINK_FORMS = ("SXM", "Superchip", "OAM")


@rule(
    id="IL323",
    name="nccl-infiniband-off",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="NCCL_IB_DISABLE=1 in a gang that has RDMA devices or runs on nodes with a fabric",
    why="With it NCCL goes over TCP sockets between nodes: a few GB/s in place of hundreds. The setting is often left "
    "from a test on another cluster, and nothing tells that it is slow.",
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
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --nproc-per-node=8, train.py]
        env:
        - name: NCCL_IB_DISABLE
          value: "1"
        resources:
          limits:
            nvidia.com/gpu: 8
            rdma/ib: 1
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
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --nproc-per-node=8, train.py]
        env:
        - name: NCCL_IB_HCA
          value: ibp
        resources:
          limits:
            nvidia.com/gpu: 8
            rdma/ib: 1
""",
    sources=(
        ENV,
        Source("https://github.com/vllm-project/vllm/issues/42075", "NCCL on TCP without an error"),
    ),
)
def nccl_infiniband_off(workload: Workload, context: Context) -> Iterator[Problem]:
    if not pods.is_together(workload):
        return
    for pod_set, _, variable in each_variable(workload):
        if variable.name != "NCCL_IB_DISABLE" or variable.value.strip() in ("", "0"):
            continue
        asked = [name for one in workload.pod_sets for name in one.requests if name.startswith("rdma/")]
        nodes = pods.matched(pod_set, context)
        fabric = [node for node in nodes if any(link.kind in ("infiniband", "roce") for link in node.links)]
        if not asked and (not fabric or len(fabric) < len(nodes)):
            continue
        rate = {link.gbit_per_s for node in fabric for link in node.links if link.kind in ("infiniband", "roce")}
        said = f" of {max(one for one in rate if one):g} Gbit/s a rail" if any(rate) else ""
        yield problem(
            workload.document,
            variable.path,
            "NCCL_IB_DISABLE sends the gang's traffic between nodes over TCP",
            evidence=(
                *((f"the pods ask for {asked[0]}, which then is of no use",) if asked else ()),
                *((f"{len(fabric)} of {pods.nodes_said(len(nodes))} have a fabric{said}",) if fabric else ()),
            ),
            help="leave it out",
        )


@rule(
    id="IL324",
    name="nccl-interface-cannot-reach",
    family="network",
    severity=Severity.ERROR,
    subject=Workload,
    summary="NCCL_SOCKET_IFNAME=lo or docker0 in a gang over several nodes",
    why="NCCL makes its first connections over this interface. lo and docker0 end at the node: the ranks of other "
    "nodes cannot be reached, and ncclCommInitRank fails or hangs.",
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
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --nproc-per-node=8, train.py]
        env:
        - name: NCCL_SOCKET_IFNAME
          value: lo
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
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --nproc-per-node=8, train.py]
        env:
        - name: NCCL_SOCKET_IFNAME
          value: eth0
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(
        ENV,
        Source("https://github.com/NVIDIA/nccl/blob/master/src/misc/socket.cc", "find the interface or fail"),
    ),
)
def nccl_interface_cannot_reach(workload: Workload, _context: Context) -> Iterator[Problem]:
    if not pods.is_together(workload):
        return
    for pod_set, _, variable in each_variable(workload):
        if variable.name not in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME") or not pod_set.gpus()[1]:
            continue
        names = [name.strip().lstrip("=") for name in variable.value.split(",") if name.strip()]
        if not names or variable.value.startswith("^"):
            continue
        if all(name in ("lo", "docker", "docker0") for name in names):
            yield problem(
                workload.document,
                variable.path,
                f"{variable.name}={variable.value} reaches no other node, and the gang has {workload.num_pods} pods",
                help="name the pod's interface (eth0), or leave it out: NCCL passes lo and docker by of itself",
            )


@rule(
    id="IL325",
    name="nccl-peer-to-peer-off",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="NCCL_P2P_DISABLE=1 on GPUs that are joined by NVLink",
    why="It switches off direct copies between the GPUs of a node, NVLink among them: all-reduce goes through host "
    "memory, some ten times slower. It is a workaround for consumer cards and for broken PCIe settings.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  nodeSelector:
    node.kubernetes.io/instance-type: gd-8xh100ib-i128
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    env:
    - name: NCCL_P2P_DISABLE
      value: "1"
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
    node.kubernetes.io/instance-type: gd-8xh100ib-i128
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    resources:
      limits:
        nvidia.com/gpu: 8
""",
    sources=(ENV,),
)
def nccl_peer_to_peer_off(workload: Workload, context: Context) -> Iterator[Problem]:
    for pod_set, container, variable in each_variable(workload):
        if variable.name != "NCCL_P2P_DISABLE" or variable.value.strip() in ("", "0") or pods.gpus_of(container) < 2:
            continue
        kinds = _kinds(pod_set, context)
        if not kinds or not all(_has_nvlink(kind) for kind in kinds):
            continue
        yield problem(
            workload.document,
            variable.path,
            f"NCCL_P2P_DISABLE switches NVLink off between the {pods.gpus_of(container)} GPUs of the pod",
            evidence=tuple(_link_said(kind) for kind in sorted(kinds)),
            help="leave it out",
        )


def _kinds(pod_set: PodSet, context: Context) -> set[str]:
    """Accelerators that the pods may run on, as the fleet or the selector's instance type or product says."""
    if context.fleet is not None and context.fleet.nodes:
        return {node.accelerator for node in pods.matched(pod_set, context) if node.accelerator}
    for one in wanted_labels(pod_set):
        known = [instances.find(value) for value in one.values]
        if known and all(known):
            return {each.accelerator for each in known if each is not None}
        found = [accelerators.find(value) for value in one.values]
        if found and all(found) and "gpu" in one.key:
            return {each.name for each in found if each is not None}
    return {context.accelerator.name} if context.accelerator is not None else set()


def _has_nvlink(kind: str) -> bool:
    known = accelerators.ACCELERATORS.get(kind)
    return known is not None and bool(known.nvlink_bytes_per_s) and known.form.startswith(_NVLINK_FORMS)


def _link_said(kind: str) -> str:
    known = accelerators.ACCELERATORS[kind]
    return f"{kind}: {(known.nvlink_bytes_per_s or 0) / 1e9:g} GB/s of NVLink, both directions"
