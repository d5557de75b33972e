"""What a GPU workload may reach, and who may reach it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import edits, look, pods
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.place.fit import matching
from ironloom.workload.kinds.roles import SERVERS, TRAINERS
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, PodSet, Workload

NODE_AGENTS = frozenset({"DaemonSet"})
"""Kinds whose pods are the node's own: drivers, exporters, device plugins."""
WHOLE_NODE_GPUS = 4
"""GPUs of the smallest nodes that are sold for training (GB200 NVL72: 4 a node). What asks for as many may have its
node to itself, where no fleet says otherwise."""
VLLM_SECURITY = Source(
    "https://docs.vllm.ai/en/stable/usage/security/", "what vLLM's server protects and what it leaves open"
)
_POWERS = {
    "ALL": "every capability there is",
    "SYS_ADMIN": "mounting, namespaces and most of what root may do",
    "SYS_MODULE": "loading kernel modules",
    "SYS_BOOT": "rebooting the node",
    "BPF": "programs in the kernel",
    "DAC_READ_SEARCH": "reading any file of the node that it can name",
}
"""Capabilities that lead out of the container. IPC_LOCK, SYS_PTRACE, SYS_NICE, SYS_RESOURCE and the network's are what
RDMA, debuggers and NUMA binding ask for, SYS_RAWIO what GDRCopy does: of those nothing is said."""
_SOCKETS = ("docker.sock", "containerd.sock", "crio.sock", "dockershim.sock")
# /sys and /proc are left out: the daemons of cloud fabrics (GPUDirect-TCPX) mount them beside the server.
_NODE_FOLDERS = frozenset({"/", "/etc", "/root", "/boot", "/var", "/var/lib", "/var/lib/kubelet"})
_INTERNAL = ("internal", "private")
_KEYS = frozenset({"VLLM_API_KEY", "SGLANG_API_KEY", "API_KEY", "LLAMA_API_KEY"})
_ON = frozenset({"1", "true", "yes", "on"})


def own_containers(workload: Workload) -> Iterator[tuple[PodSet, Container]]:
    """Containers that are written in the document and have GPUs, serve a model or train one: of others this project
    knows nothing."""
    if workload.kind in NODE_AGENTS:
        return
    for pod_set in workload.pod_sets:
        if not pod_set.is_written:
            continue
        for container in pods.main_containers(pod_set):
            if pods.gpus_of(container) or pods.programs(container) & (SERVERS | TRAINERS):
                yield pod_set, container


def _switch_off(document: Document, path: Path, title: str) -> Patch | None:
    edit = edits.replace(document, path, "false")
    return Patch(title=title, edits=(edit,), is_safe=False) if edit else None


def _pod(lines: str, *, above: str = "", gpus: int = 1) -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
{above}  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    args: [--model=Qwen/Qwen3-8B]
    resources:
      limits:
        nvidia.com/gpu: {gpus}
{lines}"""


@rule(
    id="IL803",
    name="privileged-sees-every-gpu",
    family="security",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a privileged container that asks for some of a node's GPUs",
    why="A privileged container has every device of the node: it sees all GPUs, whatever its limit says. A program "
    "that takes the GPUs it finds then runs on those of other pods, and both run out of memory. It can load kernel "
    "modules and leave the container too. GPUs come by nvidia.com/gpu and RDMA by the fabric's resource and IPC_LOCK; "
    "neither needs it.",
    bad=_pod("    securityContext:\n      privileged: true\n"),
    good=_pod("    securityContext:\n      capabilities:\n        add: [IPC_LOCK]\n"),
    sources=(
        Source("https://github.com/kubernetes/kubernetes/issues/81256", "a privileged pod of one GPU sees all"),
        Source("https://github.com/NVIDIA/k8s-device-plugin/issues/336", "a benchmark that ran on its neighbours"),
    ),
)
def privileged_sees_every_gpu(workload: Workload, context: Context) -> Iterator[Problem]:
    for pod_set, container in own_containers(workload):
        gpus = pods.gpus_of(container)
        path = (*container.path, "securityContext", "privileged")
        if not gpus or look.at(container.spec, ("securityContext", "privileged")) is not True:
            continue
        has_neighbours = gpus < _node_gpus(workload, pod_set, context)
        yield problem(
            workload.document,
            path,
            f"a privileged container sees every GPU of its node, whatever its limit of {gpus} says"
            if has_neighbours
            else "a privileged container has the rights of the node, which GPUs and RDMA do not need",
            help="drop it; for RDMA add the capability IPC_LOCK",
            patch=_switch_off(workload.document, path, "not privileged"),
            severity=None if has_neighbours else Severity.NOTE,
        )


def _node_gpus(workload: Workload, pod_set: PodSet, context: Context) -> int:
    """GPUs of the largest node that the pods may come to."""
    if context.fleet is None:
        return WHOLE_NODE_GPUS
    nodes = matching(pod_set, context.fleet, pods.tolerations(workload, context))
    return max((node.num_gpus for node in nodes), default=WHOLE_NODE_GPUS)


@rule(
    id="IL804",
    name="gpus-not-asked-for",
    family="security",
    severity=Severity.WARNING,
    subject=Workload,
    summary="GPUs that a container takes past the scheduler",
    why="NVIDIA_VISIBLE_DEVICES and hostPath mounts of /dev/nvidia* give a container GPUs that nobody allocated to it. "
    "The scheduler gives the same GPUs to other pods: two programs share one card's memory without knowing, quotas "
    "count nothing, and the node counts as free while it works. Where the runtime is well set up the variable is "
    "refused, and the container does not start.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    args: [--model=Qwen/Qwen3-8B]
    env:
    - name: NVIDIA_VISIBLE_DEVICES
      value: all
""",
    good=_pod(""),
    sources=(
        Source("https://github.com/NVIDIA/k8s-device-plugin/issues/87", "GPUs in a pod that asked for none"),
        Source("https://github.com/NVIDIA/k8s-device-plugin/issues/203", "refused where the variable is not trusted"),
    ),
)
def gpus_not_asked_for(workload: Workload, _context: Context) -> Iterator[Problem]:
    if workload.kind in NODE_AGENTS:
        return
    for pod_set in workload.pod_sets:
        if not pod_set.is_written or pod_set.gpus()[1] or _has_other_devices(pod_set):
            continue
        for container in pods.main_containers(pod_set):
            value = container.env.get("NVIDIA_VISIBLE_DEVICES") or ""
            if value.lower() == "all" or value.replace(",", "").isdigit() or value.startswith("GPU-"):
                yield problem(
                    workload.document,
                    (*container.env_paths["NVIDIA_VISIBLE_DEVICES"], "value"),
                    f"NVIDIA_VISIBLE_DEVICES={value} takes GPUs that the container does not ask for",
                    help="ask for nvidia.com/gpu in resources.limits and leave the variable out",
                )
        for index, path in _host_paths(pod_set):
            if path.startswith("/dev/nvidia") and path[len("/dev/nvidia") :][:1].isdigit():
                yield problem(
                    workload.document,
                    (*pod_set.path, "volumes", index, "hostPath", "path"),
                    f"{path} is a GPU that the pod does not ask for",
                    help="ask for nvidia.com/gpu in resources.limits and drop the volume",
                )


def _has_other_devices(pod_set: PodSet) -> bool:
    """Whether devices come another way: claims (DRA), or resources of a sharing layer."""
    if pod_set.spec.get("resourceClaims"):
        return True
    return any("gpu" in name.lower() or "nvidia" in name for name, amount in pod_set.requests.items() if amount)


def _host_paths(pod_set: PodSet) -> Iterator[tuple[int, str]]:
    for index, volume in enumerate(look.entries(pod_set.spec, ("volumes",))):
        path = look.text(volume, ("hostPath", "path"))
        if path:
            yield index, path if path == "/" else path.rstrip("/")


@rule(
    id="IL805",
    name="node-processes-shared",
    family="security",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a GPU pod in the node's process or shared-memory namespace",
    why="With hostPID the pod sees and signals every process of the node, and reads their environment: tokens of "
    "other tenants. With hostIPC it shares /dev/shm with all of them, and its size is the node's affair. NCCL wants "
    "shared memory of its own: an emptyDir with medium Memory at /dev/shm.",
    bad=_pod("", above="  hostIPC: true\n"),
    good=_pod(
        "    volumeMounts:\n    - name: dshm\n      mountPath: /dev/shm\n"
        "  volumes:\n  - name: dshm\n    emptyDir:\n      medium: Memory\n      sizeLimit: 16Gi\n"
    ),
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/security/pod-security-standards/#baseline",
            "host namespaces are refused from the baseline profile on",
        ),
        Source(
            "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html#shared-memory",
            "what shared memory NCCL needs",
        ),
    ),
)
def node_processes_shared(workload: Workload, _context: Context) -> Iterator[Problem]:
    told: set[Path] = set()
    for pod_set, _ in own_containers(workload):
        for key, message, severity in (
            ("hostPID", "hostPID shows the pod every process of the node, with their environment", None),
            ("hostIPC", "hostIPC shares the node's /dev/shm with every pod that does so", Severity.NOTE),
        ):
            path = (*pod_set.path, key)
            if pod_set.spec.get(key) is True and path not in told:
                told.add(path)
                yield problem(
                    workload.document,
                    path,
                    message,
                    help="mount an emptyDir with medium Memory at /dev/shm" if key == "hostIPC" else "",
                    patch=_switch_off(workload.document, path, f"without {key}"),
                    severity=severity,
                )


@rule(
    id="IL806",
    name="capability-of-the-node",
    family="security",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a capability that leads out of the container",
    why="SYS_ADMIN and its like give a container the node. RDMA wants IPC_LOCK, debuggers and cuda-gdb SYS_PTRACE, "
    "NUMA binding SYS_NICE: nothing that trains or serves wants more. A profiler wants SYS_ADMIN where the driver "
    "keeps its counters to administrators (NVreg_RestrictProfilingToAdminUsers); let that pod be the only one.",
    bad=_pod("    securityContext:\n      capabilities:\n        add: [ALL]\n"),
    good=_pod("    securityContext:\n      capabilities:\n        add: [IPC_LOCK]\n"),
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/security/pod-security-standards/#baseline",
            "which capabilities the baseline profile allows",
        ),
        Source("https://man7.org/linux/man-pages/man7/capabilities.7.html", "what each capability may do"),
    ),
)
def capability_of_the_node(workload: Workload, _context: Context) -> Iterator[Problem]:
    for _, container in own_containers(workload):
        if look.at(container.spec, ("securityContext", "privileged")) is True:
            continue  # it has them all, and IL803 says so
        added = look.entries(container.spec, ("securityContext", "capabilities", "add"))
        for index, name in enumerate(added):
            power = _POWERS.get(str(name).upper().removeprefix("CAP_"))
            if power:
                yield problem(
                    workload.document,
                    (*container.path, "securityContext", "capabilities", "add", index),
                    f"the capability {name} gives the container {power}",
                    help="for RDMA IPC_LOCK is enough",
                    severity=Severity.NOTE if power == _POWERS["SYS_ADMIN"] else None,
                )


@rule(
    id="IL807",
    name="node-files-mounted",
    family="security",
    severity=Severity.WARNING,
    subject=Workload,
    summary="the node's own files, or its container runtime, in a GPU pod",
    why="Who reaches the container runtime's socket starts any container as root on the node; who writes /etc or the "
    "kubelet's folder owns it. Data and caches have folders of their own, a claim, or a local volume.",
    bad=_pod(
        "    volumeMounts:\n    - name: node\n      mountPath: /node\n"
        "  volumes:\n  - name: node\n    hostPath:\n      path: /\n"
    ),
    good=_pod(
        "    volumeMounts:\n    - name: models\n      mountPath: /models\n"
        "  volumes:\n  - name: models\n    hostPath:\n      path: /mnt/local/models\n"
    ),
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/storage/volumes/#hostpath", "why a hostPath is dangerous, and which"
        ),
    ),
)
def node_files_mounted(workload: Workload, _context: Context) -> Iterator[Problem]:
    told: set[Path] = set()
    for pod_set, _ in own_containers(workload):
        for index, path in _host_paths(pod_set):
            place = (*pod_set.path, "volumes", index, "hostPath", "path")
            is_socket = path.endswith(_SOCKETS)
            if place in told or not (is_socket or (path in _NODE_FOLDERS and _is_writable(pod_set, index))):
                continue
            told.add(place)
            what = "the node's container runtime" if is_socket else f"the node's own {path}"
            yield problem(
                workload.document, place, f"the pod can write {what}, which is to own the node",
                help="mount the folder that holds the data, or a claim",
            )  # fmt: skip


def _is_writable(pod_set: PodSet, index: int) -> bool:
    name = look.text(pod_set.spec, ("volumes", index, "name"))
    mounts: list[Mapping[str, Any]] = [
        one
        for container in pod_set.containers
        for one in look.entries(container.spec, ("volumeMounts",))
        if isinstance(one, Mapping) and one.get("name") == name
    ]
    return any(one.get("readOnly") is not True for one in mounts)


@rule(
    id="IL808",
    name="server-open-to-the-world",
    family="security",
    severity=Severity.WARNING,
    subject=Document,
    summary="a model server behind a public address without a key",
    why="A Service of type LoadBalancer has an address that anyone can find. The servers of vLLM, SGLang and their "
    "kin ask for no key unless told to: who finds it runs prompts on your GPUs, and can pause the server. A key alone "
    "protects the /v1 paths only; put a gateway in front, or keep the Service inside.",
    bad="""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  selector:
    matchLabels:
      app: llama
  template:
    metadata:
      labels:
        app: llama
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        args: [--model=Qwen/Qwen3-8B]
---
apiVersion: v1
kind: Service
metadata:
  name: llama
spec:
  type: LoadBalancer
  selector:
    app: llama
  ports:
  - port: 8000
""",
    good="""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
spec:
  selector:
    matchLabels:
      app: llama
  template:
    metadata:
      labels:
        app: llama
    spec:
      containers:
      - name: main
        image: vllm/vllm-openai:v0.11.0
        args: [--model=Qwen/Qwen3-8B]
---
apiVersion: v1
kind: Service
metadata:
  name: llama
spec:
  selector:
    app: llama
  ports:
  - port: 8000
""",
    sources=(VLLM_SECURITY,),
)
def server_open_to_the_world(document: Document, context: Context) -> Iterator[Problem]:
    if document.kind != "Service" or look.group(document) or _is_inside(document):
        return
    selector = look.mapping(document.obj, ("spec", "selector"))
    namespace = look.text(document.obj, ("metadata", "namespace"))
    for workload, pod_set in context.pods_with(selector):
        if workload.namespace == namespace and _is_open_server(pod_set):
            yield problem(
                document,
                ("spec", "type"),
                f"everybody who finds the address can use the model server of {workload.kind} {workload.name}: "
                "it asks for no key",
                help="type ClusterIP behind a gateway that asks for keys, or an internal load balancer",
                confidence=Confidence.LIKELY,
            )
            return


def _is_inside(document: Document) -> bool:
    """Whether a Service has no public address, as far as it says."""
    if look.text(document.obj, ("spec", "type")) != "LoadBalancer":
        return True
    if look.entries(document.obj, ("spec", "loadBalancerSourceRanges")):
        return True
    for key, value in look.mapping(document.obj, ("metadata", "annotations")).items():
        if any(word in f"{key}={value}".lower() for word in _INTERNAL):
            return True
    return False


def _is_open_server(pod_set: PodSet) -> bool:
    for container in pods.main_containers(pod_set):
        servers = [launch for launch in pods.launches(container) if launch.program in SERVERS]
        if servers and not any(launch.option("--api-key") for launch in servers):
            return not (_KEYS & container.env.keys() or look.entries(container.spec, ("envFrom",)))
    return False


@rule(
    id="IL809",
    name="development-endpoints",
    family="security",
    severity=Severity.WARNING,
    subject=Workload,
    summary="vLLM's development endpoints or unsafe serialization switched on",
    why="VLLM_SERVER_DEV_MODE opens endpoints that any client may call, with no key: to put the server to sleep, to "
    "clear its caches, to call functions inside its workers. VLLM_ALLOW_INSECURE_SERIALIZATION lets messages be "
    "unpickled, which is to run what they say. vLLM's documentation keeps both out of production.",
    bad=_pod("    env:\n    - name: VLLM_ALLOW_INSECURE_SERIALIZATION\n      value: '1'\n"),
    good=_pod("    env:\n    - name: VLLM_LOGGING_LEVEL\n      value: INFO\n"),
    sources=(
        VLLM_SECURITY,
        Source(
            "https://github.com/llm-d-incubation/llm-d-fast-model-actuation/issues/27",
            "endpoints that sleep mode opens, and that must not be reached by users",
        ),
    ),
)
def development_endpoints(workload: Workload, _context: Context) -> Iterator[Problem]:
    for _, container in own_containers(workload):
        for name, message, severity in (
            ("VLLM_SERVER_DEV_MODE", "opens endpoints that control the server to every client", Severity.NOTE),
            ("VLLM_ALLOW_INSECURE_SERIALIZATION", "lets messages run code in the server", None),
        ):
            if (container.env.get(name) or "").lower() in _ON:
                yield problem(
                    workload.document,
                    (*container.env_paths[name], "value"),
                    f"{name} {message}",
                    help="let nothing but what controls the server reach its port" if severity else "leave it out",
                    severity=severity,
                )
