"""LLMInferenceService v1alpha1 and v1alpha2 into a Serving."""

from __future__ import annotations

import pytest

from ironloom.errors import ManifestError
from ironloom.units import GIB
from ironloom.workload.manifests import read_text, to_serving
from ironloom.workload.serving import Resources, Scaling, Serving

VERSIONS = ("v1alpha1", "v1alpha2")


def serving(spec: str, version: str = "v1alpha2", name: str = "qwen") -> Serving:
    text = f"apiVersion: serving.kserve.io/{version}\nkind: LLMInferenceService\nmetadata: {{name: {name}}}\nspec:\n"
    (document,) = read_text(text + "".join(f"  {line}\n" for line in spec.splitlines()), "f.yaml")
    return to_serving(document)


def messages(made: Serving) -> list[str]:
    return [note.message for note in made.not_honoured]


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_it_says(version: str) -> None:
    made = serving(
        """model: {uri: 'hf://Qwen/Qwen3-0.6B', name: qwen}
replicas: 2
parallelism: {tensor: 2}
template:
  containers:
    - name: main
      args: [--max-model-len, 8k, --enable-prefix-caching]
      env:
        - {name: VLLM_ADDITIONAL_ARGS, value: "--dtype=half --hf-overrides '{\\"a\\": 1}'"}
        - {name: VLLM_LOGGING_LEVEL, value: DEBUG}
      resources:
        limits: {nvidia.com/gpu: "2", cpu: "8", memory: 32Gi}
        requests: {memory: 16Gi}""",
        version,
    )
    assert made.model_uri == "hf://Qwen/Qwen3-0.6B"
    assert made.max_model_len == 8000
    assert made.engine_args == (
        "--enable-prefix-caching",
        "--dtype",
        "half",
        "--hf-overrides",
        '{"a": 1}',
        "--tensor-parallel-size",
        "2",
    )
    assert made.env == {"VLLM_LOGGING_LEVEL": "DEBUG"}
    assert made.resources == Resources(cpu=8, memory_bytes=16 * GIB, num_gpus=2)
    assert (made.scaling.min_replicas, made.scaling.max_replicas) == (2, 2)
    assert messages(made) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_least_it_says(version: str) -> None:
    made = serving("model: {uri: 'hf://a/b'}", version)
    assert (made.model_uri, made.engine_args, made.scaling) == ("hf://a/b", (), Scaling())


def test_no_replicas_is_a_service_at_zero() -> None:
    scaling = serving("model: {uri: 'hf://a/b'}\nreplicas: 0").scaling
    assert (scaling.min_replicas, scaling.max_replicas, scaling.initial_scale) == (0, 1, 0)


def test_scaling_between_bounds_and_to_zero_with_keda_s_idle_count() -> None:
    made = serving("model: {uri: 'hf://a/b'}\nscaling: {minReplicas: 2, maxReplicas: 5}").scaling
    assert (made.min_replicas, made.max_replicas) == (2, 5)
    keda = (
        "model: {uri: x}\nscaling: {maxReplicas: 5, keda: {triggers: [{type: cpu, metadata: {value: '60'}}], "
        "idleReplicaCount: 0, cooldownPeriod: 90}}"
    )
    made = serving(keda).scaling
    assert (made.min_replicas, made.max_replicas, made.retention_s) == (0, 5, 90)
    assert serving(keda.replace(", cooldownPeriod: 90", "")).scaling.retention_s == 300


def test_the_engine_s_own_parallelism_counts_before_the_spec_s() -> None:
    made = serving(
        "model: {uri: 'hf://a/b'}\nparallelism: {tensor: 2, pipeline: 3, expert: true}\n"
        "template: {containers: [{name: main, args: [-tp, '4']}]}"
    )
    assert made.engine_args == (
        "--tensor-parallel-size",
        "4",
        "--pipeline-parallel-size",
        "3",
        "--enable-expert-parallel",
    )


def test_a_command_of_one_s_own_that_runs_vllm() -> None:
    made = serving(
        "model: {uri: 'hf://a/b'}\ntemplate: {containers: [{name: main, command: [sh, -c], "
        "args: ['vllm serve /mnt/models --served-model-name qwen --enforce-eager']}]}"
    )
    assert (made.model_uri, made.engine_args) == ("hf://a/b", ("--enforce-eager",))
    assert messages(made) == []


def test_what_this_machine_cannot_honour_is_said_once() -> None:
    made = serving(
        """model: {uri: 'hf://a/b', name: other/name, lora: {adapters: [{name: l, uri: 'hf://l/l'}]}}
parallelism: {data: 2, dataLocal: 1}
router: {route: {}, gateway: {}}
prefill: {replicas: 1}
worker: {containers: [{name: main}]}
baseRefs: [{name: x}]
template:
  nodeSelector: {a: b}
  containers: [{name: main, image: x}, {name: side}]"""
    )
    assert messages(made) == [
        "model name other/name: clients send the model id 'qwen'",
        "lora: adapters are not loaded here",
        "parallelism.data: replicas are scaled one by one here",
        "parallelism.dataLocal: replicas are scaled one by one here",
        "router: Ironloom's gateway routes to the replicas",
        "prefill: prefill and decode run in one engine here",
        "worker: the whole replica runs on this machine",
        "baseRefs: LLMInferenceServiceConfigs are not read",
        "nodeSelector: this machine is the only node",
        "image: no image is run; an engine of this machine serves the model",
        "container side: only the engine runs here",
    ]


@pytest.mark.parametrize(
    ("spec", "version", "message"),
    [
        ("model: {name: x}", "v1alpha2", "spec.model must have the field 'uri'"),
        ("replicas: 1", "v1alpha2", "spec.model.uri names no model"),
        ("model: {uri: ''}", "v1alpha2", "spec.model.uri names no model"),
        ("model: {uri: x, criticality: Critical}", "v1alpha2", "spec.model has no field 'criticality'"),
        ("model: {uri: x}\nkvCacheOffloading: {cpu: 1Gi}", "v1alpha1", "spec has no field 'kvCacheOffloading'"),
        ("model: {uri: x}\nworkload: {}", "v1alpha2", "spec has no field 'workload'"),
        ("model: {uri: x}\nreplicas: -1", "v1alpha2", "spec.replicas = -1, must be at least 0"),
        ("model: {uri: x}\nscaling: {minReplicas: 1}", "v1alpha2", "spec.scaling must have the field 'maxReplicas'"),
        ("model: {uri: x}\nreplicas: 1\nscaling: {maxReplicas: 2}", "v1alpha2", "spec has both replicas and scaling"),
        (
            "model: {uri: x}\nscaling: {minReplicas: 3, maxReplicas: 2}",
            "v1alpha2",
            "max replicas = 2, must be at least",
        ),
        (
            "model: {uri: x}\ntemplate: {containers: [{name: vllm}]}",
            "v1alpha2",
            "no container of spec.template is named",
        ),
        ("model: {uri: x}\ntemplate: {containers: [{name: main, command: [nginx]}]}", "v1alpha2", "does not run vLLM"),
        (
            'model: {uri: x}\ntemplate: {containers: [{name: main, env: [{name: VLLM_ADDITIONAL_ARGS, value: "\'"}]}]}',
            "v1alpha2",
            "No closing quotation",
        ),
    ],
)
def test_what_is_wrong_is_told(spec: str, version: str, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        serving(spec, version)
    assert message in caught.value.message
    assert caught.value.line >= 4
    assert caught.value.column > 0


def test_a_field_of_one_version_only() -> None:
    assert messages(serving("model: {uri: x, criticality: Critical}", "v1alpha1")) == [
        "criticality: requests are served in the order they came"
    ]
    assert messages(serving("model: {uri: x}\nkvCacheOffloading: {cpu: 1Gi}", "v1alpha2")) == [
        "kvCacheOffloading: pass the engine's own options in args"
    ]
