"""Rules of engines and memory: what they find in a server's manifest, and what they leave alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.catalog import accelerators
from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Finding, Severity
from ironloom.check.inputs import read_texts
from ironloom.check.rules import engine_options
from ironloom.check.rules.examples import fleet, node
from ironloom.check.rules.serving_examples import serving
from ironloom.workload.manifests.engine_options import options_of

RULES = [rule for rule in registry.load().values() if rule.family in {"engine", "memory"}]
H100, L4, A100 = (
    f"nvidia.com/gpu.product: {name}" for name in ("NVIDIA-H100-80GB-HBM3", "NVIDIA-L4", "NVIDIA-A100-SXM4-80GB")
)
LLAMA_70B = "--model=meta-llama/Llama-3.1-70B-Instruct"
QWEN = "--model=Qwen/Qwen3-8B"
NEWER = "vllm/vllm-openai:v0.20.2"
SERVICE = """\
---
apiVersion: v1
kind: Service
metadata:
  name: llama
spec:
  selector:
    app: llama
  ports:
  - port: 80
    targetPort: {port}
"""
RAY_NODE = """\
apiVersion: ray.io/v1
kind: RayCluster
metadata:
  name: ray
spec:
  headGroupSpec:
    template:
      spec:
        containers:
        - name: head
          image: vllm/vllm-openai:v0.11.0
          resources:
            limits:
              nvidia.com/gpu: 1
"""
"""KubeRay writes the command: the image's own server does not run."""


def findings(text: str, **setting: Any) -> list[Finding]:
    result = check(read_texts({"m.yaml": text}), RULES, Setting(**setting))
    assert result.faults == ()
    assert not result.is_unreadable
    return list(result.findings)


def ids(text: str, **setting: Any) -> set[str]:
    return {finding.rule for finding in findings(text, **setting)}


def only(rule: str, text: str, **setting: Any) -> Finding:
    found = [finding for finding in findings(text, **setting) if finding.rule == rule]
    assert len(found) == 1, (rule, ids(text, **setting))
    return found[0]


SOUND = {
    "a model of one GPU": serving(QWEN, "--max-model-len=8192", selector=H100),
    "a model on all GPUs of the pod": serving(
        LLAMA_70B, "--tensor-parallel-size=8", "--max-model-len=16384", gpus=8, selector=H100
    ),
    "short names of options": serving("Qwen/Qwen3-8B", "-tp", "2", "--max-model-len", "8k", gpus=2, selector=H100),
    "underscores in names": serving("--model=Qwen/Qwen3-8B", "--max_model_len=8192", "--tensor_parallel_size=1"),
    "a config in JSON": serving(QWEN, "'--compilation-config={\"level\": 3}'", "--kv-transfer-config.kv_role=kv_both"),
    "an optimisation level": serving(QWEN, "-O3"),
    "data parallel over the rest": serving(QWEN, "--data-parallel-size=4", gpus=4),
    "several served names": serving(QWEN, "--served-model-name", "llama", "chat"),
    "a model on a claim": serving(
        "--model=/models/llama",
        container="volumeMounts:\n- name: m\n  mountPath: /models\n",
        pod="volumes:\n- name: m\n  persistentVolumeClaim:\n    claimName: m\n",
        token=False,
    ),
    "a model named by a variable": serving("--model=$(MODEL)", token=False),
    "a model in the environment of another image": serving(image="acme/vllm-wrapper:1", token=False),
    "options of a file": serving("--config=/etc/vllm/config.yaml", gpus=4, token=False),
    "an image for CPUs": serving(
        "--model=Qwen/Qwen3-0.6B", "--enforce-eager", gpus=None, image="vllm/vllm-openai-cpu:v1"
    ),
    "a part of a GPU": serving(
        "--model=meta-llama/Llama-3.1-70B-Instruct",
        gpus=None,
        container="resources:\n  limits:\n    nvidia.com/mig-1g.10gb: 1\n",
    ),
    "a newer option than the table has": serving(QWEN, "--entirely-new-thing=1", image="vllm/vllm-openai:v9.0.0"),
    "an option that may have come and gone": serving(QWEN, "--entirely-new-thing=1", image="vllm/vllm-openai:v0.20.0"),
    "ranks that another pod leads": serving(
        QWEN, "--data-parallel-size=16", "--data-parallel-size-local=2", "--data-parallel-hybrid-lb", gpus=8
    ),
    "an option of a fork": serving(QWEN, "--entirely-new-thing=1", image="acme/vllm:7"),
    "longer than the model, as asked for": serving(
        "--model=meta-llama/Meta-Llama-3-8B",
        "--max-model-len=16384",
        token=False,
        container="env:\n- name: HF_TOKEN\n  value: x\n- name: VLLM_ALLOW_LONG_MAX_MODEL_LEN\n  value: '1'\n",
    ),
    "longer than the model, by scaled positions": serving(
        "--model=Qwen/Qwen3-8B", "--max-model-len=131072", "'--hf-overrides={\"rope_parameters\": {}}'"
    ),
    "a length that the engine finds": serving(
        "--model=meta-llama/Llama-3.1-8B-Instruct", "--max-model-len=auto", selector=L4
    ),
    "weights that go to host memory": serving(
        "--model=Qwen/Qwen3-32B", "--cpu-offload-gb=60", selector="nvidia.com/gpu.product: NVIDIA-L40S"
    ),
    "a probe by the port's name": serving(
        QWEN,
        container="ports:\n- name: http\n  containerPort: 8000\n"
        "livenessProbe:\n  httpGet:\n    port: http\n    path: /health\n",
    )
    + SERVICE.format(port="http"),
    "a Service of another app": serving(QWEN) + SERVICE.format(port=9000).replace("app: llama", "app: other"),
    "a server of several nodes": serving(
        LLAMA_70B, "--tensor-parallel-size=8", "--pipeline-parallel-size=2", "--nnodes=2", gpus=8, image=NEWER
    ),
    "an open model without a token": serving(QWEN, token=False),
    "a gated model with variables from elsewhere": serving(
        "--model=meta-llama/Llama-3.1-8B",
        "--max-model-len=8192",
        token=False,
        container="envFrom:\n- secretRef:\n    name: hub\n",
    ),
    "a gated model of a cache": serving(
        "--model=meta-llama/Llama-3.1-8B",
        token=False,
        container="volumeMounts:\n- name: c\n  mountPath: /root/.cache\n",
        pod="volumes:\n- name: c\n  persistentVolumeClaim:\n    claimName: c\n",
    ),
    "a mixture with expert parallelism": serving(
        "--model=Qwen/Qwen3-30B-A3B", "--tensor-parallel-size=2", "--enable-expert-parallel", gpus=2, selector=H100
    ),
    "a node of Ray in a server's image": RAY_NODE,
    "stages that another file lays on the GPUs": serving(
        "Qwen/Qwen2.5-Omni-7B", "--omni", gpus=2, image="vllm/vllm-omni:v0.20.0"
    ),
    "a server without graphs on cards that know no bfloat16": serving(QWEN, "--enforce-eager", "--dtype=half"),
    "a server without graphs that only reads prompts": serving(
        QWEN, "--enforce-eager", '\'--kv-transfer-config={"kv_connector": "Nixl", "kv_role": "kv_producer"}\''
    ),
    "a server without graphs that is labelled as one": serving(QWEN, "--enforce-eager").replace(
        "        app: llama\n    spec:", "        app: llama\n        llm-d.ai/role: prefill\n    spec:"
    ),
    "a latent cache on many GPUs": serving(
        "--model=deepseek-ai/DeepSeek-V3", "--tensor-parallel-size=16", "--nnodes=2", gpus=8, image=NEWER
    ),
    "whole experts of small blocks": serving(
        "--model=Qwen/Qwen3-235B-A22B-FP8", "--tensor-parallel-size=8", "--enable-expert-parallel", gpus=8
    ),
}


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_said_of(name: str) -> None:
    said = [(one.rule, one.message) for one in findings(SOUND[name]) if one.severity is not Severity.NOTE]
    assert said == []


FAULTY = {
    "no model, on two GPUs": ("IL401", serving(gpus=2), "no model is named"),
    "a misspelt option": ("IL402", serving(QWEN, "--gpu-memory-utilisation=0.9"), "it has --gpu-memory-utilization"),
    "an option that never was": (
        "IL402",
        serving(QWEN, "--enable-metrics"),
        "has no option --enable-metrics",
    ),
    "an option of Hugging Face's server": ("IL402", serving("--model_id=Qwen/Qwen3-8B"), "--model-id"),
    "an option that 0.11 dropped": ("IL403", serving(QWEN, "--num-scheduler-steps=8"), "0.11.0 has no option"),
    "an option that latest dropped": (
        "IL403",
        serving(QWEN, "--use-v2-block-manager", image="vllm/vllm-openai:latest"),
        "this image's tag moves",
    ),
    "a size that is none": ("IL404", serving(QWEN, "--max-model-len=8 thousand"), "must be a whole number"),
    "two lengths": ("IL405", serving(QWEN, "--max-model-len=1024", "--max-model-len=2048"), "2048 counts"),
    "eight ranks on four GPUs": (
        "IL406",
        serving(QWEN, "--tensor-parallel-size=4", "--pipeline-parallel-size=2", gpus=4),
        "runs on 8 GPUs, and its container asks for 4",
    ),
    "more copies than GPUs": ("IL406", serving(QWEN, "--data-parallel-size=4", gpus=2), "runs on 4 GPUs"),
    "SGLang on more than it has": (
        "IL406",
        serving(
            "python3",
            "-m",
            "sglang.launch_server",
            "--model-path=Qwen/Qwen3-8B",
            "--tp=4",
            gpus=2,
            image="lmsysorg/sglang:v0.5.3",
        ),
        "runs on 4 GPUs",
    ),
    "half of the GPUs idle": ("IL407", serving(QWEN, "-tp=2", gpus=4), "uses 2 of the 4 GPUs"),
    "28 heads on eight GPUs": (
        "IL408",
        serving("--model=Qwen/Qwen2.5-7B-Instruct", "-tp", "8", gpus=8),
        "the 28 attention heads",
    ),
    "pieces of blocks": (
        "IL420",
        serving("--model=deepseek-ai/DeepSeek-R1", "--tensor-parallel-size=32", "--nnodes=4", gpus=8),
        "2048 / 32 = 64, in blocks of 128",
    ),
    "a context that SGLang refuses": (
        "IL415",
        serving(
            "python3",
            "-m",
            "sglang.launch_server",
            "--model-path=Qwen/Qwen3-8B",
            "--context-length=131072",
            image="lmsysorg/sglang:v0.5.3",
        ),
        "has 40960",
    ),
    "experts of a dense model": ("IL409", serving(QWEN, "--enable-expert-parallel"), "has no experts"),
    "bfloat16 on a T4": (
        "IL411",
        serving(QWEN, "--dtype=bfloat16", selector="cloud.google.com/gke-accelerator: nvidia-tesla-t4"),
        "T4-16GB has no bfloat16",
    ),
    "per cent in place of a share": ("IL414", serving(QWEN, "--gpu-memory-utilization=90"), "did you mean 0.9"),
    "all of the GPU": ("IL414", serving(QWEN, "--gpu-memory-utilization=1.0"), "leaves nothing"),
    "128k tokens of Llama 3": (
        "IL415",
        serving("--model=meta-llama/Meta-Llama-3-70B-Instruct", "--max-model-len=131072"),
        "has 8192",
    ),
    "a prompt longer than a step": (
        "IL416",
        serving(QWEN, "--no-enable-chunked-prefill", "--max-num-batched-tokens=2048", "--max-model-len=8192"),
        "without chunked prefill",
    ),
    "eager mode": ("IL417", serving(QWEN, "--enforce-eager"), "1.8 to 4.3 times"),
    "tool choice alone": ("IL418", serving(QWEN, "--enable-auto-tool-choice"), "--tool-call-parser"),
    "the command once more": ("IL419", serving("vllm", "serve", "Qwen/Qwen3-8B"), "entrypoint"),
    "a key": ("IL421", serving(QWEN, "--api-key", "sk-secret"), "readable by all"),
    "a Service to another port": ("IL422", serving(QWEN, "--port=8080") + SERVICE.format(port=8000), "port 8000"),
    "a gated model": ("IL423", serving("--model=google/gemma-3-27b-it", token=False), "is gated"),
    "70B on one card": ("IL451", serving(LLAMA_70B, selector=H100), "131.4 GiB a GPU, of 79.6 GiB"),
    "405B in 16 bits on eight of any card": (
        "IL451",
        serving("--model=meta-llama/Llama-3.1-405B-Instruct", "-tp=2", gpus=2),
        "378",
    ),
    "a whole context on a small card": (
        "IL452",
        serving("--model=meta-llama/Llama-3.1-8B-Instruct", selector=L4),
        "the model's whole context",
    ),
    "a cache in a small folder of memory": (
        "IL454",
        serving(
            "--model=Qwen/Qwen3-32B",
            gpus=1,
            memory="32Gi",
            container="volumeMounts:\n- name: c\n  mountPath: /root/.cache/huggingface\n",
            pod="volumes:\n- name: c\n  emptyDir:\n    medium: Memory\n",
        ),
        "the container's memory limit is 32.0 GiB",
    ),
    "a claim that is too small": (
        "IL454",
        serving(
            "--model=Qwen/Qwen3-32B",
            container="volumeMounts:\n- name: c\n  mountPath: /root/.cache/huggingface\n",
            pod="volumes:\n- name: c\n  persistentVolumeClaim:\n    claimName: c\n",
        )
        + "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata:\n  name: c\nspec:\n  accessModes:\n"
        "  - ReadWriteOnce\n  resources:\n    requests:\n      storage: 50Gi\n",
        "the claim c is 50.0 GiB",
    ),
    "offload beyond the limit": (
        "IL455",
        serving("--model=Qwen/Qwen3-32B", "--cpu-offload-gb=40", "-tp=2", gpus=2, memory="64Gi"),
        "80.0 GiB",
    ),
}


@pytest.mark.parametrize("name", FAULTY)
def test_it_is_found_that_there_is(name: str) -> None:
    rule, text, said = FAULTY[name]
    finding = only(rule, text)
    assert said in " ".join((finding.message, *finding.evidence))


def test_the_article_s_70b_on_two_cards_fits_barely_and_no_error_is_told() -> None:
    text = serving(
        LLAMA_70B, "--tensor-parallel-size=2", "--gpu-memory-utilization=0.90", "--max-model-len=4096", gpus=2
    )
    accelerator = accelerators.find("H100-80GB")
    finding = only("IL453", text, accelerator=accelerator)
    assert "fits, barely: room for 17k–29k tokens of KV cache, 4–7 sequences of 4096" in finding.message
    assert finding.severity is Severity.NOTE
    assert not [one for one in findings(text, accelerator=accelerator) if one.severity is Severity.ERROR]
    assert any("left for the KV cache" in line for line in finding.evidence)
    assert "IL453" not in ids(text), "without an accelerator nothing is said of its memory"


def test_the_fleet_s_matching_nodes_say_which_gpu_it_is() -> None:
    text = serving(LLAMA_70B, gpus=1)
    finding = only("IL451", text, fleet=fleet(node("a"), node("b"), node("cpu", gpus=0)))
    assert finding.evidence[0] == "H100-SXM5-80GB (2 matching nodes of the fleet)"


def test_an_option_within_a_script_is_marked_where_it_stands() -> None:
    text = """\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: server
    image: vllm/vllm-openai:v0.11.0
    command: [sh, -c]
    args:
    - |
      vllm serve Qwen/Qwen3-8B \\
        --max-model-lenght 4096
"""
    finding = only("IL402", text)
    assert (finding.line, finding.column) == (13, 9)


def test_a_misspelt_option_comes_with_its_patch() -> None:
    text = serving(QWEN, "--max-model-lenght=4096")
    patch = only("IL402", text).patch
    assert patch is not None
    assert not patch.is_safe
    [edit] = patch.edits
    assert text[: edit.start] + edit.text + text[edit.end :] == serving(QWEN, "--max-model-len=4096")


def test_kserve_s_server_drops_what_it_does_not_know() -> None:
    text = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
spec:
  predictor:
    model:
      modelFormat:
        name: huggingface
      args:
      - --max-model-length=4096
      storageUri: hf://Qwen/Qwen3-8B
      resources:
        limits:
          nvidia.com/gpu: "2"
"""
    finding = only("IL402", text)
    assert finding.severity is Severity.WARNING
    assert "dropped without a word" in finding.message
    assert ids(text) == {"IL402"}, "it runs on all GPUs that it sees"


@pytest.mark.parametrize("value", ["", "two", "-1", "0", "99999999999999999999", "1e9", "{{ .Values.tp }}", "$(TP)"])
def test_no_value_of_a_size_breaks_a_rule(value: str) -> None:
    for name in (
        "--tensor-parallel-size",
        "--max-model-len",
        "--gpu-memory-utilization",
        "--pipeline-parallel-size",
        "--data-parallel-size",
        "--max-num-batched-tokens",
        "--cpu-offload-gb",
        "--port",
        "--dtype",
    ):
        findings(serving(LLAMA_70B, f"'{name}={value}'", gpus=2, selector=H100, memory="1Gi") + SERVICE.format(port=1))


_WORDS = [
    *("--model", "--tensor-parallel-size", "-tp", "--max-model-len", "--gpu-memory-utilization", "--quantization"),
    *("--dtype", "-O", "--", "--enable-expert-parallel", "--no-enable-chunked-prefill", "--max-num-batched-tokens"),
    *("--port", "--api-key", "--cpu-offload-gb", "--kv-cache-dtype", "--kv-transfer-config.kv_role", "--no-such"),
    *("serve", "8", "0", "-1", "fp8", "awq", "1e99", "nan", "inf", "=", "{", "8k", "half", ""),
    *("Qwen/Qwen3-8B", "openai/gpt-oss-120b", "deepseek-ai/DeepSeek-V3"),
]
_TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)


@given(
    st.lists(st.sampled_from(_WORDS) | _TEXT, max_size=8),
    st.sampled_from(["vllm/vllm-openai:v0.8.5", "acme/vllm"]),
)
@settings(max_examples=60, deadline=None)
def test_no_command_line_breaks_a_rule(words: list[str], image: str) -> None:
    findings(serving(*map(json.dumps, words), gpus=2, image=image, selector=H100))


def test_the_table_s_version_is_the_one_that_options_are_held_against() -> None:
    shown = ".".join(map(str, engine_options._TABLE_VERSION))
    assert options_of("vllm").title.endswith(f" {shown}")


def test_what_would_make_room_is_told_with_the_least_number_of_gpus() -> None:
    assert "--tensor-parallel-size 4 on 4 GPUs" in only("IL451", serving(LLAMA_70B, selector=H100)).help
    text = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
spec:
  predictor:
    nodeSelector:
      nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3
    model:
      modelFormat:
        name: huggingface
      args: [--max-model-len=4096]
      storageUri: hf://meta-llama/Llama-3.1-70B-Instruct
      resources:
        limits:
          nvidia.com/gpu: "2"
"""
    finding = only("IL453", text)
    assert finding.help.startswith("it fits with 4 GPUs")
    assert finding.line == 13


def test_a_model_within_a_line_is_marked_where_it_stands() -> None:
    text = """\
apiVersion: v1
kind: Pod
metadata:
  name: llama
spec:
  containers:
  - name: server
    image: vllm/vllm-openai:v0.11.0
    command: [sh, -c, "sleep 1; vllm serve meta-llama/Llama-3.1-8B"]
"""
    finding = only("IL423", text)
    line = text.splitlines()[finding.line - 1]
    assert line[finding.column - 1 :].startswith("meta-llama/Llama-3.1-8B")


@pytest.mark.parametrize(
    ("options", "gpus", "advice"),
    [
        (["-tp=2"], 4, "set --tensor-parallel-size to 4, or ask for 2"),
        (["-tp=2", "-pp=2"], 8, "set --tensor-parallel-size to 4, or ask for 4"),
        (["-tp=2"], 3, "ask for 2"),
        (["-tp=2", "-pp=3"], 8, "ask for 6"),
    ],
    ids=["twice as wide", "beside a pipeline", "heads that do not divide by 3", "no size that fits"],
)
def test_advice_for_idle_gpus_is_a_size_that_the_model_divides_by(options: list[str], gpus: int, advice: str) -> None:
    (found,) = [one for one in findings(serving(QWEN, *options, gpus=gpus)) if one.rule == "IL407"]
    assert found.help == advice
