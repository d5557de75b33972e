"""TrainJob, JobSet and PyTorchJob that run our program, and what is said of those that mean nothing."""

from __future__ import annotations

import re

import pytest

from ironloom.errors import ManifestError
from ironloom.workload.manifests import Workloads, dump_yaml, read_text, to_workloads, training_manifest
from ironloom.workload.manifests.problems import each
from ironloom.workload.training import Method
from ironloom.workload.training_job import TrainingJob
from ironloom.workload.training_settings import from_args

TRAIN_JOB = """apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata: {name: tuned, namespace: research, labels: {team: loom}}
spec:
  runtimeRef: {name: torch-distributed}
  trainer:
    image: example.com/train:1
    command: [torchrun, -m, ironloom.train.run]
    args:
      - --model=hf://owner/name
      - --output=/mnt/out
      - --data.sources=/mnt/rows.jsonl
      - --num_steps=20
    env: [{name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hub, key: token}}}, {name: NCCL_DEBUG, value: INFO}]
    numNodes: 2
    numProcPerNode: 4
    resourcesPerNode: {limits: {nvidia.com/gpu: 4}, requests: {memory: 64Gi}}
"""
JOB_SET = """apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata: {name: tuned}
spec:
  failurePolicy: {maxRestarts: 5}
  replicatedJobs:
    - name: driver
      template: {spec: {template: {spec: {containers: [{name: d, image: busybox, command: [sleep, "1"]}]}}}}
    - name: workers
      replicas: 1
      template:
        spec:
          parallelism: 2
          completions: 2
          template:
            spec:
              nodeSelector: {gpu: h100}
              containers:
                - name: train
                  image: example.com/train:1
                  command: [bash, -c]
                  args: ["exec torchrun --nproc_per_node 2 -m ironloom.train.run --model=hf://a/b --output=/o"]
"""
PYTORCH_JOB = """apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: tuned}
spec:
  elasticPolicy: {minReplicas: 1, maxReplicas: 3, maxRestarts: 7}
  runPolicy: {suspend: true}
  pytorchReplicaSpecs:
    Master: &pod
      replicas: 1
      template: &template
        spec:
          containers:
            - name: pytorch
              image: example.com/train:1
              command: [python, -m, ironloom.train.run, --model=hf://a/b, --output=/o, --global-batch-size=12]
    Worker: {replicas: 2, template: *template}
"""


def workloads(text: str) -> Workloads:
    return to_workloads(read_text(text, "f.yaml"))


def job(text: str) -> TrainingJob:
    (found,) = workloads(text).trainings
    return found


def wrong(text: str) -> list[str]:
    with pytest.raises(ManifestError) as told:
        workloads(text)
    return [problem.render().partition("\n\n")[0] for problem in each(told.value)]


def test_a_train_job_is_read_with_its_ranks_and_settings() -> None:
    made = job(TRAIN_JOB)
    assert (made.name, made.namespace, made.labels, made.kind) == ("tuned", "research", {"team": "loom"}, "TrainJob")
    assert (made.training.model, made.training.num_steps) == ("hf://owner/name", 20)
    assert (made.num_ranks, made.resources.num_gpus, made.resources.memory_bytes) == (8, 1, 16 * 2**30)
    assert made.env == {"NCCL_DEBUG": "INFO"}
    assert [note.message for note in made.not_honoured] == [
        "env HF_TOKEN comes from the Secret hub: set it in the daemon's own environment instead",
        "image: no image is run; ranks run this installation",
        "2 nodes: all 8 ranks run on this machine",
    ]


def test_what_the_short_way_writes_is_read_back() -> None:
    base = {"name": "tuned", "model": "hf://a/b", "output": "/o"}
    training = from_args(["--method=lora", "--optimizer.learning_rate=0.0001"], base=base)
    made = job(dump_yaml(training_manifest(training, num_ranks=2, num_gpus=2, env={"A": "1"})))
    assert made.training == training
    assert (made.num_ranks, made.resources.num_gpus, made.env) == (2, 1, {"A": "1"})


def test_processes_of_a_node_follow_from_its_gpus_where_they_are_not_said() -> None:
    assert job(TRAIN_JOB.replace("    numProcPerNode: 4\n", "")).num_ranks == 8
    assert job(JOB_SET.replace("--nproc_per_node 2", "--nproc-per-node=auto")).num_ranks == 2


def test_a_job_set_s_trainer_is_found_in_a_shell_s_line_and_its_other_jobs_are_told() -> None:
    made = job(JOB_SET)
    assert (made.num_ranks, made.training.max_restarts, made.training.method) == (4, 5, Method.FULL)
    assert [note.message.partition(":")[0] for note in made.not_honoured] == [
        "replicatedJobs driver", "nodeSelector", "image", "2 pods"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (JOB_SET, "parallelism: 2"),
        (JOB_SET.replace("parallelism: 2", "parallelism: 1").replace("replicas: 1", "replicas: 2"),
         "replicas: 2"),
        (PYTORCH_JOB, "pytorchReplicaSpecs:"),
    ],
)  # fmt: skip
def test_notes_of_a_training_manifest_speak_of_ranks_and_stand_where_the_pods_are_said(text: str, place: str) -> None:
    more = ("initContainers: [{name: a}]", "activeDeadlineSeconds: 60", "hostNetwork: true", "serviceAccountName: a")
    with_init = re.sub(
        r"^( +)(?=containers:)", "".join(rf"\g<1>{one}\n" for one in more) + r"\1", text, flags=re.MULTILINE
    )
    notes = job(with_init).not_honoured
    assert "image: no image is run; ranks run this installation" in [note.message for note in notes]
    assert "activeDeadlineSeconds: a run ends with its steps" in [note.message for note in notes]
    words = ("engine", "serves", "service ")
    assert not [note.message for note in notes if any(word in note.message for word in words)]
    (pods,) = (note for note in notes if "ranks run on this machine" in note.message)
    assert place in text.splitlines()[pods.line - 1]


def test_an_elastic_pytorch_job_may_go_down_to_its_least_replicas() -> None:
    made = job(PYTORCH_JOB)
    assert (made.num_ranks, made.min_ranks, made.is_suspended) == (3, 1, True)
    assert (made.training.is_elastic, made.training.max_restarts) == (True, 7)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("--num_steps=20", "--num_stps=20", ("f.yaml:13:9: there is no setting 'num_stps' of a training run; did you "
         "mean 'num_steps'?")),
        ("--num_steps=20", "--optimizer.learning_rate=2e", ("f.yaml:13:9: optimizer.learning_rate = '2e', must be a "
         "number above 0")),
        ("--num_steps=20", "--global_batch_size=6", ("f.yaml:13:9: global_batch_size = 6 does not divide by 8 ranks × "
         "micro_batch_size 1")),
        ("numProcPerNode: 4", "numProcPerNode: 3", "f.yaml:16:21: 4 GPUs do not divide by 3 processes"),
        ("numNodes: 2", "numNods: 2", "f.yaml:15:5: spec.trainer has no field 'numNods'; did you mean 'numNodes'?"),
        ("      - --output=/mnt/out\n", "", "f.yaml:10:7: output is not said, and a training run needs it"),
        ("nvidia.com/gpu: 4", "nvidia.com/gpu: 1.5", ("f.yaml:17:49: nvidia.com/gpu = 1.5, must be a whole number of "
         "devices")),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_its_place(old: str, new: str, said: str) -> None:
    assert old in TRAIN_JOB
    assert said in wrong(TRAIN_JOB.replace(old, new))


def test_a_train_job_that_runs_something_else_is_named_and_skipped() -> None:
    found = workloads(TRAIN_JOB.replace("ironloom.train.run", "other.train"))
    assert found.trainings == ()
    assert [note.message for note in found.skipped] == ["TrainJob tuned does not run ironloom.train.run: skipped"]


def test_two_runs_of_one_name_are_refused() -> None:
    text = TRAIN_JOB.replace(", namespace: research", "")
    assert wrong(f"{text}---\n{JOB_SET}") == [
        "f.yaml:21:18: there is a run 'tuned' already, in f.yaml:3: a run is known by its name"
    ]
