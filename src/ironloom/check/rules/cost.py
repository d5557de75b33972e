"""GPUs that are paid for and do nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules import examples
from ironloom.fleet.model import Lifecycle
from ironloom.place.fit import matching
from ironloom.workload.kinds.roles import TRAINERS
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, PodSet, Workload

_SHELL = re.compile(r"^(?:/usr)?(?:/bin/)?(?:env )?(?:ba|da|z)?sh (?:-[a-z]+ )*")
_IDLE = re.compile(
    r"(?:exec )?(?:/bin/|/usr/bin/)?(?:sleep (?:inf|infinity|\d{6,}|\d{3,}d|\d{5,}m|\d{3,}h)|tail -f /dev/null"
    r"|while (?:true|:|\[ ?1 ?\]) ?; ?do sleep [\w.]+ ?; ?done)(?: ?& ?wait)? ?;?"
)
"""A whole command line that waits for ever."""
_FETCH = re.compile(
    r"(?:hf|huggingface-cli) (?:download|repo)|aws s3 (?:cp|sync)|gsutil|gcloud storage (?:cp|rsync)|s5cmd|rclone|wget"
    r"|curl|git (?:clone|lfs)|modelscope download|azcopy"
)
_STEP = re.compile(r"\s*(?:&&|;|\|\|?|\n)\s*")
_HARMLESS = re.compile(
    r"(?:set|cd|mkdir|tar|unzip|echo|export|ls|du|df|chmod|chown|rm|mv|ln|test|\[|true|exit|pip3? install"
    r"|python3? -m pip install|apt(?:-get)?|apk|date|hf auth|huggingface-cli login)\b.*"
)
_MULTI_NODE_KINDS = frozenset({"MPIJob", "RayCluster", "RayJob", "RayService"})
"""Whose workers wait for orders by another way than their command."""
_DEFAULTED_KINDS = frozenset({"InferenceService", "ServingRuntime", "ClusterServingRuntime"})
"""Whose controller asks for a cpu and some memory where the manifest does not (KServe's configmap, `resource`)."""
_CPU_QUALITY = ("cpu", "memory")


def _line(container: Container) -> str:
    """The command line as one text, its shell taken off: `sh -c "sleep 3600"` is `sleep 3600`."""
    text = " ".join(pods.text_of(container).split())
    return _SHELL.sub("", text).strip(" \"'")


def _gpu_pod(lines: str) -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata:
  name: dev
spec:
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
{lines}    resources:
      limits:
        cpu: 16
        memory: 128Gi
        nvidia.com/gpu: 8
"""


@rule(
    id="IL851",
    name="gpus-for-a-sleep",
    family="cost",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a container that holds GPUs and only sleeps",
    why="GPUs belong to a pod from its start to its end, whether it computes or not. A pod to log in to that sleeps "
    "for ever keeps its cards over nights and weekends, and nothing takes them back: no scheduler looks at "
    "utilisation. Run what is to run as a Job, log in with a pod that ends (activeDeadlineSeconds), or use a notebook "
    "that is culled.",
    bad=_gpu_pod("    command: [sleep, infinity]\n"),
    good=_gpu_pod("    command: [torchrun, --nproc-per-node=8, train.py]\n"),
    sources=(
        Source("https://github.com/NVIDIA/deepops/issues/667", "containers that are shut down when their GPUs idle"),
        Source("https://github.com/apache/texera/issues/5362", "nothing in Kubernetes ends a pod for being idle"),
        Source("https://github.com/open-policy-agent/gatekeeper-library/pull/737", "a deadline wanted of GPU pods"),
    ),
)
def gpus_for_a_sleep(workload: Workload, _context: Context) -> Iterator[Problem]:
    if workload.kind in _MULTI_NODE_KINDS:
        return
    for pod_set in workload.pod_sets:
        if not pod_set.is_written or look.integer(pod_set.spec, ("activeDeadlineSeconds",)):
            continue
        for container, gpus in pods.gpu_containers(pod_set):
            if _IDLE.fullmatch(_line(container)):
                yield problem(
                    workload.document,
                    _command_path(container),
                    f"the container holds {_gpus(gpus)} and sleeps",
                    evidence=(f"command: {_line(container)}",),
                    help="run the work itself, as a Job; or end the pod with activeDeadlineSeconds",
                )


def _command_path(container: Container) -> Path:
    key = "command" if look.entries(container.spec, ("command",)) else "args"
    return (*container.path, key)


def _gpus(number: int) -> str:
    return f"{number} GPU{'s' if number != 1 else ''}"


@rule(
    id="IL852",
    name="gpus-of-an-init-container",
    family="cost",
    severity=Severity.WARNING,
    subject=Workload,
    summary="an init container that asks for more GPUs than what runs after it",
    why="A pod is given the larger of what its init containers and its containers ask for, for its whole life. GPUs "
    "that only an init container asks for stay with the pod until it ends, and nothing in it can use them.",
    bad="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  initContainers:
  - name: warm
    image: vllm/vllm-openai:v0.11.0
    command: [python3, compile.py]
    resources:
      limits:
        nvidia.com/gpu: 8
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    args: [--model=Qwen/Qwen3-8B]
    resources:
      limits:
        cpu: 8
        memory: 64Gi
        nvidia.com/gpu: 1
""",
    good="""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  initContainers:
  - name: warm
    image: vllm/vllm-openai:v0.11.0
    command: [python3, compile.py]
    resources:
      limits:
        nvidia.com/gpu: 1
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    args: [--model=Qwen/Qwen3-8B]
    resources:
      limits:
        cpu: 8
        memory: 64Gi
        nvidia.com/gpu: 1
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers",
            "the larger of both is what the scheduler reserves",
        ),
        Source("https://github.com/volcano-sh/volcano/issues/2422", "GPUs of init containers count as the pod's"),
    ),
)
def gpus_of_an_init_container(workload: Workload, _context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        if not pod_set.is_written:
            continue
        running = sum(gpus for _, gpus in pods.gpu_containers(pod_set))
        for container in pod_set.containers:
            gpus = pods.gpus_of(container)
            if container.is_init and not container.is_sidecar and gpus > running:
                yield problem(
                    workload.document,
                    (*container.path, "resources"),
                    f"the init container asks for {_gpus(gpus)} and the containers for {running or 'none'}: the pod "
                    f"keeps all {gpus} for its whole life",
                    help="give it no more than what runs after it",
                )


@rule(
    id="IL853",
    name="gpus-for-a-download",
    family="cost",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a container that holds GPUs and only copies files",
    why="A download waits for the network and the disk; the GPUs that it holds meanwhile do nothing and are not to be "
    "had by others. A model of 140 GB takes minutes to hours. A job of its own, without GPUs, fills the same volume.",
    bad=_gpu_pod("    command: [hf, download, meta-llama/Llama-3.3-70B-Instruct, --local-dir, /models]\n"),
    good=_gpu_pod("    command: [torchrun, --nproc-per-node=8, train.py]\n"),
    sources=(
        Source("https://huggingface.co/docs/huggingface_hub/guides/cli#hf-download", "what the command does"),
        Source(
            "https://kubernetes.io/docs/tasks/manage-gpus/scheduling-gpus/", "a GPU belongs to one container at a time"
        ),
    ),
)
def gpus_for_a_download(workload: Workload, _context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        for container, gpus in pods.gpu_containers(pod_set) if pod_set.is_written else ():
            if _only_fetches(container):
                yield problem(
                    workload.document,
                    _command_path(container),
                    f"the container holds {_gpus(gpus)} and only copies files",
                    help="ask for no GPUs here",
                    confidence=Confidence.LIKELY,
                )


def _only_fetches(container: Container) -> bool:
    steps = [
        step.strip() for step in _STEP.split(_SHELL.sub("", pods.text_of(container)).strip(" \"'")) if step.strip()
    ]
    fetches = [bool(_FETCH.match(step)) for step in steps]
    return any(fetches) and all(
        is_fetch or _HARMLESS.fullmatch(step) for is_fetch, step in zip(fetches, steps, strict=True)
    )


@rule(
    id="IL854",
    name="first-to-be-evicted",
    family="cost",
    severity=Severity.NOTE,
    subject=Workload,
    summary="a GPU pod that asks for no cpu and no memory",
    why="Kubernetes ranks pods by cpu and memory alone; GPUs do not count. A pod with GPUs and nothing else is "
    "BestEffort: the first that the kubelet evicts and the kernel kills when the node's memory runs short, and hours "
    "of training or a loaded model go with it. The scheduler also puts any number of such pods on one node.",
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
  containers:
  - name: main
    image: vllm/vllm-openai:v0.11.0
    args: [--model=Qwen/Qwen3-8B]
    resources:
      requests:
        cpu: 8
        memory: 64Gi
      limits:
        memory: 64Gi
        nvidia.com/gpu: 1
""",
    sources=(
        Source("https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/", "how the class follows from requests"),
        Source(
            "https://docs.coreweave.com/support/cks/articles/how-do-kubernetes-qos-classes-work",
            "a GPU cloud's advice for training and inference",
        ),
    ),
)
def first_to_be_evicted(workload: Workload, _context: Context) -> Iterator[Problem]:
    if workload.kind in _DEFAULTED_KINDS:
        return
    for pod_set in workload.pod_sets:
        holders = list(pods.gpu_containers(pod_set))
        if not holders or not pod_set.is_written or any(pod_set.requests.get(name) for name in _CPU_QUALITY):
            continue
        if any(look.mapping(pod_set.spec, ("resources", key)) for key in ("requests", "limits")):
            continue  # the pod asks as a whole
        container, gpus = holders[0]
        yield problem(
            workload.document,
            (*container.path, "resources"),
            f"a pod with {pods.written_gpus(container) or _gpus(gpus)} that asks for no cpu and no memory "
            "is the first to be evicted from its node",
            help="request the memory and cpu that it uses; a LimitRange of the namespace may do so too",
            confidence=Confidence.LIKELY,
        )


@rule(
    id="IL855",
    name="gpus-do-not-tile-the-node",
    family="cost",
    severity=Severity.NOTE,
    subject=Workload,
    needs_fleet=True,
    summary="a number of GPUs that leaves a rest on every node",
    why="Pods of 3 GPUs on nodes of 8 leave 2 on each. Only smaller pods can take the rest; where there are none it "
    "stands idle, billed with the node. A number that divides the node's leaves none.",
    bad=_gpu_pod("    command: [torchrun, --nproc-per-node=3, train.py]\n").replace("gpu: 8", "gpu: 3"),
    good=_gpu_pod("    command: [torchrun, --nproc-per-node=4, train.py]\n").replace("gpu: 8", "gpu: 4"),
    sources=(
        Source("https://github.com/volcano-sh/volcano/issues/3948", "free GPUs that are scattered over the nodes"),
    ),
    example_fleet=lambda: examples.fleet(examples.node("a"), examples.node("b")),
)
def gpus_do_not_tile_the_node(workload: Workload, context: Context) -> Iterator[Problem]:
    if context.fleet is None:
        return
    for pod_set in workload.pod_sets:
        resource, number = pod_set.gpus()
        if not resource or not pod_set.is_written:
            continue
        sizes = {
            node.allocatable.get(resource, 0)
            for node in matching(pod_set, context.fleet, pods.tolerations(workload, context))
            if node.lifecycle is Lifecycle.READY
        } - {0}
        rests = {size: size % number for size in sizes if size >= number}
        if rests and all(rests.values()):
            container, _ = next(pods.gpu_containers(pod_set), (None, 0))
            where = container.path if container is not None else pod_set.path
            size, rest = min(rests.items())
            yield problem(
                workload.document,
                (*where, "resources", "limits", resource),
                f"pods of {_gpus(number)} leave {rest} of the {size} of each node, for smaller pods alone",
                evidence=tuple(
                    f"node of {one}: {pods.pods_said(one // number)}, {pods.gpus_said(left)} over"
                    for one, left in sorted(rests.items())
                ),
                help="ask for a number that divides the node's, where the program allows it",
            )


@rule(
    id="IL856",
    name="training-that-never-ends",
    family="cost",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a training run in a Deployment",
    why="A Deployment's pods restart whenever they end. A run that finished well begins again, from the start or from "
    "its last checkpoint, holds its GPUs for ever, and may write over its own results; a rollout starts a second run "
    "beside the first. A Job, JobSet or TrainJob ends.",
    bad="""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: train
spec:
  selector:
    matchLabels:
      app: train
  template:
    metadata:
      labels:
        app: train
    spec:
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nproc-per-node=8, train.py]
        resources:
          limits:
            cpu: 64
            memory: 512Gi
            nvidia.com/gpu: 8
""",
    good="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nproc-per-node=8, train.py]
        resources:
          limits:
            cpu: 64
            memory: 512Gi
            nvidia.com/gpu: 8
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/workloads/controllers/job/#replication-controller",
            "controllers restart pods that are not expected to end, a Job manages those that are",
        ),
    ),
)
def training_that_never_ends(workload: Workload, _context: Context) -> Iterator[Problem]:
    if workload.kind != "Deployment":
        return
    for pod_set in workload.pod_sets:
        for container, gpus in pods.gpu_containers(pod_set):
            scripts = [launch.script for launch in pods.launches(container) if launch.program in TRAINERS]
            if any("train" in script.lower() or "finetune" in script.lower() for script in scripts):
                yield problem(
                    workload.document,
                    ("kind",),
                    f"the training of {_gpus(gpus)} begins again whenever it ends: a Deployment restarts its pods",
                    help="make it a Job, JobSet or TrainJob",
                    confidence=Confidence.LIKELY,
                )


@rule(
    id="IL857",
    name="job-retries-without-end",
    family="cost",
    severity=Severity.NOTE,
    subject=Workload,
    summary="a GPU Job that may fail hundreds of times and has no deadline",
    why="backoffLimit is how often a Job's pods may fail. With a limit in the hundreds, a job that fails at its start "
    "(a wrong path, an image without its library) takes its GPUs again and again, with up to six minutes of waiting "
    "between, for days. activeDeadlineSeconds or a pod failure policy ends it.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  backoffLimit: 1000
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nproc-per-node=8, train.py]
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
  backoffLimit: 3
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nproc-per-node=8, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-backoff-failure-policy",
            "what backoffLimit counts, and how long it waits",
        ),
        Source("https://github.com/kubernetes-sigs/node-feature-discovery/issues/64", "5,000 failed pods of one slip"),
    ),
)
def job_retries_without_end(workload: Workload, _context: Context) -> Iterator[Problem]:
    document = workload.document
    if document.kind != "Job" or look.group(document) != "batch" or not any(map(_asks_for_gpus, workload.pod_sets)):
        return
    limit = look.integer(document.obj, ("spec", "backoffLimit"))
    ends = ("activeDeadlineSeconds", "podFailurePolicy", "backoffLimitPerIndex")
    if limit is not None and limit >= MANY_RETRIES and not any(look.at(document.obj, ("spec", one)) for one in ends):
        yield problem(
            document,
            ("spec", "backoffLimit"),
            f"the job takes its GPUs again up to {limit} times, however it fails",
            help="a small backoffLimit, a podFailurePolicy, or activeDeadlineSeconds",
        )


MANY_RETRIES = 100
"""Of a Job: the default is 6."""


def _asks_for_gpus(pod_set: PodSet) -> bool:
    return pod_set.gpus()[1] > 0
