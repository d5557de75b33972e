"""What an operator tells a launcher, and a command that starts none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import Container, Workload

_PLACES: Mapping[str, Path] = {
    "PyTorchJob": ("spec", "nprocPerNode"),
    "TrainJob": ("spec", "trainer", "numProcPerNode"),
}


def _job(command: str) -> str:
    return f"""\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata:
  name: train
spec:
  nprocPerNode: auto
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      restartPolicy: OnFailure
      template:
        spec:
          containers:
          - name: pytorch
            image: registry.example.com/train:1.4.0
            command: {command}
            resources:
              limits:
                nvidia.com/gpu: 8
"""


@rule(
    id="IL233",
    name="processes-that-nobody-starts",
    family="gang",
    severity=Severity.WARNING,
    subject=Workload,
    summary="nprocPerNode in a job whose command starts Python and no launcher",
    why="nprocPerNode and numProcPerNode become PET_NPROC_PER_NODE, which torchrun reads. Python itself does not: a "
    "container that starts `python train.py` runs one process, on one GPU, and the pod's other GPUs stay idle, without "
    "an error.",
    bad=_job("[python, train.py]"),
    good=_job("[torchrun, train.py]"),
    sources=(
        Source("https://github.com/kubeflow/trainer/issues/1992", "eight GPUs were asked for, and one trained"),
        Source(
            "https://github.com/pytorch/pytorch/blob/main/torch/distributed/run.py",
            "PET_… variables are torchrun's own options",
        ),
    ),
)
def processes_that_nobody_starts(workload: Workload, _context: Context) -> Iterator[Problem]:
    document = workload.document
    path = _PLACES.get(workload.kind)
    told = look.at(document.obj, path) if path is not None else None
    if path is None or told is None or str(told) in {"1", "cpu"}:
        return
    for pod_set in workload.pod_sets:
        for container, number in pods.gpu_containers(pod_set):
            if number > 1 and _is_plain_python(container):
                yield problem(
                    document,
                    (*container.path, "command"),
                    f"{path[-1]} is for torchrun, and this command starts Python alone: one process for {number} GPUs",
                    at_key=True,
                    confidence=Confidence.LIKELY,
                    evidence=(f"{path[-1]} is {told}", "it reaches the container as PET_NPROC_PER_NODE"),
                    help="start the script with torchrun, which takes its options from the job",
                )
                return


def _is_plain_python(container: Container) -> bool:
    """Whether its command is one script that Python runs, and no launcher or shell of any kind."""
    words = [word for word in look.entries(container.spec, ("command",)) if isinstance(word, str)]
    if not words or words[0].rpartition("/")[2] not in {"python", "python3"}:
        return False
    args = [word for word in look.entries(container.spec, ("args",)) if isinstance(word, str)]
    script = next((word for word in (*words[1:], *args) if not word.startswith("-")), "")
    return script.endswith(".py") and "-m" not in words and not pods.programs(container) & pods.DISTRIBUTED
