"""Each engine's own budget: what SGLang and TensorRT-LLM leave for the KV cache."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.catalog.accelerators import ACCELERATORS
from ironloom.plan.memory import Budgeting, Verdict, serving_memory
from ironloom.units import GIB
from ironloom.workload.shapes.find import find
from ironloom.workload.shapes.model import ModelShape

H100 = ACCELERATORS["H100-SXM5-80GB"]


def shape(name: str = "meta-llama/Llama-3.1-8B-Instruct") -> ModelShape:
    found = find(name)
    assert found is not None
    return found


def test_sglang_s_fraction_holds_weights_and_cache() -> None:
    memory = serving_memory(shape(), accelerator=H100, gpu_memory_utilization=0.85, budgeting=Budgeting.SGLANG)
    assert memory.kv_room_bytes.high == pytest.approx(0.85 * H100.memory_bytes - memory.weights_bytes)
    assert memory.kv_room_bytes.low > 0.85 * (H100.memory_bytes - 3 * GIB) - memory.weights_bytes
    assert "weights and KV cache: 0.85 of the rest" in memory.arithmetic[2]


def test_tensorrt_llm_s_fraction_is_of_what_the_weights_leave() -> None:
    memory = serving_memory(shape(), accelerator=H100, gpu_memory_utilization=0.5, budgeting=Budgeting.TRTLLM)
    left = H100.memory_bytes - memory.weights_bytes
    assert 0.5 * (left - 1 * GIB) < memory.kv_room_bytes.high < 0.5 * left
    assert memory.kv_room_bytes.low > 0.5 * (left - 10 * GIB)


def test_what_nobody_gives_is_the_engine_s_own() -> None:
    own = serving_memory(shape(), accelerator=H100, budgeting=Budgeting.SGLANG)
    assert (own.gpu_memory_share.low, own.gpu_memory_share.high) == (0.70, 0.98)
    given = serving_memory(shape(), accelerator=H100, gpu_memory_utilization=0.9, budgeting=Budgeting.TRTLLM)
    assert given == serving_memory(shape(), accelerator=H100, budgeting=Budgeting.TRTLLM)


@pytest.mark.parametrize("budgeting", list(Budgeting))
def test_a_model_larger_than_the_gpu_fits_none_of_them(budgeting: Budgeting) -> None:
    memory = serving_memory(shape("meta-llama/Llama-3.1-70B-Instruct"), accelerator=H100, budgeting=budgeting)
    assert not memory.weights_fit
    assert memory.verdict is Verdict.DOES_NOT_FIT
    assert any("are missing" in line for line in memory.arithmetic)


@pytest.mark.parametrize("budgeting", [Budgeting.SGLANG, Budgeting.TRTLLM])
def test_windows_are_not_modelled_for_others_than_vllm(budgeting: Budgeting) -> None:
    with pytest.raises(ValueError, match="sliding windows"):
        serving_memory(shape("openai/gpt-oss-20b"), accelerator=H100, budgeting=budgeting)


@given(
    st.sampled_from(list(Budgeting)),
    st.floats(0.05, 1, allow_nan=False),
    st.floats(0.05, 1, allow_nan=False),
    st.sampled_from([1, 2, 4, 8]),
)
def test_a_larger_fraction_never_leaves_less(budgeting: Budgeting, a: float, b: float, tensor_parallel: int) -> None:
    low, high = (
        serving_memory(
            shape(),
            accelerator=H100,
            gpu_memory_utilization=share,
            tensor_parallel=tensor_parallel,
            budgeting=budgeting,
        ).kv_room_bytes
        for share in sorted((a, b))
    )
    assert low.low <= high.low
    assert low.high <= high.high
    assert high.low <= high.high
