"""The memory of a serving replica: exact weights, and a room for the KV cache that is a band."""

from __future__ import annotations

import pytest
from tests.plan.shapes import LLAMA_3_8B, LLAMA_3_70B, shape

from ironloom.catalog import accelerators
from ironloom.catalog.accelerators import Accelerator
from ironloom.plan.memory import Verdict, serving_memory
from ironloom.units import GIB, KIB


def gpu(name: str) -> Accelerator:
    found = accelerators.find(name)
    assert found is not None
    return found


def test_llama_70b_in_bf16_fits_two_cards_of_80_gb_barely() -> None:
    memory = serving_memory(
        shape(LLAMA_3_70B),
        accelerator=gpu("H100-80GB"),
        tensor_parallel=2,
        gpu_memory_utilization=0.90,
        max_model_len=4096,
    )
    assert memory.verdict is Verdict.BARELY
    assert memory.weights_bytes / GIB == pytest.approx(65.7, abs=0.1)
    assert memory.kv_bytes_per_token == 160 * KIB
    assert 15_000 < memory.kv_tokens.low < 19_000
    assert 27_000 < memory.kv_tokens.high < 31_000
    assert int(memory.sequences.low) == 4
    assert int(memory.sequences.high) == 7


@pytest.mark.parametrize(
    ("name", "utilization", "verdict", "tokens"),
    [
        ("H100-80GB", 0.95, Verdict.BARELY, (43_000, 55_000)),
        ("H100-NVL", 0.90, Verdict.FITS, (99_000, 111_000)),
        ("H200", 0.90, Verdict.FITS, (374_000, 388_000)),
        ("A100-40GB", 0.90, Verdict.DOES_NOT_FIT, (0, 0)),
    ],
)
def test_the_room_for_llama_70b_on_two_cards_follows_the_card(
    name: str, utilization: float, verdict: Verdict, tokens: tuple[int, int]
) -> None:
    memory = serving_memory(
        shape(LLAMA_3_70B),
        accelerator=gpu(name),
        tensor_parallel=2,
        gpu_memory_utilization=utilization,
        max_model_len=4096,
    )
    assert memory.verdict is verdict
    assert memory.kv_tokens.low == pytest.approx(tokens[0], rel=0.04)
    assert memory.kv_tokens.high == pytest.approx(tokens[1], rel=0.04)


def test_a_sequence_longer_than_the_room_does_not_fit() -> None:
    memory = serving_memory(
        shape(LLAMA_3_70B, max_position_embeddings=131_072), accelerator=gpu("H100-80GB"), tensor_parallel=2
    )
    assert memory.verdict is Verdict.DOES_NOT_FIT
    assert memory.weights_fit, "the weights have room, and a sequence of 131,072 tokens has none"


def test_the_arithmetic_says_every_step() -> None:
    memory = serving_memory(shape(LLAMA_3_8B), accelerator=gpu("H100-80GB"), gpu_memory_utilization=0.9)
    text = "\n".join(memory.arithmetic)
    for step in ("8.030 billion parameters", "15.0 GiB a GPU", "0.90 of 79.1", "128 KiB a GPU", "sequences of 8192"):
        assert step in text


def test_a_pipeline_longer_than_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="32 layers"):
        serving_memory(shape(LLAMA_3_8B), accelerator=gpu("H100-80GB"), pipeline_parallel=33)
