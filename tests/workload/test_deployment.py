"""A Deployment that runs an engine, and its Service."""

from __future__ import annotations

import pytest

from ironloom.errors import ManifestError
from ironloom.workload.manifests import parse_objects, read_text, to_serving, to_workloads
from ironloom.workload.serving import Serving

DEPLOYMENT = """apiVersion: apps/v1
kind: Deployment
metadata: {name: mistral, labels: {app: mistral}}
spec:
  replicas: 1
  selector: {matchLabels: {app: mistral}}
  template:
    metadata: {labels: {app: mistral}}
    spec:
      tolerations: [{key: nvidia.com/gpu, operator: Exists}]
      volumes:
        - {name: cache, persistentVolumeClaim: {claimName: cache}}
        - {name: shm, emptyDir: {medium: Memory, sizeLimit: 2Gi}}
      containers:
        - name: engine
          image: vllm/vllm-openai:v0.20.1
          command: ["/bin/sh", "-c"]
          args: ["vllm serve mistralai/Mistral-7B-Instruct-v0.3 --trust-remote-code --max_num_batched_tokens 1024"]
          ports: [{containerPort: 8000}]
          resources: {limits: {cpu: "10", memory: 20G, nvidia.com/gpu: "1"}, requests: {cpu: "2", memory: 6G}}
          volumeMounts: [{mountPath: /root/.cache/huggingface, name: cache}, {name: shm, mountPath: /dev/shm}]
          livenessProbe: {httpGet: {path: /health, port: 8000}, initialDelaySeconds: 60}
"""
SERVICE = """apiVersion: v1
kind: Service
metadata: {name: mistral}
spec:
  selector: {app: mistral}
  ports: [{name: http, port: 80, targetPort: 8000}]
"""


def serving(text: str) -> Serving:
    (document,) = read_text(text, "f.yaml")
    return to_serving(document)


def test_vllm_s_own_example() -> None:
    made = serving(DEPLOYMENT)
    assert made.name == "mistral"
    assert made.model_uri == "hf://mistralai/Mistral-7B-Instruct-v0.3"
    assert made.engine_args == ("--trust-remote-code", "--max-num-batched-tokens", "1024")
    assert (made.resources.num_gpus, made.resources.cpu, made.resources.memory_bytes) == (1, 10, 6 * 10**9)
    assert (made.scaling.min_replicas, made.scaling.max_replicas) == (1, 1)
    assert [note.message for note in made.not_honoured] == [
        "tolerations: this machine is the only node",
        "volume cache (persistentVolumeClaim): nothing is mounted here",
        "image: no image is run; an engine of this machine serves the model",
    ]


def test_its_service_goes_with_it_and_another_is_skipped_by_name() -> None:
    other = SERVICE.replace("name: mistral}", "name: other}").replace("app: mistral", "app: other")
    for text in (f"{DEPLOYMENT}---\n{SERVICE}---\n{other}", f"{other}---\n{SERVICE}---\n{DEPLOYMENT}"):
        found = to_workloads(read_text(text, "f.yaml"))
        (made,) = found.servings
        assert [service["metadata"]["name"] for service in made.extra_manifests] == ["mistral"]
        assert [note.message for note in found.skipped] == ["Service other selects no workload of these files: skipped"]


def test_a_service_of_another_namespace_selects_nothing() -> None:
    away = SERVICE.replace("name: mistral}", "name: mistral, namespace: away}")
    found = to_workloads(read_text(f"{DEPLOYMENT}---\n{away}"))
    assert found.servings[0].extra_manifests == ()


def test_a_deployment_without_an_engine_is_skipped_in_a_set_and_refused_alone() -> None:
    text = DEPLOYMENT.replace("vllm serve", "sleep")
    found = to_workloads(read_text(text))
    assert found.servings == ()
    assert [note.message for note in found.skipped] == [
        "Deployment mistral runs neither vLLM nor KServe's Hugging Face server: skipped"
    ]
    with pytest.raises(ManifestError, match="runs neither vLLM nor"):
        serving(text)


def test_with_scale_annotations_the_autoscaler_has_the_count() -> None:
    text = DEPLOYMENT.replace(
        "metadata: {labels: {app: mistral}}",
        "metadata: {labels: {app: mistral}, annotations: {autoscaling.knative.dev/min-scale: '0', "
        "autoscaling.knative.dev/max-scale: '3'}}",
    )
    scaling = serving(text).scaling
    assert (scaling.min_replicas, scaling.max_replicas) == (0, 3)


def test_no_replicas_is_a_service_at_zero() -> None:
    scaling = serving(DEPLOYMENT.replace("replicas: 1", "replicas: 0")).scaling
    assert (scaling.min_replicas, scaling.max_replicas, scaling.initial_scale) == (0, 1, 0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("replicas: 1", "replica: 1", "spec has no field 'replica'; did you mean 'replicas'?"),
        ("replicas: 1", "replicas: -1", "replicas = -1, must be a whole number of at least 0"),
        ("image: vllm", "imge: vllm", "has no field 'imge'; did you mean 'image'?"),
        ('nvidia.com/gpu: "1"', "nvidia.com/gpu: one", "must be a quantity"),
        ("containerPort: 8000", "containerPort: http", "must be an integer"),
        ("{labels: {app: mistral}}\n    spec", "{labels: {app: x}}\n    spec", "the selector wants app=mistral"),
        ("operator: Exists}]", "operator: Exists, efect: NoSchedule}]", "did you mean 'effect'?"),
        ("vllm serve mistralai/Mistral-7B-Instruct-v0.3", "vllm serve", "nothing names a model"),
        ("apps/v1", "apps/v1beta1", "Deployment is in apps/v1"),
    ],
)
def test_what_is_wrong_is_told(old: str, new: str, message: str) -> None:
    assert old in DEPLOYMENT
    with pytest.raises(ManifestError) as caught:
        serving(DEPLOYMENT.replace(old, new))
    assert message in caught.value.message
    assert caught.value.line > 0


def test_objects_without_a_text_pair_too() -> None:
    objects = [document.obj for document in read_text(f"{DEPLOYMENT}---\n{SERVICE}")]
    (made,) = parse_objects([{"apiVersion": "v1", "kind": "List", "items": objects}]).servings
    assert len(made.extra_manifests) == 1
    assert {note.line for note in made.not_honoured} == {0}
