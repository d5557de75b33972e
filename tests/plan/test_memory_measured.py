"""The memory model beside what vLLM printed at its start, each with the thread it stands in."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.catalog import accelerators
from ironloom.plan.memory import Verdict, serving_memory
from ironloom.plan.weights import Division, weight_bytes
from ironloom.units import GIB, KIB
from ironloom.workload.shapes.find import find
from ironloom.workload.shapes.model import ModelShape

VLLM = "https://github.com/vllm-project/vllm"


def shape(name: str) -> ModelShape:
    found = find(name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "tensor_parallel", "gib", "relative", "source"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 1, 14.9888, 1e-5, f"{VLLM}/issues/10517"),
        ("neuralmagic/Meta-Llama-3.1-70B-Instruct-quantized.w8a8", 1, 67.7229, 1e-5, f"{VLLM}/pull/12569"),
        ("Qwen/Qwen3-30B-A3B", 4, 14.2474, 5e-4, f"{VLLM}/issues/17327"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", 2, 13.9476, 0.015, f"{VLLM}/issues/13061"),
        ("openai/gpt-oss-120b", 1, 64.38, 0.005, f"{VLLM}/issues/33155"),
    ],
)
def test_the_weights_are_what_vllm_loaded(
    name: str, tensor_parallel: int, gib: float, relative: float, source: str
) -> None:
    made = shape(name)
    [weights] = weight_bytes(
        made, Division(tensor_parallel=tensor_parallel), dtype_bytes=2, quantization=made.quantization
    )
    assert weights / GIB == pytest.approx(gib, rel=relative), source


@pytest.mark.parametrize(
    ("name", "options", "kv_gib", "source"),
    [
        (
            "neuralmagic/Meta-Llama-3.1-70B-Instruct-quantized.w8a8",
            {"gpu_memory_utilization": 0.98, "max_model_len": 2048},
            22_096 * 320 * KIB / GIB,
            f"{VLLM}/pull/12569",
        ),
        ("openai/gpt-oss-120b", {"gpu_memory_utilization": 0.90}, -2.14, f"{VLLM}/issues/23278"),
        (
            "openai/gpt-oss-120b",
            {"gpu_memory_utilization": 0.95, "max_num_batched_tokens": 1024},
            1.71,
            f"{VLLM}/issues/27508",
        ),
    ],
)
def test_the_room_that_was_left_lies_in_the_band(
    name: str, options: dict[str, Any], kv_gib: float, source: str
) -> None:
    accelerator = accelerators.find("H100")
    assert accelerator is not None
    memory = serving_memory(shape(name), accelerator=accelerator, **options)
    assert memory.kv_room_bytes.low / GIB <= kv_gib <= memory.kv_room_bytes.high / GIB, source


def test_a_sequence_with_windows_takes_what_vllm_asks_for() -> None:
    """`4.54 GiB KV cache is needed` for 131,072 tokens: https://github.com/vllm-project/vllm/issues/27508"""
    accelerator = accelerators.find("H100")
    assert accelerator is not None
    memory = serving_memory(shape("openai/gpt-oss-120b"), accelerator=accelerator, max_num_batched_tokens=1024)
    assert memory.max_model_len == 131_072
    assert memory.kv_bytes_per_sequence / GIB == pytest.approx(4.54, abs=0.005)
    assert memory.verdict is not Verdict.FITS, "three threads tell of one that did not start"


def test_a_sequence_without_windows_takes_what_vllm_asks_for() -> None:
    """`24.0 GiB KV cache is needed` for 262,144 tokens: https://github.com/vllm-project/vllm/issues/34076"""
    made = shape("Qwen/Qwen3-Coder-30B-A3B-Instruct")
    assert made.max_position * made.kv_bytes_per_token() == 24 * GIB


@pytest.mark.parametrize(
    ("name", "tensor_parallel", "per_token"),
    [
        ("meta-llama/Llama-3.1-70B-Instruct", 1, 320 * KIB),
        ("meta-llama/Llama-3.1-70B-Instruct", 8, 40 * KIB),
        ("meta-llama/Llama-3.1-70B-Instruct", 16, 40 * KIB),
        ("deepseek-ai/DeepSeek-V3", 1, 61 * 576 * 2),
        ("deepseek-ai/DeepSeek-V3", 8, 61 * 576 * 2),
    ],
)
def test_heads_are_divided_down_to_one_and_a_latent_vector_is_on_every_gpu(
    name: str, tensor_parallel: int, per_token: int
) -> None:
    accelerator = accelerators.find("H200")
    assert accelerator is not None
    memory = serving_memory(shape(name), accelerator=accelerator, tensor_parallel=tensor_parallel)
    assert memory.kv_bytes_per_token == per_token


def test_a_kv_cache_in_fp8_takes_half() -> None:
    accelerator = accelerators.find("H200")
    assert accelerator is not None
    made = shape("meta-llama/Llama-3.1-8B")
    half, whole = (
        serving_memory(made, accelerator=accelerator, kv_dtype=dtype).kv_bytes_per_token for dtype in ("fp8", "auto")
    )
    assert 2 * half == whole


def test_pipeline_stages_share_the_layers_and_the_fullest_is_told() -> None:
    accelerator = accelerators.find("H100")
    assert accelerator is not None
    made = shape("meta-llama/Llama-3.1-70B")
    stages = weight_bytes(made, Division(pipeline_parallel=4), dtype_bytes=2, quantization=None)
    memory = serving_memory(made, accelerator=accelerator, pipeline_parallel=4, max_model_len=8192)
    assert len(stages) == 4
    assert memory.weights_bytes == max(stages)
    assert sum(stages) == pytest.approx(2 * made.num_parameters, rel=0.001)
