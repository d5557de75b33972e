"""Launchers of several pods that meet at localhost are told; a common address, and what a controller sets, are not."""

from __future__ import annotations

import pytest

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.inputs import read_texts


def found(text: str) -> list[tuple[str, str]]:
    result = check(read_texts({"a.yaml": text}), registry.select(["IL234"]), Setting())
    assert result.faults == ()
    return [(str(finding.severity), str(finding.confidence)) for finding in result.findings]


def job(command: str, *, pods: int = 2, more: str = "") -> str:
    return f"""\
apiVersion: batch/v1
kind: Job
metadata: {{name: train}}
spec:
  parallelism: {pods}
  completions: {pods}
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        command: {command}
        resources: {{limits: {{nvidia.com/gpu: 8}}}}
{more}"""


ERROR, WARNING = [("error", "likely")], [("warning", "likely")]
SHELL = "[sh, -c, {!r}]"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("[torchrun, --nnodes=2, --nproc-per-node=8, train.py]", WARNING),
        ("[torchrun, --nnodes=2, --rdzv-backend=c10d, --rdzv-endpoint=localhost:29500, train.py]", ERROR),
        ("[torchrun, --nnodes, '2', --rdzv_backend, c10d, --rdzv_endpoint, '127.0.0.1:29500', train.py]", ERROR),
        ("[python, -m, torch.distributed.run, --nnodes=2, '--master_addr=::1', train.py]", ERROR),
        ("[torchrun, --nnodes=2, --standalone, train.py]", ERROR),
        ("[torchrun, '--nnodes=1:4', '--rdzv-endpoint=localhost', train.py]", ERROR),
        (
            "[accelerate, launch, --num_machines=2, --num_processes=16, --main_process_ip=127.0.0.1, train.py]",
            ERROR,
        ),
        (SHELL.format("torchrun --nnodes=2 --nproc-per-node=8 train.py"), WARNING),
        ("[torchrun, --nnodes=2, '--rdzv-endpoint=train-0.train:29500', train.py]", []),
        ("[torchrun, --nnodes=2, --node-rank=0, --master-addr=train-0.train, train.py]", []),
        (SHELL.format("torchrun --nnodes=2 --master-addr=$MASTER_ADDR train.py"), []),
        (SHELL.format("export PET_MASTER_ADDR=train-0.train; torchrun --nnodes=2 train.py"), []),
        (
            SHELL.format(
                "if [ $JOB_COMPLETION_INDEX = 0 ]; then torchrun --nnodes=2 --rdzv-endpoint=localhost:1 train.py; "
                "else torchrun --nnodes=2 --rdzv-endpoint=train-0.train:1 train.py; fi"
            ),
            [],
        ),
        ("[torchrun, --nnodes=$(NNODES), train.py]", []),
        ("[torchrun, --nnodes=1, --rdzv-endpoint=localhost:0, train.py]", []),
        ("[torchrun, --standalone, --nproc-per-node=8, train.py]", []),
        ("[torchrun, --nproc-per-node=8, train.py]", []),
        ("[accelerate, launch, --num_machines=2, train.py]", []),
        ("[python, train.py, --rdzv-endpoint=localhost]", []),
    ],
)
def test_pods_that_meet_at_localhost_find_themselves_alone(command: str, told: list[tuple[str, str]]) -> None:
    assert found(job(command)) == told
    assert found(job(command, pods=1)) == []


@pytest.mark.parametrize(
    "more",
    [
        "        env: [{name: PET_MASTER_ADDR, value: train-0.train}]\n",
        "        env: [{name: PET_RDZV_ENDPOINT, value: 'train-0.train:29500'}]\n",
        "        env: [{name: MASTER_ADDR, value: train-0.train}]\n",
        "        envFrom: [{configMapRef: {name: launch}}]\n",
    ],
)
def test_a_variable_may_tell_the_address_and_an_option_stands_above_it(more: str) -> None:
    assert found(job("[torchrun, --nnodes=2, train.py]", more=more)) == []
    assert found(job("[torchrun, --nnodes=2, --rdzv-endpoint=localhost:1, train.py]", more=more)) == ERROR


def pytorch_job(command: str) -> str:
    pod = f"""\
      template:
        spec:
          containers:
          - {{name: pytorch, image: "registry.example.com/train:1", command: {command}}}
"""
    return f"""\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {{name: train}}
spec:
  pytorchReplicaSpecs:
    Master:
      replicas: 1
{pod}    Worker:
      replicas: 1
{pod}"""


def test_a_pytorch_job_tells_torchrun_the_address_where_the_line_does_not() -> None:
    assert found(pytorch_job("[torchrun, --nnodes=2, train.py]")) == []
    assert found(pytorch_job("[torchrun, --nnodes=2, --rdzv-endpoint=localhost:1, train.py]")) == ERROR * 2


def job_set(leader: str, worker: str, num_workers: int) -> str:
    def of(name: str, command: str, parallelism: int) -> str:
        return f"""\
  - name: {name}
    template:
      spec:
        parallelism: {parallelism}
        completions: {parallelism}
        template:
          spec:
            restartPolicy: Never
            containers:
            - {{name: main, image: "registry.example.com/train:1", command: {command}}}
"""

    return f"""\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata: {{name: train}}
spec:
  replicatedJobs:
{of("leader", leader, 1)}{of("worker", worker, num_workers)}"""


HERE = "[torchrun, --nnodes=3, --rdzv-endpoint=localhost:1, train.py]"
THERE = "[torchrun, --nnodes=3, --rdzv-endpoint=train-leader-0-0.train:1, train.py]"


def test_the_one_pod_that_the_others_name_may_call_itself_localhost() -> None:
    assert found(job_set(HERE, THERE, 2)) == []
    assert found(job_set(THERE, HERE, 2)) == ERROR
    assert found(job_set(HERE, HERE, 1)) == ERROR * 2


def test_replicas_of_a_stateful_set_are_pods() -> None:
    stateful = """\
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: train}
spec:
  replicas: 2
  selector: {matchLabels: {app: train}}
  template:
    metadata: {labels: {app: train}}
    spec:
      containers:
      - {name: main, image: "registry.example.com/train:1", command: COMMAND}
"""
    assert found(stateful.replace("COMMAND", HERE)) == ERROR
    assert found(stateful.replace("COMMAND", THERE)) == []
    assert found(stateful.replace("COMMAND", HERE).replace("replicas: 2", "replicas: 1")) == []
