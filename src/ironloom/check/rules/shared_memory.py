"""/dev/shm: whether it is there, in memory, and no larger than the container may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import added, edits, look, pods
from ironloom.check.finding import Confidence, Edit, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.units import MIB, format_bytes, parse_quantity
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, PodSet, Workload

SHM = "/dev/shm"
SHM_DEFAULT_BYTES = 64 * MIB
"""What container runtimes give a pod without a volume there."""
TENSOR_PARALLEL = ("--tensor-parallel-size", "--tp-size", "--tp", "--num-shard", "--tensor-parallel")
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
            if added.has_shared_memory(workload.document, container):
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
                f"the volume may hold {format_bytes(size)}, against a memory limit of {format_bytes(sum(limits))}",
                evidence=tuple(f"{one.name}: limit {format_bytes(one.limits['memory'])}" for one in users),
            )


def _mounts(container: Container) -> list[Any]:
    return look.entries(container.spec, ("volumeMounts",))


def _bytes(value: object) -> int | None:
    try:
        size = int(parse_quantity(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    except ValueError:
        return None
    return size if size is not None and size < 2**63 else None
