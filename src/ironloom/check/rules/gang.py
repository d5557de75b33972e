"""Whether the pods of a gang are as many as its processes expect, and whether they start together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.check import edits, look, pods
from ironloom.check.finding import Confidence, Patch, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, Launch, PodSet, Workload

TORCHRUN = Source("https://pytorch.org/docs/stable/elastic/run.html", "what --nnodes and --nproc-per-node mean")
INDEX = "JOB_COMPLETION_INDEX"
GANG_KEYS = (
    "scheduling.x-k8s.io/pod-group",
    "pod-group.scheduling.sigs.k8s.io",
    "scheduling.k8s.io/group-name",
    "kueue.x-k8s.io/pod-group-name",
    "yunikorn.apache.org/task-group-name",
)
_POD_GROUPS = frozenset({"scheduling.x-k8s.io", "scheduling.volcano.sh", "scheduling.run.ai", "scheduling.k8s.io"})
_RAY_SIZE = re.compile(r"--ray_cluster_size[= ]+(\d{1,9})\b")


@rule(
    id="IL220",
    name="gang-may-start-in-part",
    family="gang",
    severity=Severity.NOTE,
    subject=Workload,
    summary="pods that wait for each other, and nothing that starts them all or none",
    why="The plain scheduler places pod by pod. When the fleet is short, some pods of a gang take their GPUs and wait "
    "for the others, idle and billed; two such gangs can wait for each other for ever. A queue (Kueue), a gang "
    "scheduler (Volcano, KAI) or a pod group places all of them or none.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 4
  completions: 4
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=4, --nproc-per-node=8, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    good="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
  labels:
    kueue.x-k8s.io/queue-name: team-a
spec:
  parallelism: 4
  completions: 4
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=4, --nproc-per-node=8, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(
        Source("https://github.com/kubeflow/trainer/issues/165", "two jobs that each hold a part of the GPUs"),
        Source("https://kueue.sigs.k8s.io/docs/tasks/manage/setup_wait_for_pods_ready/", "all or nothing in Kueue"),
    ),
)
def gang_may_start_in_part(workload: Workload, _context: Context) -> Iterator[Problem]:
    gpus = sum(pod_set.num_pods * pod_set.gpus()[1] for pod_set in workload.pod_sets)
    if not pods.is_together(workload) or not gpus or workload.queue or _is_ganged(workload):
        return
    yield problem(
        workload.document,
        ("metadata",),
        f"nothing starts the {workload.num_pods} pods of the gang together: some may hold GPUs and wait for the rest",
        evidence=(f"{gpus} GPUs in {workload.num_pods} pods; no queue, pod group or gang scheduler is named",),
        help="name a queue (label kueue.x-k8s.io/queue-name) or a gang scheduler; ignore this where one sees to it",
        confidence=Confidence.POSSIBLE,
    )


def _is_ganged(workload: Workload) -> bool:
    """Whether something is named that places all the pods or none."""
    metadata = look.mapping(workload.document.obj, ("metadata",))
    annotations = {**look.mapping(metadata, ("annotations",)), **look.mapping(metadata, ("labels",))}
    if any(key in annotations for key in (*GANG_KEYS, "kai.scheduler/queue", "scheduling.volcano.sh/queue-name")):
        return True
    spec = workload.document.obj.get("spec")
    if any(look.at(spec, path) for path in (("podGroupPolicy",), ("runPolicy", "schedulingPolicy"))):
        return True
    for pod_set in workload.pod_sets:
        named = {**pod_set.labels, **pod_set.annotations}
        if look.text(pod_set.spec, ("schedulerName",)) not in ("", "default-scheduler"):
            return True
        if (
            pod_set.spec.get("schedulingGroup")
            or pod_set.spec.get("workloadRef")
            or pod_set.spec.get("schedulingGates")
        ):
            return True
        if any(key in named for key in GANG_KEYS):
            return True
    return False


@rule(
    id="IL221",
    name="parallelism-below-completions",
    family="gang",
    severity=Severity.ERROR,
    subject=Workload,
    summary="an Indexed Job that runs fewer pods at once than its launch line waits for",
    why="Every rank of a distributed run must be there at once. With parallelism below completions the last pods start "
    "only when the first have ended, and the first never end: they wait at the rendezvous.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 2
  completions: 4
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=4, --nproc-per-node=8, train.py]
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
  parallelism: 4
  completions: 4
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=4, --nproc-per-node=8, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(
        Source("https://kubernetes.io/docs/concepts/workloads/controllers/job/#parallel-jobs", "what runs at once"),
        TORCHRUN,
    ),
)
def parallelism_below_completions(workload: Workload, _context: Context) -> Iterator[Problem]:
    for path, spec in _jobs(workload.document):
        parallelism, completions = look.integer(spec, ("parallelism",)), look.integer(spec, ("completions",))
        if parallelism is None or completions is None or not 0 < parallelism < completions:
            continue
        nodes = [
            number
            for pod_set in workload.pod_sets
            if pod_set.path[: len(path)] == path
            for _, launch in _launchers(pod_set)
            if (number := pods.num_nodes(launch)) is not None
        ]
        if not any(number > parallelism for number in nodes):
            continue
        edit = edits.replace(workload.document, (*path, "parallelism"), str(completions))
        yield problem(
            workload.document,
            (*path, "parallelism"),
            f"{parallelism} of {completions} pods run at once, and {max(nodes)} wait for one another: none ever starts",
            evidence=(f"--nnodes {max(nodes)} > parallelism {parallelism}",),
            patch=Patch(title=f"run {completions} at once", edits=(edit,)) if edit is not None else None,
        )


def _jobs(document: Document) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Paths of the JobSpecs of a Job or JobSet."""
    if document.kind == "Job" and look.group(document) == "batch":
        yield ("spec",), look.mapping(document.obj, ("spec",))
    elif document.kind == "JobSet":
        for index, one in enumerate(look.entries(document.obj, ("spec", "replicatedJobs"))):
            yield ("spec", "replicatedJobs", index, "template", "spec"), look.mapping(one, ("template", "spec"))


def _launchers(pod_set: PodSet) -> Iterator[tuple[Container, Launch]]:
    for container in pods.main_containers(pod_set):
        for launch in pods.launches(container):
            if launch.program in pods.DISTRIBUTED:
                yield container, launch


@rule(
    id="IL222",
    name="index-without-indexed-mode",
    family="gang",
    severity=Severity.ERROR,
    subject=Workload,
    summary="JOB_COMPLETION_INDEX in a Job that is not Indexed",
    why="The variable is set only when completionMode is Indexed. In the default mode it is empty, and every pod takes "
    "itself for the same rank or stops at a missing argument.",
    bad="""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 2
  completions: 2
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [bash, -c, "torchrun --nnodes=2 --node-rank=$JOB_COMPLETION_INDEX train.py"]
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
        command: [bash, -c, "torchrun --nnodes=2 --node-rank=$JOB_COMPLETION_INDEX train.py"]
""",
    sources=(
        Source(
            "https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode",
            "which mode sets the index",
        ),
    ),
)
def index_without_indexed_mode(workload: Workload, _context: Context) -> Iterator[Problem]:
    document = workload.document
    if document.kind != "Job" or look.group(document) != "batch":
        return
    mode = look.at(document.obj, ("spec", "completionMode"))
    if mode == "Indexed":
        return
    users = [
        container
        for pod_set in workload.pod_sets
        for container in pod_set.containers
        if INDEX not in container.env and re.search(rf"\$[{{(]?{INDEX}\b", pods.text_of(container))
    ]
    if not users:
        return
    if mode is None:
        edit = edits.add_first(document, ("spec",), ["completionMode: Indexed"])
    else:
        edit = edits.replace(document, ("spec", "completionMode"), "Indexed")
    yield problem(
        document,
        ("spec", "completionMode") if mode is not None else ("spec",),
        f"container {users[0].name} uses ${INDEX}, which only completionMode: Indexed sets",
        at_key=True,
        patch=Patch(title="number the pods", edits=(edit,)) if edit is not None else None,
    )


@rule(
    id="IL223",
    name="nodes-are-not-pods",
    family="gang",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a launcher told of another number of nodes than there are pods",
    why="torchrun waits until --nnodes agents have joined. With fewer pods it waits until its timeout and fails; with "
    "more, the pods that are left over find the rendezvous closed, hold their GPUs and fail.",
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
        command: [torchrun, --nnodes=4, --nproc-per-node=8, train.py]
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
  parallelism: 4
  completions: 4
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: [torchrun, --nnodes=4, --nproc-per-node=8, train.py]
        resources:
          limits:
            nvidia.com/gpu: 8
""",
    sources=(TORCHRUN,),
)
def nodes_are_not_pods(workload: Workload, _context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        for container, launch in _launchers(pod_set):
            told = pods.num_nodes(launch)
            each = pod_set.num_pods // max(1, pod_set.num_jobs)  # a launcher's nodes may be those of one job of several
            if told is None or launch.program == "mpirun" or told in (pod_set.num_pods, workload.num_pods, each):
                continue
            option = next((one for one in launch.options if one.value == str(told)), None)
            few = pod_set.num_pods < told
            # Pods of a Deployment, or copies of a Job in a JobSet, may be the nodes together.
            if few and (workload.replicas.max is None or workload.replicas.max > 1):
                continue
            if not few and told == 1:
                continue  # each pod runs on its own
            yield problem(
                workload.document,
                option.path if option is not None else (*container.path, "command"),
                f"{launch.program} is told of {told} nodes, and {pod_set.num_pods} "
                f"pod{'s' if pod_set.num_pods != 1 else ''} run{'s' if pod_set.num_pods == 1 else ''}",
                evidence=(
                    f"{option.written or option.name} {told}" if option is not None else f"nodes: {told}",
                    f"{pod_set.num_pods} pods of {pod_set.name}",
                ),
                confidence=Confidence.LIKELY,
            )


@rule(
    id="IL224",
    name="processes-are-not-gpus",
    family="gang",
    severity=Severity.WARNING,
    subject=Workload,
    summary="more or fewer processes a pod than it has GPUs",
    why="torchrun starts one process a GPU. With more processes than GPUs the last ones ask for a device that is not "
    "there (`invalid device ordinal`); with fewer, GPUs that are paid for stay idle.",
    bad="""\
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
            nvidia.com/gpu: 4
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
            nvidia.com/gpu: 8
""",
    sources=(TORCHRUN,),
)
def processes_are_not_gpus(workload: Workload, _context: Context) -> Iterator[Problem]:
    for pod_set in workload.pod_sets:
        for container, launch in _launchers(pod_set):
            number = pods.gpus_of(container)
            name = {"torchrun": "--nproc-per-node", "deepspeed": "--num_gpus"}.get(launch.program, "")
            option = launch.option(name) if name else None
            option = option or (launch.option(name.replace("-per-", "_per_")) if name else None)
            processes = pods.whole(option.value) if option is not None else None
            if not number or option is None or processes is None or processes == number:
                continue
            too_many = processes > number
            yield problem(
                workload.document,
                option.path,
                f"{processes} processes on {number} GPU{'s' if number != 1 else ''}: "
                + ("the last have no device" if too_many else f"{number - processes} stay idle"),
                evidence=(f"{option.written or option.name} {processes}", f"GPUs of {container.name}: {number}"),
                severity=Severity.ERROR if too_many else None,
                confidence=Confidence.LIKELY,
            )


@rule(
    id="IL225",
    name="pod-group-larger-than-its-pods",
    family="gang",
    severity=Severity.ERROR,
    subject=Document,
    summary="a pod group that waits for more pods than join it",
    why="A pod group lets its pods go when minMember of them can be placed. When fewer pods than that carry its name, "
    "it waits for ever, and none of them starts.",
    bad="""\
apiVersion: scheduling.x-k8s.io/v1alpha1
kind: PodGroup
metadata:
  name: train
spec:
  minMember: 4
---
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 2
  completions: 2
  template:
    metadata:
      labels:
        scheduling.x-k8s.io/pod-group: train
    spec:
      restartPolicy: Never
      schedulerName: scheduler-plugins-scheduler
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    good="""\
apiVersion: scheduling.x-k8s.io/v1alpha1
kind: PodGroup
metadata:
  name: train
spec:
  minMember: 2
---
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: 2
  completions: 2
  template:
    metadata:
      labels:
        scheduling.x-k8s.io/pod-group: train
    spec:
      restartPolicy: Never
      schedulerName: scheduler-plugins-scheduler
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
""",
    sources=(
        Source(
            "https://github.com/kubernetes-sigs/scheduler-plugins/blob/master/pkg/coscheduling/README.md",
            "what minMember waits for",
        ),
        Source("https://volcano.sh/en/docs/podgroup/", "minMember of Volcano's group"),
    ),
)
def pod_group_larger_than_its_pods(document: Document, context: Context) -> Iterator[Problem]:
    if document.kind != "PodGroup" or look.group(document) not in _POD_GROUPS:
        return
    path: Path = ("spec", "minMember")
    wanted = look.integer(document.obj, path)
    if wanted is None:
        path = ("spec", "schedulingPolicy", "gang", "minCount")
        wanted = look.integer(document.obj, path)
    members = [
        (workload, pod_set)
        for workload in context.workloads
        for pod_set in workload.pod_sets
        if document.name in _groups_of(pod_set)
    ]
    if wanted is None or not members or any(workload.replicas.max is None for workload, _ in members):
        return
    number = sum(
        pod_set.num_pods * max(workload.replicas.min, workload.replicas.max or 0) for workload, pod_set in members
    )
    if number < wanted:
        said = ", ".join(f"{workload.kind} {workload.name}: {pod_set.num_pods}" for workload, pod_set in members)
        yield problem(
            document,
            path,
            f"the group waits for {wanted} pods, and {number} join it",
            evidence=(f"pods that name it: {said}",),
        )


def _groups_of(pod_set: PodSet) -> set[str]:
    named = {**pod_set.labels, **pod_set.annotations}
    found = {named[key] for key in GANG_KEYS if key in named}
    return found | {look.text(pod_set.spec, ("schedulingGroup", "podGroupName"))} - {""}


@rule(
    id="IL226",
    name="mpi-slots-are-not-gpus",
    family="gang",
    severity=Severity.WARNING,
    subject=Workload,
    summary="mpirun asked for more ranks than the workers have slots, or slots that are not the workers' GPUs",
    why="mpirun starts as many ranks as -np says on workers × slotsPerWorker slots. More ranks than slots: `There are "
    "not enough slots available`, and nothing runs. Slots that differ from the GPUs of a worker leave GPUs idle or "
    "put two ranks on one.",
    bad="""\
apiVersion: kubeflow.org/v2beta1
kind: MPIJob
metadata:
  name: nccl
spec:
  slotsPerWorker: 8
  mpiReplicaSpecs:
    Launcher:
      replicas: 1
      template:
        spec:
          containers:
          - name: mpi
            image: ghcr.io/coreweave/nccl-tests:12.9.1
            command: [mpirun, -np, "64", /opt/nccl_tests/build/all_reduce_perf]
    Worker:
      replicas: 4
      template:
        spec:
          containers:
          - name: worker
            image: ghcr.io/coreweave/nccl-tests:12.9.1
            resources:
              limits:
                nvidia.com/gpu: 8
""",
    good="""\
apiVersion: kubeflow.org/v2beta1
kind: MPIJob
metadata:
  name: nccl
spec:
  slotsPerWorker: 8
  mpiReplicaSpecs:
    Launcher:
      replicas: 1
      template:
        spec:
          containers:
          - name: mpi
            image: ghcr.io/coreweave/nccl-tests:12.9.1
            command: [mpirun, -np, "32", /opt/nccl_tests/build/all_reduce_perf]
    Worker:
      replicas: 4
      template:
        spec:
          containers:
          - name: worker
            image: ghcr.io/coreweave/nccl-tests:12.9.1
            resources:
              limits:
                nvidia.com/gpu: 8
""",
    sources=(
        Source("https://github.com/kubeflow/mpi-operator/blob/master/README.md", "slotsPerWorker and the hostfile"),
        Source("https://github.com/coreweave/nccl-tests", "64 ranks on 8 workers of 8 slots"),
    ),
)
def mpi_slots_are_not_gpus(workload: Workload, _context: Context) -> Iterator[Problem]:
    document = workload.document
    if document.kind != "MPIJob":
        return
    slots = look.integer(document.obj, ("spec", "slotsPerWorker")) or 1
    base: Path = ("spec", "mpiReplicaSpecs")
    # An absent number of workers is one, as the operator fills it in.
    workers = look.integer(document.obj, (*base, "Worker", "replicas"))
    workers = 1 if workers is None else workers
    gpus = max((pod_set.gpus()[1] for pod_set in workload.pod_sets if "Worker" in pod_set.path), default=0)
    written = look.at(document.obj, ("spec", "slotsPerWorker")) is not None
    if gpus and written and slots != gpus:
        yield problem(
            document,
            ("spec", "slotsPerWorker"),
            f"{slots} slots on a worker of {gpus} GPUs",
            evidence=(f"slotsPerWorker {slots}", f"GPUs of a worker: {gpus}"),
            severity=Severity.NOTE if slots < gpus else None,
            confidence=Confidence.LIKELY,
        )
    for pod_set in workload.pod_sets:
        for container in pods.main_containers(pod_set):
            for launch in pods.launches(container):
                option = next((one for one in launch.options if one.name in ("--np", "-np", "--n", "-n")), None)
                ranks = pods.whole(option.value) if option is not None and launch.program == "mpirun" else None
                if option is None or ranks is None or ranks <= workers * slots:
                    continue
                if "oversubscribe" in pods.text_of(container):
                    continue
                yield problem(
                    document,
                    option.path,
                    f"mpirun starts {ranks} ranks on {workers * slots} slots",
                    evidence=(f"{workers} workers × {slots} slots = {workers * slots}",),
                    severity=Severity.ERROR,
                )


@rule(
    id="IL227",
    name="ray-cluster-size-is-not-the-group",
    family="gang",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a Ray leader that waits for another number of nodes than the group has",
    why="vLLM's multi-node script waits until --ray_cluster_size nodes have joined. A number that is written there and "
    "not taken from $(LWS_GROUP_SIZE) goes wrong when the group's size is changed: the leader waits until its timeout.",
    bad="""\
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: vllm
spec:
  replicas: 1
  leaderWorkerTemplate:
    size: 2
    workerTemplate:
      spec:
        containers:
        - name: vllm
          image: vllm/vllm-openai:v0.11.0
          command: [bash, -c, "multi-node-serving.sh leader --ray_cluster_size=4; vllm serve gpt2"]
""",
    good="""\
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: vllm
spec:
  replicas: 1
  leaderWorkerTemplate:
    size: 2
    workerTemplate:
      spec:
        containers:
        - name: vllm
          image: vllm/vllm-openai:v0.11.0
          command: [bash, -c, "multi-node-serving.sh leader --ray_cluster_size=$(LWS_GROUP_SIZE); vllm serve gpt2"]
""",
    sources=(
        Source("https://lws.sigs.k8s.io/docs/examples/vllm/", "the leader takes the size from LWS_GROUP_SIZE"),
        Source("https://docs.vllm.ai/en/latest/deployment/frameworks/lws/", "the same of vLLM"),
    ),
)
def ray_cluster_size_is_not_the_group(workload: Workload, _context: Context) -> Iterator[Problem]:
    if workload.document.kind != "LeaderWorkerSet":
        return
    size = look.integer(workload.document.obj, ("spec", "leaderWorkerTemplate", "size")) or 1
    for pod_set in workload.pod_sets:
        for container in pods.main_containers(pod_set):
            for key in ("command", "args"):
                for index, part in enumerate(look.entries(container.spec, (key,))):
                    found = _RAY_SIZE.search(part) if isinstance(part, str) else None
                    if found is not None and int(found[1]) != size:
                        yield problem(
                            workload.document,
                            (*container.path, key, index),
                            f"the leader waits for {found[1]} nodes, and the group has {size}",
                            evidence=(f"leaderWorkerTemplate.size {size}",),
                            help="write --ray_cluster_size=$(LWS_GROUP_SIZE)",
                        )


@rule(
    id="IL232",
    name="job-processes-are-not-gpus",
    family="gang",
    severity=Severity.WARNING,
    subject=Workload,
    summary="a training job told of another number of processes a node than its pods have GPUs",
    why="nprocPerNode of a PyTorchJob and numProcPerNode of a TrainJob become torchrun's --nproc-per-node. More than "
    "the pod's GPUs: the last ranks have no device; fewer: GPUs that are paid for stay idle.",
    bad="""\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata:
  name: train
spec:
  nprocPerNode: "8"
  pytorchReplicaSpecs:
    Worker:
      replicas: 2
      restartPolicy: OnFailure
      template:
        spec:
          containers:
          - name: pytorch
            image: nvcr.io/nvidia/pytorch:25.09-py3
            resources:
              limits:
                nvidia.com/gpu: 4
""",
    good="""\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata:
  name: train
spec:
  nprocPerNode: "4"
  pytorchReplicaSpecs:
    Worker:
      replicas: 2
      restartPolicy: OnFailure
      template:
        spec:
          containers:
          - name: pytorch
            image: nvcr.io/nvidia/pytorch:25.09-py3
            resources:
              limits:
                nvidia.com/gpu: 4
""",
    sources=(
        TORCHRUN,
        Source(
            "https://www.kubeflow.org/docs/components/trainer/legacy-v1/reference/distributed-training/",
            "what the operator sets",
        ),
        Source(
            "https://github.com/NVIDIA/aicr/issues/2280", "a runtime without GPUs, and processes that are not theirs"
        ),
    ),
)
def job_processes_are_not_gpus(workload: Workload, _context: Context) -> Iterator[Problem]:
    document = workload.document
    places: Mapping[str, Path] = {
        "PyTorchJob": ("spec", "nprocPerNode"),
        "TrainJob": ("spec", "trainer", "numProcPerNode"),
    }
    path = places.get(workload.kind)
    told = look.at(document.obj, path) if path is not None else None
    processes = told if isinstance(told, int) and not isinstance(told, bool) else pods.whole(str(told or ""))
    gpus = {number for pod_set in workload.pod_sets for _, number in pods.gpu_containers(pod_set)}
    if path is None or processes is None or len(gpus) != 1 or processes in gpus:
        return
    [number] = gpus
    yield problem(
        document,
        path,
        f"{processes} processes a pod, and {number} GPUs: "
        + ("the last have no device" if processes > number else f"{number - processes} stay idle"),
        evidence=(f"{path[-1]} {processes}", f"GPUs of a pod: {number}"),
        severity=Severity.ERROR if processes > number else None,
        confidence=Confidence.LIKELY,
    )
