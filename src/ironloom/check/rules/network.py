"""Shared memory, RDMA devices, and the names and ports by which pods find each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.catalog import instances
from ironloom.check import edits, look, pods
from ironloom.check.finding import Confidence, Edit, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.check.rules.selection import wanted_labels
from ironloom.fleet.model import FleetNode
from ironloom.place.fit import matching
from ironloom.place.selectors import matches_labels
from ironloom.units import MIB, format_bytes, parse_quantity
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, PodSet, Workload

SHM = "/dev/shm"
SHM_DEFAULT_BYTES = 64 * MIB
"""What container runtimes give a pod without a volume there."""
TENSOR_PARALLEL = ("--tensor-parallel-size", "--tp-size", "--tp", "--num-shard", "--tensor-parallel")
SERVER_PORTS = {"vllm": 8000, "sglang": 30000}
"""Where these servers listen when they are told nothing."""
FABRIC_RESOURCES = (
    "rdma/", "vpc.amazonaws.com/efa", "networking.gke.io.networks/", "openshift.io/", "nvidia.com/hostdev",
    "mellanox.com/", "intel.com/",
)  # fmt: skip
"""Beginnings of resource names by which device plugins give network devices."""
POD_SHM = Source(
    "https://github.com/vllm-project/production-stack/issues/276", "shared memory of 64 MB, NCCL fails at start"
)


@rule(
    id="IL301",
    name="shared-memory-small",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="several GPUs in one container, and /dev/shm of 64 MB",
    why="Processes of one pod pass data through /dev/shm: NCCL's buffers (about 10 MB a channel), vLLM's queue "
    "between its workers, batches of a DataLoader. A container without a volume there has 64 MB: NCCL ends with "
    "`Error while creating shared memory segment`, a DataLoader with `Bus error`.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    args: [--model, Qwen/Qwen3-32B, --tensor-parallel-size, "2"]
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
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    args: [--model, Qwen/Qwen3-32B, --tensor-parallel-size, "2"]
    resources:
      limits:
        nvidia.com/gpu: 2
    volumeMounts:
    - name: shm
      mountPath: /dev/shm
  volumes:
  - name: shm
    emptyDir:
      medium: Memory
      sizeLimit: 8Gi
""",
    sources=(
        POD_SHM,
        Source("https://github.com/NVIDIA/nccl/issues/525", "NCCL in a pod: no space left, and the volume as the mend"),
        Source("https://docs.vllm.ai/en/latest/deployment/k8s/", "vLLM's own manifest mounts one for tensor parallel"),
    ),
)
def shared_memory_small(workload: Workload, _context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        if pod_set.spec.get("hostIPC") is True or not pod_set.is_written:
            continue
        for container, number in pods.gpu_containers(pod_set):
            if number < 2 or pods.mounts_of(container, SHM) or not _shares(container, workload):
                continue
            if container.spec.get("envFrom") is None and container.env.get("NCCL_SHM_DISABLE") == "1":
                continue
            yield problem(
                workload.document,
                container.path,
                f"container {container.name} has {number} GPUs and {format_bytes(SHM_DEFAULT_BYTES)} of shared memory",
                evidence=("nothing is mounted at /dev/shm", f"the default is {format_bytes(SHM_DEFAULT_BYTES)}"),
                help="mount an emptyDir of medium Memory at /dev/shm",
                patch=_mount_shm(workload, pod_set, container),
                confidence=Confidence.LIKELY,
            )


def _shares(container: Container, workload: Workload) -> bool:
    """Whether processes of the container pass data to each other: by what it runs, as far as that is known."""
    known = pods.programs(container)
    if known & {"vllm", "sglang", "tgi", "trtllm", "huggingfaceserver"}:
        for launch in pods.launches(container):
            sizes = [value for name in TENSOR_PARALLEL if (value := launch.value(name)) is not None]
            if sizes:
                return sizes[-1] != "1"
        # Not said: the library's default is one GPU, yet whoever asks for two means to use them.
        return True
    return bool(known & pods.DISTRIBUTED) or (workload.is_gang and not known)


def _mount_shm(workload: Workload, pod_set: PodSet, container: Container) -> Patch | None:
    """A volume and its mount. Not where the container's writer is not the pod's (its spec is made by a controller)."""
    document, name = workload.document, "shm"
    if pods.volume(pod_set, name) is not None or look.at(document.obj, pod_set.path) is None:
        return None
    mount = [f"- name: {name}", f"  mountPath: {SHM}"]
    volume = [f"- name: {name}", "  emptyDir:", "    medium: Memory"]
    made: list[Edit | None] = []
    for path, key, item in ((container.path, "volumeMounts", mount), (pod_set.path, "volumes", volume)):
        if look.entries(document.obj, (*path, key)):
            made.append(edits.add_first(document, (*path, key), item))
        elif look.at(document.obj, (*path, key)) is None:
            made.append(edits.add_first(document, path, [f"{key}:", *item]))
        else:
            made.append(None)
    done = tuple(edit for edit in made if edit is not None)
    return Patch(title="mount /dev/shm from memory", edits=done) if len(done) == 2 else None


@rule(
    id="IL302",
    name="shared-memory-on-disk",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="an emptyDir at /dev/shm without medium: Memory",
    why="It is large enough, and it is the node's disk: what NCCL and DataLoaders put there to be quick is written to "
    "a file system, and counts as ephemeral storage.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: train
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    volumeMounts:
    - name: shm
      mountPath: /dev/shm
  volumes:
  - name: shm
    emptyDir:
      sizeLimit: 8Gi
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
    volumeMounts:
    - name: shm
      mountPath: /dev/shm
  volumes:
  - name: shm
    emptyDir:
      medium: Memory
      sizeLimit: 8Gi
""",
    sources=(
        Source("https://kubernetes.io/docs/concepts/storage/volumes/#emptydir", "without a medium it is on disk"),
    ),
)
def shared_memory_on_disk(workload: Workload, _context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        for container in pods.main_containers(pod_set):
            for mount in pods.mounts_of(container, SHM):
                found = pods.volume(pod_set, mount.get("name"))
                if (
                    found is None
                    or not isinstance(found[1].get("emptyDir"), Mapping | None)
                    or "emptyDir" not in found[1]
                ):
                    continue
                written = look.mapping(found[1], ("emptyDir",))
                if written.get("medium"):
                    continue
                path: Path = (*pod_set.path, "volumes", found[0], "emptyDir")
                if written:
                    edit = edits.add_first(workload.document, path, ["medium: Memory"])
                else:
                    edit = edits.replace(workload.document, path, "{medium: Memory}")
                yield problem(
                    workload.document,
                    path,
                    "the volume at /dev/shm is on the node's disk: its emptyDir has no medium: Memory",
                    at_key=True,
                    patch=Patch(title="keep it in memory", edits=(edit,)) if edit is not None else None,
                )


@rule(
    id="IL303",
    name="shared-memory-above-the-limit",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a memory volume that may grow larger than the container's memory",
    why="What is written to a volume of medium Memory counts as the container's memory. When the volume's sizeLimit is "
    "above the memory limit, the kernel kills the container before the volume is full.",
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
        memory: 16Gi
    volumeMounts:
    - name: shm
      mountPath: /dev/shm
  volumes:
  - name: shm
    emptyDir:
      medium: Memory
      sizeLimit: 64Gi
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
        memory: 128Gi
    volumeMounts:
    - name: shm
      mountPath: /dev/shm
  volumes:
  - name: shm
    emptyDir:
      medium: Memory
      sizeLimit: 64Gi
""",
    sources=(
        Source("https://kubernetes.io/docs/concepts/storage/volumes/#emptydir", "it counts as the container's memory"),
    ),
)
def shared_memory_above_the_limit(workload: Workload, _context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        for index, one in enumerate(look.entries(pod_set.spec, ("volumes",))):
            if look.text(one, ("emptyDir", "medium")) != "Memory":
                continue
            size = _bytes(look.at(one, ("emptyDir", "sizeLimit")))
            users = [
                container
                for container in pods.main_containers(pod_set)
                if any(look.at(mount, ("name",)) == look.at(one, ("name",)) for mount in _mounts(container))
            ]
            limits = [container.limits.get("memory", 0) for container in users]
            if size is None or not users or not all(limits) or size <= sum(limits):
                continue
            yield problem(
                workload.document,
                (*pod_set.path, "volumes", index, "emptyDir", "sizeLimit"),
                f"the volume may grow to {format_bytes(size)}, above the {format_bytes(sum(limits))} of its container",
                evidence=tuple(f"{one.name}: limit {format_bytes(one.limits['memory'])}" for one in users),
            )


def _mounts(container: Container) -> list[Any]:
    return look.entries(container.spec, ("volumeMounts",))


def _bytes(value: object) -> int | None:
    try:
        return int(parse_quantity(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    except ValueError:
        return None


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
        Source("https://docs.coreweave.com/docs/products/networking/hpc-interconnect/use-gpudirect-rdma", "rdma/ib: 1"),
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
        nodes = [one for one in matching(pod_set, context.fleet) if one.allocatable.get(resource, 0) >= number]
        devices = [_device(node) for node in nodes]
        if not nodes or not all(devices):
            return None
        return devices[0], f"{pods.nodes_said(len(nodes))} offer {devices[0]}", Confidence.CERTAIN
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


@rule(
    id="IL306",
    name="host-network-without-cluster-names",
    family="network",
    severity=Severity.WARNING,
    subject=Workload,
    summary="hostNetwork in a gang, and the node's DNS in place of the cluster's",
    why="A pod on the host's network takes the node's resolver unless dnsPolicy is ClusterFirstWithHostNet: names of "
    "Services and of the gang's other pods do not resolve, and the rendezvous waits until its timeout.",
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
      hostNetwork: true
      subdomain: train
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --rdzv-endpoint=train-0.train:29500, train.py]
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
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      subdomain: train
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --rdzv-endpoint=train-0.train:29500, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-dns-policy",
            "which policy a pod on the host's network needs",
        ),
        Source("https://github.com/kubeflow/mpi-operator/issues/427", "worker names that do not resolve"),
    ),
)
def host_network_without_cluster_names(workload: Workload, _context: Context) -> Iterator[Problem]:
    if not pods.is_together(workload):
        return
    for pod_set in workload.pod_sets:
        policy = look.text(pod_set.spec, ("dnsPolicy",))
        if pod_set.spec.get("hostNetwork") is not True or policy not in ("", "ClusterFirst") or not pod_set.is_written:
            continue
        document = workload.document
        if policy:
            edit = edits.replace(document, (*pod_set.path, "dnsPolicy"), "ClusterFirstWithHostNet")
        else:
            edit = edits.add_first(document, pod_set.path, ["dnsPolicy: ClusterFirstWithHostNet"])
        yield problem(
            document,
            (*pod_set.path, "hostNetwork"),
            f"the {workload.num_pods} pods find each other by name, which the host's resolver does not know",
            patch=Patch(title="resolve the cluster's names", edits=(edit,)) if edit is not None else None,
            confidence=Confidence.LIKELY,
        )


@rule(
    id="IL307",
    name="pod-names-do-not-resolve",
    family="network",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a Job's pods are addressed by name, and its template has no subdomain",
    why="A pod of an Indexed Job has the host name JOB-INDEX, and a name in DNS only when the template names a "
    "headless Service as its subdomain. Without it MASTER_ADDR and the rendezvous endpoint resolve to nothing.",
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
        command: [torchrun, --nnodes=2, --rdzv-endpoint=train-0.train:29500, train.py]
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
      subdomain: train
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=2, --rdzv-endpoint=train-0.train:29500, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication/",
            "a headless Service, and the template's subdomain with its name",
        ),
    ),
)
def pod_names_do_not_resolve(workload: Workload, _context: Context) -> Iterator[Problem]:
    if workload.document.kind != "Job" or look.group(workload.document) != "batch":
        return
    for pod_set in workload.pod_sets:
        own = look.text(pod_set.spec, ("subdomain",))
        for path, text in _addresses(pod_set):
            found = re.search(rf"\b{re.escape(workload.name)}-\d+\.([a-z0-9][-a-z0-9]*)", text)
            if found is None or own == found[1]:
                continue
            edit = edits.add_first(workload.document, pod_set.path, [f"subdomain: {found[1]}"])
            yield problem(
                workload.document,
                path,
                f"{found[0]} resolves only when the pods' subdomain is {found[1]}",
                evidence=(f"subdomain is {own}" if own else "the pod template has no subdomain",),
                help=f"set subdomain: {found[1]}, and make a headless Service of that name that selects the pods",
                patch=Patch(title=f"set subdomain {found[1]}", edits=(edit,)) if edit is not None and not own else None,
            )


def _addresses(pod_set: PodSet) -> Iterator[tuple[Path, str]]:
    """Texts that name other pods: MASTER_ADDR, and the launchers' endpoint options."""
    for container in pods.main_containers(pod_set):
        value = container.env.get("MASTER_ADDR")
        if value:
            yield (*container.env_paths["MASTER_ADDR"], "value"), value
        for launch in pods.launches(container):
            for option in launch.options:
                if option.name in _ENDPOINTS and option.value:
                    yield option.path, option.value


_ENDPOINTS = frozenset(
    {"--rdzv-endpoint", "--rdzv_endpoint", "--master-addr", "--master_addr", "--main_process_ip", "--dist-init-addr"}
)


@rule(
    id="IL308",
    name="service-unknown",
    family="network",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a rendezvous address of a Service that is neither in the run nor in the cluster",
    why="The name of another pod in DNS ends with its Service's. Where there is no such Service the ranks look for the "
    "first of them until their timeout, holding their GPUs.",
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
      subdomain: trainer
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        env:
        - name: MASTER_ADDR
          value: train-0.trainer
""",
    good="""\
apiVersion: v1
kind: Service
metadata:
  name: trainer
spec:
  clusterIP: None
  selector: {job-name: train}
---
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
      subdomain: trainer
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        env:
        - name: MASTER_ADDR
          value: train-0.trainer
""",
    sources=(
        Source("https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/", "names of pods in DNS"),
    ),
    needs_fleet=True,
    example_fleet=lambda: examples.fleet(examples.node("g1"), names={"/Service": frozenset({"default/kubernetes"})}),
)
def service_unknown(workload: Workload, context: Context) -> Iterator[Problem]:
    fleet = context.fleet
    if fleet is None or workload.document.kind not in ("Job", "StatefulSet", "Deployment", "Pod"):
        return  # controllers of other kinds make a Service of their own
    for pod_set in workload.pod_sets:
        for path, text in _addresses(pod_set):
            host = text.partition(":")[0].split(".")
            if not all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", part) for part in host) or host[-1].isdecimal():
                continue
            is_pod = len(host) > 1 and re.fullmatch(rf"{re.escape(workload.name)}-\d+", host[0])
            if len(host) > 1 and not is_pod and "svc" not in host:
                continue  # a name outside the cluster, or of another namespace
            name = host[1] if is_pod else host[0]
            if name == "localhost" or (len(host) == 1 and host[0] == workload.name and workload.kind == "Pod"):
                continue
            there = fleet.has("/Service", name, pods.namespace(workload))
            if there is not False or context.named("Service", name, pods.namespace(workload)) is not None:
                continue
            yield problem(
                workload.document,
                path,
                f"there is no Service {pods.namespace(workload)}/{name} for {text}",
                evidence=(f"neither these files nor {fleet.source} have it",),
                help=f"make a headless Service {name} (clusterIP: None) that selects the pods",
            )


@rule(
    id="IL309",
    name="service-port-mismatch",
    family="network",
    severity=Severity.WARNING,
    subject=Document,
    summary="a Service that sends to a port where its pods do not listen",
    why="The Service is made, its endpoints are ready, and every connection is refused. A named port that no container "
    "has gives no endpoint at all.",
    bad="""\
apiVersion: v1
kind: Service
metadata:
  name: llama
spec:
  selector: {app: llama}
  ports:
  - port: 80
    targetPort: 8080
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  selector:
    matchLabels: {app: llama}
  template:
    metadata:
      labels: {app: llama}
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        args: [--model, Qwen/Qwen3-8B, --port, "8000"]
        ports:
        - containerPort: 8000
""",
    good="""\
apiVersion: v1
kind: Service
metadata:
  name: llama
spec:
  selector: {app: llama}
  ports:
  - port: 80
    targetPort: 8000
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  selector:
    matchLabels: {app: llama}
  template:
    metadata:
      labels: {app: llama}
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        args: [--model, Qwen/Qwen3-8B, --port, "8000"]
        ports:
        - containerPort: 8000
""",
    sources=(
        Source("https://kubernetes.io/docs/tasks/debug/debug-application/debug-service/", "is the targetPort right"),
    ),
)
def service_port_mismatch(document: Document, context: Context) -> Iterator[Problem]:
    selector = look.mapping(document.obj, ("spec", "selector"))
    if document.kind != "Service" or document.api_version != "v1" or not selector:
        return
    namespace = look.text(document.obj, ("metadata", "namespace")) or "default"
    taken = [
        pod_set
        for workload in context.workloads
        if pods.namespace(workload) == namespace
        for pod_set in workload.pod_sets
        if pod_set.labels and matches_labels({"matchLabels": selector}, pod_set.labels)
    ]
    if not taken:
        return
    for index, one in enumerate(look.entries(document.obj, ("spec", "ports"))):
        target = look.at(one, ("targetPort",))
        if target is None:
            target = look.at(one, ("port",))
        path: Path = ("spec", "ports", index, "targetPort")
        if isinstance(target, str) and not target.isdecimal():
            names = {name for pod_set in taken for name in _port_names(pod_set)}
            if target not in names and all(pod_set.is_written and pod_set.containers for pod_set in taken):
                yield problem(
                    document,
                    path,
                    f"no container of the pods that the Service selects has a port named {target}",
                    evidence=(f"their ports are named {', '.join(sorted(names)) or 'nothing'}",),
                )
        elif isinstance(target, int | str):
            there = [_listening(pod_set) for pod_set in taken]
            if all(there) and not any(int(target) in found for found in there):
                said = ", ".join(str(port) for port in sorted({port for found in there for port in found}))
                yield problem(
                    document,
                    path,
                    f"the Service sends to port {target}, and its pods listen on {said}",
                    confidence=Confidence.LIKELY,
                )


def _port_names(pod_set: PodSet) -> Iterator[str]:
    for container in pod_set.containers:
        for port in look.entries(container.spec, ("ports",)):
            yield look.text(port, ("name",))


def _listening(pod_set: PodSet) -> frozenset[int]:
    """Ports that the pods listen on; none where a container runs something that is not known, as what a container
    declares is a hint and no more."""
    found: set[int] = set()
    for container in pods.main_containers(pod_set):
        servers = [launch for launch in pods.launches(container) if launch.program in SERVER_PORTS]
        if not servers:
            return frozenset()
        told = servers[-1].value("--port")
        if told is not None and not told.isdecimal():
            return frozenset()
        found.add(int(told) if told is not None else SERVER_PORTS[servers[-1].program])
        found.update(number for port in look.entries(container.spec, ("ports",))
                     if (number := look.integer(port, ("containerPort",))) is not None)  # fmt: skip
    return frozenset(found)
