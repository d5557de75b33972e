"""A TrainJob is its runtime with the job's own words over it."""

from __future__ import annotations

import pytest
from tests.workload.kinds.manifests import TRAIN_JOB, TRAINING_RUNTIME, found

TEXTS = [
    pytest.param(TRAIN_JOB, id="the runtime is not there"),
    pytest.param(f"{TRAINING_RUNTIME}---\n{TRAIN_JOB}", id="the runtime is there"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_the_job_says_counts(text: str) -> None:
    (one,) = found(text).workloads
    (pods,) = one.pod_sets
    assert (pods.name, pods.num_pods, pods.is_written, one.is_gang) == ("node", 4, False, True)
    assert pods.spec["nodeSelector"] == {"gpu": "h100"}
    (container,) = pods.containers
    assert (container.path, container.image) == (("spec", "trainer"), "me/train:1")
    assert container.requests == {"nvidia.com/gpu": 8}
    assert container.env["NCCL_DEBUG"] == "INFO"
    assert container.env_paths["NCCL_DEBUG"] == ("spec", "trainer", "env", 0)
    assert container.launch is not None
    assert (container.launch.program, container.launch.script) == ("torchrun", "train.py")


@pytest.mark.parametrize("text", TEXTS)
def test_its_topology_stands_in_its_patch(text: str) -> None:
    (pods,) = found(text).workloads[0].pod_sets
    (wish,) = pods.topology
    assert (wish.key, wish.is_required, wish.source) == ("rack", True, "kueue")
    assert wish.path[:3] == ("spec", "runtimePatches", 0)
    assert wish.path[-2:] == ("annotations", "kueue.x-k8s.io/podset-required-topology")


def test_what_a_patch_says_of_the_pods_counts_below_the_job_s_own_words() -> None:
    patch = """\
                    nodeSelector: {gpu: h100}
                    containers:
                    - name: node
                      env: [{name: NCCL_DEBUG, value: WARN}, {name: NCCL_NET, value: IB}]
                      resources: {limits: {nvidia.com/gpu: 4, memory: 64Gi}}
"""
    patched = TRAIN_JOB.replace("                    nodeSelector: {gpu: h100}\n", patch)
    (pods,) = found(f"{TRAINING_RUNTIME}---\n{patched}").workloads[0].pod_sets
    assert pods.containers[0].requests == {"nvidia.com/gpu": 8}
    assert (pods.containers[0].env["NCCL_DEBUG"], pods.containers[0].env["NCCL_NET"]) == ("INFO", "IB")
    alone = patched.replace("    resourcesPerNode: {limits: {nvidia.com/gpu: 8}}\n", "")
    (pods,) = found(f"{TRAINING_RUNTIME}---\n{alone}").workloads[0].pod_sets
    assert pods.containers[0].requests == {"nvidia.com/gpu": 4, "memory": 64 * 2**30}
    assert pods.gpus()[1] == 4
    bare = alone.replace("    image: me/train:1\n", "")
    (pods,) = found(f"{TRAINING_RUNTIME}---\n{bare}").workloads[0].pod_sets
    assert [(one.name, one.image) for one in pods.containers] == [("node", "pytorch/pytorch:2.9.0")]


def test_the_runtime_fills_what_the_job_leaves() -> None:
    bare = "apiVersion: trainer.kubeflow.org/v1alpha1\nkind: TrainJob\nspec: {runtimeRef: {name: torch-distributed}}\n"
    (one,) = found(f"{bare}---\n{TRAINING_RUNTIME}").workloads
    (pods,) = one.pod_sets
    assert (pods.num_pods, pods.containers[0].image, one.is_gang) == (1, "pytorch/pytorch:2.9.0", False)
    assert pods.spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]


def test_an_mpi_runtime_has_nodes_and_a_launcher() -> None:
    runtime = """\
apiVersion: trainer.kubeflow.org/v1alpha1
kind: ClusterTrainingRuntime
metadata: {name: deepspeed}
spec:
  mlPolicy: {numNodes: 2, mpi: {numProcPerNode: 8, runLauncherAsNode: true}}
  template:
    spec:
      replicatedJobs:
      - name: node
        template: {spec: {template: {spec: {containers: [{name: node, image: ds}]}}}}
      - name: launcher
        template:
          metadata: {labels: {trainer.kubeflow.org/trainjob-ancestor-step: trainer}}
          spec: {template: {spec: {containers: [{name: node, image: ds}]}}}
"""
    job = """\
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
spec:
  runtimeRef: {name: deepspeed}
  trainer: {numNodes: 5, command: [mpirun, python, train.py], resourcesPerNode: {limits: {nvidia.com/gpu: 8}}}
"""
    (one,) = found(f"{runtime}---\n{job}").workloads
    nodes, launcher = one.pod_sets
    assert (nodes.name, nodes.num_pods, nodes.gpus()[1]) == ("node", 5, 8)
    assert (launcher.name, launcher.num_pods) == ("launcher", 1)
    assert launcher.containers[0].launch is not None
    assert nodes.containers[0].launch is None
