"""KServe's kinds: what its controllers make of a manifest, as far as the manifests say."""

from __future__ import annotations

import pytest
from tests.workload.kinds.manifests import INFERENCE_SERVICE, LLM_INFERENCE_SERVICE, found

from ironloom.workload.workload import Launch, Role, Workload

RUNTIME = """\
apiVersion: serving.kserve.io/v1alpha1
kind: ClusterServingRuntime
metadata: {name: my-vllm}
spec:
  containers:
  - name: kserve-container
    image: vllm/vllm-openai:v0.20.0
    command: [vllm, serve, /mnt/models]
    args: ["--served-model-name={{.Name}}", --max-model-len=4096]
    env: [{name: A, value: base}, {name: B, value: base}]
    resources: {limits: {cpu: 2, nvidia.com/gpu: 1}}
    volumeMounts: [{name: shm, mountPath: /dev/shm}]
  volumes: [{name: shm, emptyDir: {medium: Memory}}]
  tolerations: [{key: gpu}]
"""
WITH_RUNTIME = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: q}
spec:
  predictor:
    nodeSelector: {gpu: h100}
    model:
      modelFormat: {name: vLLM}
      runtime: my-vllm
      storageUri: hf://Qwen/Qwen3-32B
      args: [--tensor-parallel-size, "2"]
      env: [{name: B, value: own}]
      resources: {limits: {nvidia.com/gpu: 2}}
"""


def launch_of(one: Workload, pods: int = 0) -> Launch:
    launch = one.pod_sets[pods].containers[-1].launch
    assert launch is not None
    return launch


def test_components_scale_apart() -> None:
    predictor, transformer = found(INFERENCE_SERVICE).workloads
    assert [pods.name for pods in predictor.pod_sets] == ["predictor"]
    assert (predictor.replicas.min, predictor.replicas.max, predictor.replicas.decider) == (2, 5, "kserve-hpa")
    assert [pods.name for pods in transformer.pod_sets] == ["transformer"]
    assert (transformer.replicas.min, transformer.pod_sets[0].role) == (1, Role.OTHER)
    assert transformer.pod_sets[0].is_written
    assert not predictor.pod_sets[0].is_written


def test_the_model_of_the_manifest_is_the_servers() -> None:
    launch = launch_of(found(INFERENCE_SERVICE).workloads[0])
    assert (launch.program, launch.model) == ("huggingfaceserver", "hf://Qwen/Qwen3-8B")
    assert launch.model_path == ("spec", "predictor", "model", "storageUri")
    assert launch.value("--max-model-len") == "8192"


def test_annotations_of_the_object_reach_its_pods_and_keep_their_place() -> None:
    (pods,) = found(INFERENCE_SERVICE).workloads[0].pod_sets
    (wish,) = pods.topology
    assert (wish.key, wish.is_required) == ("rack", False)
    assert wish.path == ("metadata", "annotations", "kueue.x-k8s.io/podset-preferred-topology")
    assert pods.annotations["kueue.x-k8s.io/podset-preferred-topology"] == "rack"


def test_a_runtime_among_the_documents_is_merged_in() -> None:
    (one,) = found(f"{WITH_RUNTIME}---\n{RUNTIME}").workloads
    (pods,) = one.pod_sets
    launch = launch_of(one)
    assert (launch.program, launch.model) == ("vllm", "hf://Qwen/Qwen3-32B")
    assert (launch.value("--served-model-name"), launch.value("--max-model-len")) == ("q", "4096")
    own, inherited = launch.option("--tensor-parallel-size"), launch.option("--max-model-len")
    assert own is not None
    assert inherited is not None
    assert own.path == ("spec", "predictor", "model", "args", 0)
    assert inherited.path == ("spec", "predictor", "model", "runtime"), "it stands in the runtime, which is named here"
    container = pods.containers[0]
    assert container.env == {"A": "base", "B": "own"}
    assert container.env_paths["B"] == ("spec", "predictor", "model", "env", 0)
    assert container.requests == {"cpu": 2000, "nvidia.com/gpu": 2}
    assert pods.spec["nodeSelector"] == {"gpu": "h100"}
    assert pods.spec["volumes"][0]["name"] == "shm"
    assert pods.spec["tolerations"] == [{"key": "gpu"}]


def test_without_its_runtime_its_name_or_the_format_says_what_serves() -> None:
    assert launch_of(found(WITH_RUNTIME).workloads[0]).program == "vllm"
    text = WITH_RUNTIME.replace("my-vllm", "mine")
    assert launch_of(found(text.replace("vLLM", "huggingface")).workloads[0]).program == "huggingfaceserver"
    assert launch_of(found(text.replace("mine", "my-sglang")).workloads[0]).program == "sglang"
    other = found(text.replace("vLLM", "sklearn")).workloads[0]
    assert other.pod_sets[0].containers[0].launch is None


def test_a_container_of_ones_own_serves_what_storage_uri_names() -> None:
    (one,) = found(
        """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
spec:
  predictor:
    containers:
    - name: kserve-container
      image: vllm/vllm-openai:v0.20.0
      args: [--model, /mnt/models, --port=8080]
      env: [{name: STORAGE_URI, value: "hf://Qwen/Qwen3-8B"}]
"""
    ).workloads
    launch = launch_of(one)
    assert (launch.program, launch.model) == ("vllm", "hf://Qwen/Qwen3-8B")
    assert launch.model_path == ("spec", "predictor", "containers", 0, "env", 0)
    assert one.pod_sets[0].is_written


def test_what_the_writer_wrote_of_a_controllers_pod_is_known() -> None:
    (one,) = found(f"{WITH_RUNTIME}---\n{RUNTIME}").workloads
    (pods,) = one.pod_sets
    assert one.writes(pods, "nodeSelector")
    assert not one.writes(pods, "tolerations"), "it stands in the runtime"
    assert not one.writes(pods, "volumes")


@pytest.mark.parametrize(
    ("annotations", "decider", "high"),
    [
        ("serving.kserve.io/deploymentMode: Standard", "kserve-hpa", 2),
        ("serving.kserve.io/deploymentMode: RawDeployment", "kserve-hpa", 2),
        ("serving.kserve.io/deploymentMode: Knative", "knative", None),
        ("serving.kserve.io/autoscalerClass: keda", "keda", 2),
        ("serving.kserve.io/autoscalerClass: external", "external", None),
        ("serving.kserve.io/autoscalerClass: none", "", 2),
        ("a: b", "", 2),
    ],
)
def test_who_decides_the_number_of_replicas(annotations: str, decider: str, high: int | None) -> None:
    text = WITH_RUNTIME.replace("name: q}", f"name: q, annotations: {{{annotations}}}}}")
    replicas = found(text.replace("  predictor:\n", "  predictor:\n    minReplicas: 2\n")).workloads[0].replicas
    assert (replicas.min, replicas.max, replicas.decider) == (2, high, decider)


@pytest.mark.parametrize(
    ("head", "worker", "parallel", "num_workers"),
    [
        ("nvidia.com/gpu: 8", "nvidia.com/gpu: 8", "tensorParallelSize: 8, pipelineParallelSize: 2", 1),
        ("nvidia.com/gpu: 4", "nvidia.com/gpu: 4", "tensorParallelSize: 8, pipelineParallelSize: 2", 3),
        ("nvidia.com/gpu: 8", "cpu: 1", "tensorParallelSize: 8, pipelineParallelSize: 2", 8),
        ("cpu: 1", "cpu: 1", "pipelineParallelSize: 2", 1),
        ("nvidia.com/gpu: 8", "nvidia.com/gpu: 8", "tensorParallelSize: 8", 0),
    ],
)
def test_a_predictor_over_several_nodes(head: str, worker: str, parallel: str, num_workers: int) -> None:
    (one,) = found(
        f"""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {{name: big}}
spec:
  predictor:
    model:
      modelFormat: {{name: huggingface}}
      storageUri: pvc://models/llama
      resources: {{limits: {{{head}}}}}
    workerSpec: {{{parallel}, containers: [{{name: worker-container, resources: {{limits: {{{worker}}}}}}}]}}
"""
    ).workloads
    workers = [pods.num_pods for pods in one.pod_sets if pods.name == "worker"]
    assert workers == ([num_workers] if num_workers else [])
    assert one.is_gang is bool(num_workers)


def test_an_llm_inference_service_has_engines_and_a_scheduler_that_scale_apart() -> None:
    main, prefill, scheduler = found(LLM_INFERENCE_SERVICE).workloads
    assert [(pods.name, pods.num_pods) for pods in main.pod_sets] == [("main", 1), ("worker", 3)]
    assert (main.replicas.min, main.is_gang) == (2, True)
    assert [(pods.name, pods.num_pods) for pods in prefill.pod_sets] == [("prefill", 1)]
    assert (prefill.replicas.min, prefill.is_gang) == (3, False)
    assert [(pods.name, pods.role) for pods in scheduler.pod_sets] == [("scheduler", Role.OTHER)]


def test_its_engine_is_vllm_with_what_the_spec_says() -> None:
    main, prefill, _ = found(LLM_INFERENCE_SERVICE).workloads
    launch = launch_of(main)
    assert (launch.program, launch.model) == ("vllm", "hf://deepseek-ai/DeepSeek-V3")
    assert launch.model_path == ("spec", "model", "uri")
    said = {option.name: option.value for option in launch.options}
    assert said == {
        "--tensor-parallel-size": "8",
        "--data-parallel-size": "32",
        "--data-parallel-size-local": "8",
        "--enable-expert-parallel": None,
        "--kv-transfer-config": '{"a": 1}',
        "--enforce-eager": None,
        "--max-model-len": "8192",
    }
    tensor = launch.option("--tensor-parallel-size")
    assert tensor is not None
    assert tensor.path == ("spec", "parallelism", "tensor")
    assert launch_of(prefill).model == "hf://deepseek-ai/DeepSeek-V3"


def test_without_a_template_the_controllers_container_serves() -> None:
    text = "apiVersion: serving.kserve.io/v1alpha1\nkind: LLMInferenceService\nspec: {model: {uri: hf://a/b}}\n"
    (one,) = found(text).workloads
    assert (launch_of(one).program, launch_of(one).model) == ("vllm", "hf://a/b")


@pytest.mark.parametrize(
    ("scaling", "low", "high", "decider"),
    [
        ("replicas: 3", 3, 3, ""),
        ("scaling: {minReplicas: 2, maxReplicas: 4, wva: {hpa: {}}}", 2, 4, "wva"),
        ("scaling: {maxReplicas: 4, keda: {idleReplicaCount: 0, triggers: []}}", 0, 4, "keda"),
        ("scaling: {maxReplicas: 4, wva: {keda: {idleReplicaCount: 0}}}", 0, 4, "wva"),
    ],
)
def test_its_scaling(scaling: str, low: int, high: int, decider: str) -> None:
    kind = "apiVersion: serving.kserve.io/v1alpha2\nkind: LLMInferenceService\n"
    text = f"{kind}spec: {{model: {{uri: hf://a/b}}, {scaling}}}\n"
    replicas = found(text).workloads[0].replicas
    assert (replicas.min, replicas.max, replicas.decider) == (low, high, decider)


@pytest.mark.parametrize(
    ("parallelism", "size"),
    [("data: 16, dataLocal: 8", 2), ("pipeline: 4", 4), ("data: 4", 4), ("tensor: 8", 1), ("dataLocal: 8", 1)],
)
def test_nodes_of_a_replica(parallelism: str, size: int) -> None:
    text = (
        "apiVersion: serving.kserve.io/v1alpha2\nkind: LLMInferenceService\n"
        f"spec: {{model: {{uri: hf://a/b}}, parallelism: {{{parallelism}}}, worker: {{containers: []}}}}\n"
    )
    assert found(text).workloads[0].num_pods == size
