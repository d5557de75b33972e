"""The exact part of a training run's memory, beside what is published and what was measured."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.plan.shapes import LLAMA_3_8B, LLAMA_3_70B, shape

from ironloom.plan.training import Optimizer, training_state, unit_parameters
from ironloom.units import GIB
from ironloom.workload.training import Sharding


def test_adam_in_float32_takes_16_bytes_a_parameter() -> None:
    state = training_state(shape(LLAMA_3_70B), sharding=Sharding.NO_SHARD)
    assert state.total_bytes == 16 * 70_553_706_496
    assert state.total_bytes / 1e12 == pytest.approx(1.13, abs=0.01)


@pytest.mark.parametrize(
    ("config", "changes", "parameter_bytes", "reserved_gib", "slack_gib"),
    [
        (LLAMA_3_8B, {}, 2, 60.9, 2.0),
        (LLAMA_3_8B, {"num_hidden_layers": 8}, 4, 43.7, 3.0),
        (
            LLAMA_3_8B,
            {"num_hidden_layers": 16, "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 16},
            4,
            33.0,
            12.0,
        ),
    ],
    ids=["8B, all bf16", "8 layers of 8B, float32", "1.5B, float32, no checkpointing"],
)
def test_what_an_h100_reserved_is_the_exact_part_and_activations(
    config: dict[str, Any], changes: dict[str, Any], parameter_bytes: int, reserved_gib: float, slack_gib: float
) -> None:
    state = training_state(shape(config, **changes), parameter_bytes=parameter_bytes, compute_bytes=2)
    assert 0 < reserved_gib - state.total_bytes / GIB < slack_gib


def test_one_unit_is_gathered_all_at_once() -> None:
    whole = training_state(shape(LLAMA_3_70B), num_shards=8, is_wrapped=False)
    assert whole.gathered_bytes == 2 * 70_553_706_496
    assert whole.gathered_bytes / 1e9 == pytest.approx(141, abs=0.5)
    wrapped = training_state(shape(LLAMA_3_70B), num_shards=8)
    assert wrapped.gathered_bytes / 1e9 == pytest.approx(5.9, abs=0.1), "the embedding with the head, and a layer"
    assert max(unit_parameters(shape(LLAMA_3_70B))[:-1]) == pytest.approx(0.856e9, rel=0.01)


@pytest.mark.parametrize("sharding", [Sharding.SHARD_GRAD_OP, Sharding.HYBRID_SHARD_ZERO2])
def test_what_is_kept_from_forward_to_backward_is_whole(sharding: Sharding) -> None:
    state = training_state(shape(LLAMA_3_8B), num_shards=8, sharding=sharding)
    assert state.gathered_bytes == 2 * 8_030_261_248
    assert state.parameters_bytes == pytest.approx(4 * 8_030_261_248 / 8, abs=4)


def test_a_model_that_is_moved_before_it_is_sharded_is_whole_on_one_gpu_first() -> None:
    state = training_state(shape(LLAMA_3_70B), num_shards=64, is_whole_first=True)
    assert state.first_bytes / 1e9 == pytest.approx(282, abs=0.5)
    assert state.peak_bytes == state.first_bytes > state.total_bytes
    assert any("before it is sharded" in line for line in state.arithmetic)


@given(
    st.integers(1, 512), st.sampled_from(Sharding), st.sampled_from(Optimizer), st.booleans(), st.sampled_from([2, 4])
)
def test_more_shards_never_take_more_of_a_gpu(
    num_shards: int, sharding: Sharding, optimizer: Optimizer, is_wrapped: bool, parameter_bytes: int
) -> None:
    one, more = (
        training_state(
            shape(LLAMA_3_8B),
            num_shards=number,
            sharding=sharding,
            optimizer=optimizer,
            is_wrapped=is_wrapped,
            parameter_bytes=parameter_bytes,
        )
        for number in (num_shards, 2 * num_shards)
    )
    assert more.parameters_bytes <= one.parameters_bytes
    assert more.optimizer_bytes <= one.optimizer_bytes
    if sharding is not Sharding.NO_SHARD:
        assert more.parameters_bytes * 2 * num_shards >= 8_030_261_248 * parameter_bytes, "nothing is lost"


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        training_state(shape(LLAMA_3_8B), num_shards=0)
