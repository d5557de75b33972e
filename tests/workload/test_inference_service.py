"""InferenceService v1beta1 into a Serving."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.errors import ManifestError
from ironloom.units import GIB
from ironloom.workload.manifests import read_text, to_serving
from ironloom.workload.serving import Resources, ScaleMetric, Scaling, Serving

HEAD = "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: qwen}\n"
MODEL = "    model: {modelFormat: {name: huggingface}, storageUri: 'hf://Qwen/Qwen3-0.6B'}\n"


def serving(text: str) -> Serving:
    (document,) = read_text(text, "f.yaml")
    return to_serving(document)


def predictor(fields: str, *, annotations: dict[str, str] | None = None, model: str = MODEL) -> Serving:
    head = HEAD
    if annotations:
        inside = ", ".join(f"{key}: '{value}'" for key, value in annotations.items())
        head = head.replace("{name: qwen}", f"{{name: qwen, annotations: {{{inside}}}}}")
    return serving(head + "spec:\n  predictor:\n" + "".join(f"    {line}\n" for line in fields.splitlines()) + model)


def scaling(fields: str, **annotations: str) -> Scaling:
    named = {f"autoscaling.knative.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return predictor(fields, annotations=named).scaling


def messages(made: Serving) -> list[str]:
    return [note.message for note in made.not_honoured]


def test_everything_a_model_says() -> None:
    made = serving(
        """apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  namespace: team
  labels: {a: b}
spec:
  predictor:
    minReplicas: 0
    maxReplicas: 4
    scaleMetric: rps
    scaleTarget: 10
    containerConcurrency: 32
    timeout: 120
    model:
      modelFormat: {name: huggingface}
      protocolVersion: openai
      runtime: kserve-huggingfaceserver
      storageUri: hf://meta-llama/Llama-3.2-1B-Instruct:abc
      args: [--max-model-len=4096, --dtype, bfloat16]
      env:
        - {name: A, value: x}
        - {name: B, value: $(A)y}
      resources:
        limits: {cpu: "4", memory: 16Gi, nvidia.com/gpu: 2}
        requests: {cpu: 500m, memory: 8Gi, nvidia.com/gpu: 2}
"""
    )
    assert made == Serving(
        name="llama",
        kind="InferenceService",
        namespace="team",
        labels={"a": "b"},
        model_uri="hf://meta-llama/Llama-3.2-1B-Instruct:abc",
        engine_args=("--dtype", "bfloat16"),
        env={"A": "x", "B": "xy"},
        max_model_len=4096,
        resources=Resources(cpu=4.0, memory_bytes=8 * GIB, num_gpus=2),
        scaling=Scaling(min_replicas=0, max_replicas=4, metric=ScaleMetric.RPS, target=10.0, container_concurrency=32),
        timeout_s=120.0,
        manifest=made.manifest,
    )


def test_what_is_not_said_is_kserve_s_default() -> None:
    made = predictor("")
    assert made.scaling == Scaling(min_replicas=1, max_replicas=0)
    assert (made.timeout_s, made.namespace, made.runtime) == (300.0, "default", None)


def test_knative_s_annotations_in_new_and_old_spelling() -> None:
    new = scaling(
        "minReplicas: 0",
        target="5.5",
        target_utilization_percentage="80",
        window="30s",
        panic_window_percentage="20",
        panic_threshold_percentage="150",
        scale_down_delay="2m",
        initial_scale="0",
        activation_scale="2",
        scale_to_zero_pod_retention_period="1m30s",
        metric="rps",
    )
    assert new == Scaling(
        min_replicas=0,
        target=5.5,
        target_utilization_fraction=0.8,
        stable_window_s=30,
        panic_window_fraction=0.2,
        panic_threshold_fraction=1.5,
        scale_down_delay_s=120,
        initial_scale=0,
        activation_scale=2,
        retention_s=90,
        metric=ScaleMetric.RPS,
    )
    old = scaling("", minScale="0", maxScale="3", targetUtilizationPercentage="80", scaleToZeroPodRetentionPeriod="9s")
    assert (old.min_replicas, old.max_replicas, old.target_utilization_fraction, old.retention_s) == (0, 3, 0.8, 9)


def test_the_predictor_s_own_fields_count_before_annotations() -> None:
    made = scaling(
        "minReplicas: 2\nmaxReplicas: 5\nscaleTarget: 7\nscaleMetric: concurrency",
        min_scale="0",
        max_scale="9",
        target="1",
        metric="rps",
    )
    assert (made.min_replicas, made.max_replicas, made.target, made.metric) == (2, 5, 7, ScaleMetric.CONCURRENCY)


def test_the_predictor_s_annotations_count_before_the_object_s() -> None:
    made = predictor(
        "annotations: {autoscaling.knative.dev/window: 20s}", annotations={"autoscaling.knative.dev/window": "30s"}
    )
    assert made.scaling.stable_window_s == 20


def test_annotations_of_our_own() -> None:
    made = predictor(
        "",
        annotations={
            "ironloom.dev/park-for": "10m",
            "ironloom.dev/engine": "vllm",
            "serving.knative.dev/progress-deadline": "20m",
        },
    )
    assert (made.scaling.park_for_s, made.runtime, made.start_deadline_s) == (600, "vllm", 1200)


@pytest.mark.parametrize(
    ("container", "model", "engine_args"),
    [
        (
            "image: vllm/vllm-openai:v0.20\nargs: [--model, Qwen/Qwen3-0.6B, --dtype, half]",
            "hf://Qwen/Qwen3-0.6B",
            ("--dtype", "half"),
        ),
        ("image: x\ncommand: [vllm, serve, Qwen/Qwen3-0.6B, --revision, main]", "hf://Qwen/Qwen3-0.6B:main", ()),
        ("image: x\ncommand: [sh, -c, 'exec vllm serve s3://b/m']", "s3://b/m", ()),
        ("image: kserve/huggingfaceserver:v0.17\nargs: ['--model_id=a/b', '--model_name=x']", "hf://a/b", ()),
        (
            "image: vllm/vllm-openai\nargs: [--model, /mnt/models]\nenv: [{name: STORAGE_URI, value: 'pvc://c/m'}]",
            "pvc://c/m",
            (),
        ),
    ],
)
def test_custom_containers_that_run_a_known_server(container: str, model: str, engine_args: tuple[str, ...]) -> None:
    first, *rest = f"name: kserve-container\n{container}".splitlines()
    text = "containers:\n- " + first + "\n" + "\n".join("  " + line for line in rest)
    made = predictor(text, model="")
    assert (made.model_uri, made.engine_args) == (model, engine_args)


def test_a_model_on_a_mounted_volume_is_where_the_volume_is() -> None:
    text = """containers:
- name: c
  image: vllm/vllm-openai
  args: [--model, /models/qwen, --tokenizer, /models/tok]
  volumeMounts: [{name: v, mountPath: /models, subPath: all}]
volumes:
- VOLUME"""
    claim = predictor(text.replace("VOLUME", "{name: v, persistentVolumeClaim: {claimName: weights}}"), model="")
    assert (claim.model_uri, claim.tokenizer_uri) == ("pvc://weights/all/qwen", "pvc://weights/all/tok")
    assert messages(claim) == ["image: no image is run; an engine of this machine serves the model"]
    host = predictor(text.replace("VOLUME", "{name: v, hostPath: {path: /srv/models}}"), model="")
    assert host.model_uri == "/srv/models/all/qwen"


def test_what_this_machine_cannot_honour_is_said_once_by_name_with_its_place() -> None:
    made = predictor(
        """nodeSelector: {gpu: H100}
affinity: {nodeAffinity: {}}
tolerations: [{key: a, operator: Exists}, {key: b, operator: Exists}]
schedulerName: x
runtimeClassName: nvidia
canaryTrafficPercent: 10
initContainers: [{name: i}]
containers: [{name: sidecar, image: y}]
volumes: [{name: shm, emptyDir: {medium: Memory}}, {name: cm, configMap: {name: c}}]"""
    )
    assert [note.path for note in made.not_honoured] == [
        f"spec.predictor.{name}"
        for name in (
            "nodeSelector",
            "affinity",
            "tolerations",
            "schedulerName",
            "runtimeClassName",
            "canaryTrafficPercent",
            "initContainers",
            "containers[0]",
            "volumes[1]",
        )
    ]
    first = made.not_honoured[0]
    assert (first.file, first.line, first.column) == ("f.yaml", 6, 5)
    assert first.message == "nodeSelector: this machine is the only node"


def test_environment_that_a_cluster_fills_or_that_means_another_machine_is_told_and_left_out() -> None:
    made = serving(
        HEAD
        + """spec:
  predictor:
    model:
      modelFormat: {name: huggingface}
      storageUri: hf://a/b
      env:
        - {name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hf, key: token}}}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: CUDA_VISIBLE_DEVICES, value: "0,1"}
        - {name: HF_HOME, value: /root/.cache}
        - {name: VLLM_LOGGING_LEVEL, value: DEBUG}
"""
    )
    assert made.env == {"VLLM_LOGGING_LEVEL": "DEBUG"}
    assert messages(made) == [
        "env HF_TOKEN comes from the Secret hf: set it in the daemon's own environment instead",
        "env POD_IP comes from the pod's own fields, which an engine here does not have",
        "env CUDA_VISIBLE_DEVICES: Ironloom hands out the devices",
        "env HF_HOME: the daemon's own cache of models is used",
    ]


def test_environment_of_a_script_is_held_to_the_same() -> None:
    made = predictor("containers: [{name: c, command: [sh, -c], args: ['LD_PRELOAD=/x A=1 vllm serve a/b']}]", model="")
    assert made.env == {"A": "1"}
    assert messages(made) == ["env LD_PRELOAD: a path of the container's image"]


def test_cpu_metrics_and_cpu_targets_are_not_counted_and_said() -> None:
    made = predictor("scaleMetric: cpu\nscaleTarget: 80")
    assert made.scaling.target is None
    assert messages(made) == [
        "scaleMetric cpu: requests in flight are counted here",
        "scaleTarget 80 is of cpu, not counted here",
    ]
    standard = predictor("scaleTarget: 80", annotations={"serving.kserve.io/deploymentMode": "RawDeployment"})
    assert standard.scaling.target is None
    assert (
        predictor("scaleTarget: 80", annotations={"serving.kserve.io/deploymentMode": "Serverless"}).scaling.target
        == 80
    )


def test_gpus_of_other_makers_and_other_devices() -> None:
    made = predictor(
        "", model=MODEL.replace("}\n", ", resources: {limits: {amd.com/gpu: 1, rdma/ib: 1, memory: 1Gi}}}\n")
    )
    assert made.resources == Resources(memory_bytes=GIB, num_gpus=1, gpu_resource="amd.com/gpu")
    assert messages(made) == ["rdma/ib: this machine does not hand it out"]


def test_the_old_huggingface_field_and_a_storage_of_parameters() -> None:
    made = predictor("huggingface: {args: [--model_id=a/b]}", model="")
    assert made.model_uri == "hf://a/b"
    made = predictor(
        "", model="    model: {modelFormat: {name: vLLM}, storage: {path: m/x, parameters: {type: s3, bucket: b}}}\n"
    )
    assert made.model_uri == "s3://b/m/x"


ERRORS: list[tuple[str, str, dict[str, str], int, str]] = [
    ("minReplica: 1", MODEL, {}, 6, "spec.predictor has no field 'minReplica'; did you mean 'minReplicas'?"),
    ("minReplicas: one", MODEL, {}, 6, "spec.predictor.minReplicas = 'one', must be an integer"),
    ("minReplicas: '1'", MODEL, {}, 6, "must be an integer: write it without quotes"),
    ("minReplicas: -1", MODEL, {}, 6, "spec.predictor.minReplicas = -1, must be a whole number of at least 0"),
    ("minReplicas: 3\nmaxReplicas: 2", MODEL, {}, 7, "max replicas = 2, must be at least min replicas, which is 3"),
    ("scaleMetric: qps", MODEL, {}, 6, "must be one of cpu, memory, concurrency, rps"),
    ("scaleTarget: 0", MODEL, {}, 6, "spec.predictor.scaleTarget = 0, must be at least 1"),
    ("timeout: 0", MODEL, {}, 6, "timeout = 0, must be at least 1"),
    ("nodeSelector: [a]", MODEL, {}, 6, "spec.predictor.nodeSelector = […], must be a mapping"),
    ("tolerations: {a: b}", MODEL, {}, 6, "spec.predictor.tolerations = {…}, must be a list"),
    ("sklearn: {storageUri: x}", "", {}, 6, "Ironloom serves language models, not sklearn"),
    ("", MODEL.replace("huggingface", "sklearn"), {}, 6, "modelFormat.name = 'sklearn', must be one of huggingface"),
    ("", MODEL.replace("storageUri", "storageUrl"), {}, 6, "has no field 'storageUrl'; did you mean 'storageUri'?"),
    ("", "    model: {modelFormat: {name: huggingface}}\n", {}, 6, "nothing names a model"),
    ("minReplicas: 1", "", {}, 6, "spec.predictor has neither model nor containers"),
    ("containers: [{name: a, image: nginx}]", "", {}, 6, "no container of spec.predictor runs vLLM"),
    ("containers: [{image: nginx}]", "", {}, 6, "spec.predictor.containers[0] must have the field 'name'"),
    (
        "",
        MODEL.replace("}\n", ", args: [--max-model-len, x]}\n"),
        {},
        6,
        "--max-model-len = 'x', must be a number of tokens",
    ),
    (
        "",
        MODEL.replace("}\n", ", env: [{name: A, value: 1}]}\n"),
        {},
        6,
        "env[0].value = 1, must be a string: write it in quotes",
    ),
    (
        "",
        MODEL.replace("}\n", ", resources: {limits: {memory: lots}}}\n"),
        {},
        6,
        "limits.memory = 'lots', must be a quantity",
    ),
    (
        "",
        MODEL.replace("}\n", ", resources: {limits: {nvidia.com/gpu: 500m}}}\n"),
        {},
        6,
        "must be a whole number of devices",
    ),
    ("", MODEL, {"autoscaling.knative.dev/window": "3s"}, 3, "window = '3s', must be whole seconds from 6s to 1h"),
    ("", MODEL, {"autoscaling.knative.dev/window": "60"}, 3, "window = '60', must be whole seconds from 6s to 1h"),
    ("", MODEL, {"autoscaling.knative.dev/target": "0"}, 3, "target = '0', must be a number of at least 0.01"),
    ("", MODEL, {"autoscaling.knative.dev/target": "nan"}, 3, "target = 'nan', must be a number of at least 0.01"),
    ("", MODEL, {"autoscaling.knative.dev/target": "1_0"}, 3, "target = '1_0', must be a number of at least 0.01"),
    ("", MODEL, {"autoscaling.knative.dev/max-scale": "٣"}, 3, "max-scale = '٣', must be a whole number"),
    ("", MODEL, {"ironloom.dev/park-for": "-1s"}, 3, "park-for = '-1s', must be a duration of at least 0s"),
    ("", MODEL, {"autoscaling.knative.dev/min-scal": "0"}, 3, "did you mean 'autoscaling.knative.dev/min-scale'?"),
    ("", MODEL, {"ironloom.dev/parkfor": "1s"}, 3, "did you mean 'ironloom.dev/park-for'?"),
    (
        "",
        MODEL,
        {"ironloom.dev/colour": "red"},
        3,
        "ironloom.dev/park-for, ironloom.dev/model-cache, ironloom.dev/unchecked-args, ironloom.dev/engine",
    ),
    ("", MODEL, {"autoscaling.knative.dev/activation-scale": "1"}, 3, "must be a whole number of at least 2"),
    (
        "maxReplicas: 2",
        MODEL,
        {"autoscaling.knative.dev/activation-scale": "3"},
        3,
        "activation scale = 3, must be between",
    ),
]


@pytest.mark.parametrize(("fields", "model", "annotations", "line", "message"), ERRORS)
def test_what_is_wrong_is_told_with_its_line(
    fields: str, model: str, annotations: dict[str, str], line: int, message: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        predictor(fields, annotations=annotations, model=model)
    assert message in caught.value.message
    assert (caught.value.file, caught.value.line) == ("f.yaml", line)
    assert caught.value.column > 0


@pytest.mark.parametrize("name", ["Qwen", "a_b", "-a", "a.b", "9a", "a" * 64, "a/b", ""])
def test_names_that_kserve_refuses(name: str) -> None:
    with pytest.raises(ManifestError, match=r"metadata\.name"):
        serving(HEAD.replace("{name: qwen}", f"{{name: '{name}'}}") + "spec:\n  predictor:\n" + MODEL)


def test_nulls_are_not_there() -> None:
    made = serving(
        HEAD + "spec:\n  predictor:\n    minReplicas:\n    nodeSelector: null\n    annotations: ~\n"
        "    model: {modelFormat: {name: huggingface}, storageUri: /m, env: null, resources: {limits: null}}\n"
    )
    assert made.model_uri == "/m"


def test_served_objects_as_a_cluster_prints_them() -> None:
    obj: dict[str, Any] = {
        "status": "{conditions: [{type: Ready, whatever: 1}], url: http://x}",
        "metadata": "{name: qwen, uid: x, resourceVersion: '1', managedFields: [{manager: k, fieldsV1: {f: {}}}]}",
    }
    text = HEAD.replace("metadata: {name: qwen}", f"metadata: {obj['metadata']}") + f"status: {obj['status']}\n"
    assert serving(text + "spec:\n  predictor:\n" + MODEL).name == "qwen"
