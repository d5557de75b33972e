"""Whether a launch line starts as many processes in a pod as it has GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, Launch, PodSet, Workload

TORCHRUN = Source("https://pytorch.org/docs/stable/elastic/run.html", "what --nnodes and --nproc-per-node mean")


def launchers_of(pod_set: PodSet) -> Iterator[tuple[Container, Launch]]:
    for container in pods.main_containers(pod_set):
        for launch in pods.launches(container):
            if launch.program in pods.DISTRIBUTED:
                yield container, launch


_PROCESSES = {"torchrun": "--nproc-per-node", "deepspeed": "--num-gpus", "accelerate": "--num-processes"}
"""The option that says how many processes a launcher starts, as the reader of launch lines names it."""


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
        for container, launch in launchers_of(pod_set):
            number = pods.gpus_of(container)
            option = launch.option(_PROCESSES.get(launch.program, ""))
            processes = pods.whole(option.value) if option is not None else None
            if not number or option is None or processes is None:
                continue
            if launch.program == "accelerate":  # it is told of the processes of all machines together
                machines = pods.num_nodes(launch) or 1
                if processes % machines:
                    continue
                processes //= machines
            if processes == number:
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
            f"{slots} slots on a worker of {pods.gpus_said(gpus)}",
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
        f"{processes} processes a pod, and {pods.gpus_said(number)}: "
        + ("the last have no device" if processes > number else f"{number - processes} stay idle"),
        evidence=(f"{path[-1]} {processes}", f"GPUs of a pod: {number}"),
        severity=Severity.ERROR if processes > number else None,
        confidence=Confidence.LIKELY,
    )
