"""The kinds that make pods, read from manifests as people write them."""

from __future__ import annotations

from ironloom.workload.kinds import Found, workloads_of
from ironloom.workload.manifests import nodes
from ironloom.workload.manifests.document import document
from ironloom.workload.workload import Role

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: llama, namespace: team, labels: {kueue.x-k8s.io/queue-name: gpu}}
spec:
  replicas: 4
  selector: {matchLabels: {app: llama}}
  template:
    metadata: {labels: {app: llama}}
    spec:
      containers:
      - name: server
        image: vllm/vllm-openai:v0.20.0
        args: [--model, meta-llama/Llama-3.1-70B-Instruct, -tp=2]
        resources: {limits: {nvidia.com/gpu: 2, cpu: 500m}, requests: {memory: 128Gi}}
"""


def found(text: str) -> Found:
    return workloads_of([document(node, "f.yaml", text) for node in nodes.parse(text, "f.yaml")])


def test_a_deployment_is_copies_of_one_pod() -> None:
    (one,) = found(DEPLOYMENT).workloads
    assert (one.kind, one.name, one.namespace, one.queue) == ("Deployment", "llama", "team", "gpu")
    assert (one.replicas.min, one.replicas.max, one.replicas.path) == (4, 4, ("spec", "replicas"))
    (pods,) = one.pod_sets
    assert (pods.num_pods, pods.role, pods.labels) == (1, Role.SERVING, {"app": "llama"})
    assert pods.gpus() == ("nvidia.com/gpu", 2)
    assert pods.requests == {"nvidia.com/gpu": 2, "cpu": 500, "memory": 128 * 1024**3}
    launch = pods.containers[0].launch
    assert launch is not None
    assert (launch.program, launch.model) == ("vllm", "meta-llama/Llama-3.1-70B-Instruct")
    assert launch.integer("--tensor-parallel-size", 1) == 2


def test_an_inference_service_runs_hugging_faces_server() -> None:
    (one,) = found(
        """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: q}
spec:
  predictor:
    minReplicas: 0
    nodeSelector: {a: b}
    model:
      modelFormat: {name: huggingface}
      storageUri: hf://Qwen/Qwen3-8B
      args: [--max_model_len, "4096"]
      resources: {limits: {nvidia.com/gpu: "1"}}
"""
    ).workloads
    (pods,) = one.pod_sets
    assert (pods.name, pods.role, pods.is_written, pods.spec["nodeSelector"]) == (
        "predictor",
        Role.SERVING,
        False,
        {"a": "b"},
    )
    launch = pods.containers[0].launch
    assert launch is not None
    assert (launch.program, launch.model, launch.model_path) == (
        "huggingfaceserver",
        "hf://Qwen/Qwen3-8B",
        ("spec", "predictor", "model", "storageUri"),
    )
    assert launch.value("--max-model-len") == "4096"
    assert (one.replicas.min, one.replicas.decider) == (0, "")


def test_a_job_runs_its_pods_at_once_and_a_script_has_places() -> None:
    (one,) = found(
        """\
apiVersion: batch/v1
kind: Job
metadata: {name: j}
spec:
  parallelism: 4
  completions: 2
  template:
    spec:
      containers:
      - name: t
        command: [bash, -c]
        args:
        - |
          set -e  # a comment with 'a quote
          N=8
          exec torchrun --nnodes=2 --nproc_per_node $N train.py --lr 1e-4
"""
    ).workloads
    (pods,) = one.pod_sets
    assert (pods.num_pods, pods.role) == (2, Role.TRAINING)
    launch = pods.containers[0].launch
    assert launch is not None
    assert (launch.program, launch.script, launch.value("--nproc-per-node")) == ("torchrun", "train.py", "8")
    assert launch.inner is not None
    assert launch.inner.value("--lr") == "1e-4"
    option = launch.option("--nnodes")
    assert option is not None
    script = pods.spec["containers"][0]["args"][0]
    assert script[option.offset :].startswith("--nnodes=2")


def test_a_kind_that_is_not_known_is_told_once_a_file() -> None:
    teapot = "apiVersion: example.org/v1\nkind: Teapot\n---\n"
    text = f"{teapot}{teapot}apiVersion: v1\nkind: Service\n"
    (note,) = found(text).unread
    assert (note.line, note.column) == (2, 7)
    assert "Teapot" in note.message
