"""Operations of a token and parameters, by arithmetic known from elsewhere."""

from __future__ import annotations

import pytest

from ironloom.train.model.config import Layer, ModelConfig
from ironloom.train.step.meters import mfu, num_parameters, token_flops

LLAMA_8B = ModelConfig(
    model_type="llama",
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    layers=(Layer(),) * 32,
)


def test_llama_8b_has_its_published_number_of_parameters() -> None:
    assert num_parameters(LLAMA_8B)[0] == 8_030_261_248


def test_the_mfu_of_torchtitans_published_row_comes_out() -> None:
    """5,762 tokens/s at sequences of 8,192: 33 % (torchtitan, benchmarks/llama3_h100_202412_torchtitan.md)."""
    flops = token_flops(LLAMA_8B, 8192)
    assert mfu(5762, flops.torchtitan, 989e12) == pytest.approx(0.337, abs=0.001)
    assert mfu(5762, flops.causal, 989e12) == pytest.approx(0.300, abs=0.001)


def test_a_frozen_base_costs_two_thirds_and_its_adapters_all() -> None:
    full, adapted = token_flops(LLAMA_8B, 2048), token_flops(LLAMA_8B, 2048, num_adapter_parameters=41_943_040)
    assert adapted.products == pytest.approx(full.products * 2 / 3 + 6 * 41_943_040)
    assert adapted.attention == full.attention, "its gradients pass through it as ever"


def test_a_window_bounds_what_attention_costs() -> None:
    local = ModelConfig(
        model_type="mistral",
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_heads=4,
        num_kv_heads=4,
        head_dim=16,
        layers=(Layer(window=256), Layer()),
    )
    assert token_flops(local, 1024).attention == 12 * 64 * (256 + 1024)


def test_a_tied_head_is_counted_once_as_a_parameter_and_as_a_product() -> None:
    tied = ModelConfig(
        model_type="llama",
        vocab_size=100,
        hidden_size=8,
        intermediate_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        layers=(Layer(),),
        is_tied=True,
    )
    everything, worked = num_parameters(tied)
    assert everything == worked
