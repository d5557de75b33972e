"""A service without GPUs as pods: vLLM's image for CPUs, told what a pod of that size bears."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.backends.kubernetes.render import cpu
from ironloom.backends.kubernetes.render.plain import Setting, objects
from ironloom.workload.manifests.read import parse_object

DEMO = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"


def rendered(**model: Any) -> tuple[dict[str, Any], list[str]]:
    """The pod's spec, and the notes."""
    setting = Setting()
    serving = parse_object(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": "demo"},
            "spec": {"predictor": {"model": {"modelFormat": {"name": "huggingface"}, "storageUri": DEMO, **model}}},
        }
    )
    spec: dict[str, Any] = objects(serving, setting)[0]["spec"]["template"]["spec"]
    return spec, setting.notes


def env_of(**model: Any) -> dict[str, str]:
    return {one["name"]: one["value"] for one in rendered(**model)[0]["containers"][0]["env"]}


def test_the_manifest_of_the_readme_is_run_by_the_image_for_cpus_and_that_is_said() -> None:
    pod, notes = rendered()
    [one] = pod["containers"]
    assert one["image"] == "vllm/vllm-openai-cpu:v0.26.0"
    assert one["args"] == ["--model", "HuggingFaceTB/SmolLM2-135M-Instruct", "--served-model-name", "demo"]
    assert one["env"] == [{"name": "VLLM_CPU_KVCACHE_SPACE", "value": "4"}]
    assert one["resources"] == {"requests": {}, "limits": {}}
    assert {"name": "shm", "mountPath": "/dev/shm"} in one["volumeMounts"]
    assert "nodeSelector" not in pod, "one tag has the images of both architectures"
    [note] = notes
    assert note.startswith(
        "it asks for no GPU: vllm/vllm-openai-cpu:v0.26.0, vLLM's build for CPUs, runs it, with 4 GiB"
    )


@pytest.mark.parametrize(("memory", "gib"), [("1Gi", "1"), ("4Gi", "1"), ("8Gi", "2"), ("32Gi", "8"), ("33G", "7")])
def test_the_cache_is_a_part_of_the_memory_and_never_none(memory: str, gib: str) -> None:
    assert env_of(resources={"limits": {"memory": memory}})["VLLM_CPU_KVCACHE_SPACE"] == gib


def test_threads_are_as_many_as_the_processors_asked_for_and_not_bound() -> None:
    env = env_of(resources={"requests": {"cpu": "3500m"}})
    assert (env["OMP_NUM_THREADS"], env["VLLM_CPU_OMP_THREADS_BIND"]) == ("3", "nobind")
    assert env_of(resources={"requests": {"cpu": "500m"}})["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in env_of()


def test_what_the_manifest_says_stays() -> None:
    own = [{"name": "VLLM_CPU_KVCACHE_SPACE", "value": "9"}, {"name": "OMP_NUM_THREADS", "value": "2"}]
    env = env_of(env=own, resources={"requests": {"cpu": "8"}})
    assert env == {"VLLM_CPU_KVCACHE_SPACE": "9", "OMP_NUM_THREADS": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    assert "VLLM_CPU_KVCACHE_SPACE" not in env_of(args=["--kv-cache-memory-bytes=1G"])
    assert rendered(env=own)[1] == [f"it asks for no GPU: {cpu.IMAGE}, vLLM's build for CPUs, runs it"]


def test_an_image_of_one_s_own_runs_without_a_word_of_another() -> None:
    pod, notes = rendered(image="mine:1")
    assert (pod["containers"][0]["image"], notes) == ("mine:1", [])


def test_with_a_gpu_nothing_of_it_is_there() -> None:
    pod, notes = rendered(resources={"limits": {"nvidia.com/gpu": "1"}}, env=[{"name": "A", "value": "1"}])
    assert pod["containers"][0]["image"] == "vllm/vllm-openai:v0.26.0"
    assert pod["containers"][0]["env"] == [{"name": "A", "value": "1"}]
    assert notes == []
