"""What controllers add to pods by themselves is not missed; what they do not add is."""

from __future__ import annotations

import pytest

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Severity
from ironloom.check.inputs import read_texts


def found(text: str, *rules: str, file: str = "a.yaml") -> list[tuple[str, int]]:
    result = check(read_texts({file: text}), registry.select(rules), Setting())
    assert result.faults == ()
    return [(finding.rule, finding.line) for finding in result.findings if finding.severity is not Severity.NOTE]


def mpi_job(launcher: str, worker: str, version: str = "v2beta1") -> str:
    return f"""\
apiVersion: kubeflow.org/{version}
kind: MPIJob
metadata: {{name: train}}
spec:
  mpiReplicaSpecs:
    Launcher:
      template:
        spec:
          initContainers:
          - name: wait
            image: busybox:1.36
            volumeMounts:
            - {{name: {launcher}, mountPath: /a}}
          containers:
          - {{name: mpi, image: "registry.example.com/train:1", command: [mpirun, /app]}}
    Worker:
      replicas: 2
      template:
        spec:
          containers:
          - name: mpi
            image: registry.example.com/train:1
            volumeMounts:
            - {{name: {worker}, mountPath: /b}}
"""


@pytest.mark.parametrize(
    ("launcher", "worker", "version", "lines"),
    [
        ("mpi-job-config", "ssh-auth", "v2beta1", []),
        ("ssh-auth", "mpi-job-config", "v2beta1", [24]),
        ("mpi-job-kubectl", "ssh-auth", "v2beta1", [13]),
        ("mpi-job-kubectl", "mpi-job-config", "v1", []),
        ("ssh-auth", "mpi-job-kubectl", "v1", [13, 24]),
        ("data", "data", "v2beta1", [13, 24]),
    ],
)
def test_the_volumes_of_an_mpi_job_are_there_in_the_pods_that_its_operator_adds_them_to(
    launcher: str, worker: str, version: str, lines: list[int]
) -> None:
    assert found(mpi_job(launcher, worker, version), "IL014") == [("IL014", line) for line in lines]


def test_the_names_of_an_mpi_jobs_volumes_mean_nothing_in_another_kind() -> None:
    job = mpi_job("mpi-job-config", "ssh-auth", "v1").replace("MPIJob", "PyTorchJob").replace("mpiRep", "pytorchRep")
    assert found(job, "IL014") == [("IL014", 13), ("IL014", 24)]


def daemon_set(image: str) -> str:
    return f"""\
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: driver}}
spec:
  selector: {{matchLabels: {{app: driver}}}}
  template:
    metadata: {{labels: {{app: driver}}}}
    spec:
      containers:
      - name: main
        image: {image}
        volumeMounts:
        - {{name: toolkit, mountPath: /mnt}}
"""


def test_a_pod_that_an_operator_fills_in_may_get_its_volumes_too() -> None:
    assert found(daemon_set('"FILLED BY THE OPERATOR"'), "IL014") == []
    assert found(daemon_set("registry.example.com/driver:1"), "IL014") == [("IL014", 13)]


def ray_cluster(parameters: str, more: str = "") -> str:
    return f"""\
apiVersion: ray.io/v1
kind: RayCluster
metadata: {{name: ray}}
spec:
  workerGroupSpecs:
  - groupName: gpu
    replicas: 1
    rayStartParams: {parameters}
    template:
      spec:
        containers:
{more}        - name: worker
          image: vllm/vllm-openai:v0.11.0
          command: [vllm, serve, Qwen/Qwen3-32B, --tensor-parallel-size=2]
          resources: {{limits: {{nvidia.com/gpu: 2, cpu: 8, memory: 64Gi}}}}
"""


def test_ray_gets_its_shared_memory_from_its_operator() -> None:
    beside = "        - {name: proxy, image: 'registry.example.com/proxy:1'}\n"
    assert found(ray_cluster("{}"), "IL301") == []
    assert found(ray_cluster("{plasma-directory: /tmp}"), "IL301") == [("IL301", 12)]
    assert found(ray_cluster("{}", beside), "IL301") == [("IL301", 13)]


def spark(containers: str) -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata: {{name: executor}}
spec:
  nodeSelector: {{pool: gpu}}
{containers}"""


NONE, OF_SPARK = "", "  containers:\n  - name: spark-kubernetes-executor\n"
OTHER = "  containers:\n  - name: main\n"


@pytest.mark.parametrize(
    ("containers", "file", "rules"),
    [
        (NONE, "driver-pod-template.yaml", []),
        (NONE, "pod_templates/driver.yaml", []),
        (NONE, "executor_template.yml", []),
        (OF_SPARK, "executor-pod-template.yaml", []),
        (OF_SPARK, "executor.yaml", []),
        (OTHER, "pod-template.yaml", []),
        (OTHER, "templates/pod.yaml", ["IL019"]),
        (NONE, "pod.yaml", ["IL003"]),
        (f"{OTHER}    image: busybox:1.36\n  - name: beside\n", "pod-template.yaml", ["IL019"]),
    ],
)
def test_a_template_of_pods_is_held_to_what_its_program_does_not_fill_in(
    containers: str, file: str, rules: list[str]
) -> None:
    assert [rule for rule, _ in found(spark(containers), "IL003", "IL019", file=file)] == rules
