"""Where the processes of several pods meet: an address that every pod has for itself is no place to meet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

from ironloom.check import look, pods
from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, problem, rule
from ironloom.check.rules.gang_processes import launchers_of
from ironloom.workload.workload import Container, Launch, Option, PodSet, Workload

_ADDRESSES: Mapping[str, tuple[str, ...]] = {
    "torchrun": ("--rdzv-endpoint", "--master-addr"),
    "accelerate": ("--main-process-ip",),
}
"""The options that say where to meet, the one that counts first."""
_SELF = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[?::1\]?)(:\d*)?", re.I)
_VARIABLES = re.compile(r"\b(?:PET_RDZV_ENDPOINT|PET_STANDALONE|(?:PET_)?MASTER_ADDR)\b")
"""MASTER_ADDR among them: torchrun itself does not read it, and who sets it may have a launcher that does."""
_TELLING = frozenset({"kubeflow.org", "trainer.kubeflow.org", "batch.volcano.sh"})
"""Groups whose controllers, or plugins of those, tell the launcher where to meet."""


class _Meeting(msgspec.Struct, frozen=True):
    """A launch over several pods, and whether each of them is told to meet with itself."""

    pod_set: PodSet
    container: Container
    launch: Launch
    address: Option | None
    """As written; None where the launcher's default is meant."""
    is_self: bool


def _job(command: str, *, subdomain: str = "") -> str:
    return f"""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
  labels:
    kueue.x-k8s.io/queue-name: team-a
spec:
  parallelism: 2
  completions: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
{subdomain}      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command:
        - torchrun
        - --nnodes=2
        - --nproc-per-node=8
{command}        - train.py
        resources:
          limits:
            nvidia.com/gpu: 8
"""


@rule(
    id="IL234",
    name="rendezvous-with-itself",
    family="gang",
    severity=Severity.ERROR,
    subject=Workload,
    summary="a launcher of several nodes that every pod tells to meet at localhost",
    why="The processes of all pods meet at one address. localhost is another place in each pod: each waits for the "
    "others at its own address, holds its GPUs, and ends with a timeout that does not say why. torchrun that is told "
    "of no address takes 127.0.0.1. One pod's name is what all can reach: with a headless Service, `train-0.train`. "
    "Kubeflow's PyTorchJob and TrainJob tell torchrun by themselves.",
    bad=_job("        - --rdzv-backend=c10d\n        - --rdzv-endpoint=localhost:29500\n"),
    good=_job(
        "        - --rdzv-backend=c10d\n        - --rdzv-endpoint=train-0.train:29500\n",
        subdomain="      subdomain: train\n",
    ),
    sources=(
        Source(
            "https://github.com/pytorch/pytorch/pull/116304", "without an endpoint it assumes localhost and times out"
        ),
        Source(
            "https://github.com/pytorch/pytorch/blob/main/torch/distributed/run.py",
            "--master-addr is 127.0.0.1 and --rdzv-backend static where neither is given",
        ),
        Source(
            "https://github.com/kubeflow/trainer/blob/release-1.9/pkg/controller.v1/pytorch/envvar.go",
            "what a PyTorchJob sets for torchrun",
        ),
    ),
)
def rendezvous_with_itself(workload: Workload, _context: Context) -> Iterator[Problem]:
    meetings = list(_meetings(workload))
    all_are = all(meeting.is_self for meeting in meetings)
    for meeting in meetings:
        number = _num_pods(workload, meeting.pod_set)
        total = sum(_num_pods(workload, one.pod_set) for one in meetings)
        # One pod may well call itself localhost where the others call it by its name.
        if not meeting.is_self or (number < 2 and not (all_are and total > 1)):
            continue
        said, written = _nodes(meeting.launch), meeting.address
        where = (written.value or written.name) if written is not None else "127.0.0.1, its default"
        yield problem(
            workload.document,
            written.path if written is not None else meeting.launch.path,
            f"{meeting.launch.program} starts {said} nodes, and each pod is to meet the others at {where}: it finds "
            "itself alone",
            evidence=(f"{max(number, total)} pods run this launch line, or one like it",),
            help="name one pod that all can reach, by a headless Service: --rdzv-endpoint=POD-0.SERVICE:29500",
            # Of what is not written, the image's own variables may tell.
            severity=Severity.WARNING if written is None else None,
            confidence=Confidence.LIKELY,
        )


def _meetings(workload: Workload) -> Iterator[_Meeting]:
    for pod_set in workload.pod_sets:
        for container, launch in launchers_of(pod_set):
            names = _ADDRESSES.get(launch.program)
            if names is None or _nodes(launch) in {"", "1"}:
                continue
            if pods.text_of(container).count(launch.script or launch.program) > 1:
                continue  # a shell that starts one line in the first pod and another in the rest
            address = launch.option("--standalone") if launch.program == "torchrun" else None
            address = address or next((found for name in names if (found := launch.option(name)) is not None), None)
            if address is None:
                yield _Meeting(pod_set, container, launch, None, _is_told_nowhere(workload, container, launch))
            else:
                is_self = address.name == "--standalone" or _SELF.fullmatch(address.value or "") is not None
                yield _Meeting(pod_set, container, launch, address, is_self)


def _is_told_nowhere(workload: Workload, container: Container, launch: Launch) -> bool:
    """Whether nothing that can be seen tells a torchrun without an address where to meet."""
    if launch.program != "torchrun" or look.group(workload.document) in _TELLING:
        return False
    if container.spec.get("envFrom") is not None or any(_VARIABLES.search(name) for name in container.env):
        return False
    return _VARIABLES.search(pods.text_of(container)) is None and launch.option("--rdzv-conf") is None


def _nodes(launch: Launch) -> str:
    """How many nodes are meant, as written: `4`, or `2:4`; empty where it is not said or filled in later."""
    for name in ("--nnodes", "--num-machines"):
        value = launch.value(name) or ""
        least, _, most = value.partition(":")
        if pods.whole(most or least) is not None and pods.whole(least) is not None:
            return str(pods.whole(least)) if not most or most == least else value
    return ""


def _num_pods(workload: Workload, pod_set: PodSet) -> int:
    """Pods of the set; of a kind whose replicas are pods, all of them."""
    is_pods = workload.kind in {"StatefulSet", "Deployment", "ReplicaSet"}
    return pod_set.num_pods * (workload.replicas.min if is_pods else 1)
