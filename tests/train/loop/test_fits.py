"""A run that cannot fit is refused with the numbers and what would; a CPU's configuration is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ironloom.errors import CapacityError, UsageError
from ironloom.train.loop.fits import Room, require_room, setting, state_of
from ironloom.train.loop.here import Here, adapted, cpu_flags
from ironloom.units import GIB
from ironloom.workload.shapes.find import find
from ironloom.workload.shapes.model import ModelShape
from ironloom.workload.training import Checkpointing, Compute, Dtype, Method, OptimizerSettings, Sharding, Training
from ironloom.workload.training_settings import from_args

TRAINING = Training(name="run", model="hf://meta-llama/Llama-3.1-8B", output="/out")


def shape() -> ModelShape:
    found = find("hf://meta-llama/Llama-3.1-8B")
    assert found is not None
    return found


def gpu(gib: float) -> Room:
    return Room(free_bytes=int(gib * GIB), where="GPU 0")


def test_an_8b_in_full_precision_does_not_fit_one_h100_and_what_would_is_said() -> None:
    with pytest.raises(CapacityError) as refused:
        require_room(TRAINING, shape(), 1, gpu(79))
    assert refused.value.message.startswith(
        "meta-llama/Llama-3.1-8B needs 149.6 GiB on each rank before any activation"
    )
    assert refused.value.message.endswith("GPU 0 has 79.0 GiB free")
    assert refused.value.hint == f"{setting('compute.param_dtype=bfloat16')} would fit"


@pytest.mark.parametrize(
    ("changes", "ranks", "gib", "hint"),
    [
        ({}, 1, 40, f"{setting('method=lora')} would fit"),
        ({"sharding": Sharding.NO_SHARD}, 8, 79, f"{setting('compute.sharding=FULL_SHARD')} would fit"),
        ({"param_dtype": Dtype.BFLOAT16}, 1, 14, f"{setting('method=qlora')} would fit"),
        ({"param_dtype": Dtype.BFLOAT16}, 1, 5.5, "32 GPUs like it would fit"),
        ({}, 1, 0.5, "a smaller model, or a GPU with 158 GiB free, would fit"),
        ({}, 8, 0.5, "a smaller model, or 8 GPUs with 19 GiB free each, would fit"),
    ],
)
def test_the_least_change_that_fits_is_named(changes: dict[str, Any], ranks: int, gib: float, hint: str) -> None:
    training = replace(TRAINING, compute=replace(Compute(), **changes))
    with pytest.raises(CapacityError) as refused:
        require_room(training, shape(), ranks, gpu(gib))
    assert refused.value.hint == hint


@pytest.mark.parametrize(
    ("changes", "micro", "ranks", "bytes_each"),
    [
        ({}, 8, 1, 16),  # parameters 4 and 2, gradients 2, states 8
        ({}, 1, 1, 20),  # and sums of gradients
        ({"compute_dtype": Dtype.FLOAT32}, 1, 1, 16),
        ({"param_dtype": Dtype.BFLOAT16}, 1, 1, 8),
        ({"sharding": Sharding.NO_SHARD}, 1, 8, 18),  # parameters 4 and 2, gradients 4, states 8
    ],
)
def test_a_rank_with_all_parameters_keeps_a_copy_in_the_type_that_is_computed_with(
    changes: dict[str, Any], micro: int, ranks: int, bytes_each: int
) -> None:
    training = replace(TRAINING, micro_batch_size=micro, compute=replace(Compute(), **changes))
    assert state_of(training, shape(), ranks).total_bytes == bytes_each * 8_030_261_248


def test_a_hint_s_setting_is_one_that_the_command_takes() -> None:
    told = setting("compute.param_dtype=bfloat16")
    assert told == "the setting compute.param_dtype=bfloat16 (`ironloom train --set compute.param_dtype=bfloat16`)"
    said = told.rpartition("--set ")[2].rstrip("`)")
    assert from_args([f"--{said}"], base={"name": "run", "model": "m", "output": "/out"}).compute.param_dtype is (
        Dtype.BFLOAT16
    )


def test_what_fits_is_let_through_with_its_bytes() -> None:
    state = require_room(TRAINING, shape(), 8, gpu(79))
    assert state.total_bytes < 79 * GIB
    assert state.parameters_bytes == pytest.approx(8.03e9 * 4 / 8, rel=0.01)


HYBRID = replace(TRAINING, compute=Compute(sharding=Sharding.HYBRID_SHARD))


def test_a_hybrid_group_is_one_machine_s_ranks_where_no_size_is_said() -> None:
    said = replace(HYBRID, compute=replace(HYBRID.compute, shard_group_size=8))
    assert state_of(HYBRID, shape(), 16, num_local_ranks=8) == state_of(said, shape(), 16)
    assert state_of(HYBRID, shape(), 16, num_local_ranks=8).total_bytes > state_of(HYBRID, shape(), 16).total_bytes


def test_states_wider_than_bf16_parameters_are_counted_in_their_own_type() -> None:
    compute = Compute(param_dtype=Dtype.BFLOAT16)
    wide = replace(TRAINING, compute=compute, optimizer=OptimizerSettings(state_dtype=Dtype.FLOAT32))
    assert state_of(wide, shape(), 1).total_bytes == 12 * 8_030_261_248
    assert state_of(replace(TRAINING, compute=compute), shape(), 1).total_bytes == 8 * 8_030_261_248
    lora = replace(wide, method=Method.LORA)
    assert state_of(lora, shape(), 1).optimizer_bytes == 4 * state_of(lora, shape(), 1).gradients_bytes


@pytest.mark.parametrize("method", list(Method))
def test_offloaded_state_is_in_host_memory_and_what_is_gathered_on_the_gpu(method: Method) -> None:
    training = replace(TRAINING, method=method)
    here, there = (
        state_of(replace(training, compute=Compute(is_cpu_offload=offloaded)), shape(), 2)
        for offloaded in (False, True)
    )
    assert (there.total_bytes, there.host_bytes) == (here.gathered_bytes, here.kept_bytes)
    assert (here.total_bytes, here.host_bytes) == (here.kept_bytes + here.gathered_bytes, 0)


def test_offload_is_named_where_host_memory_holds_the_state_and_refused_where_it_does_not() -> None:
    large = Room(free_bytes=20 * GIB, where="GPU 0", num_local_ranks=2, host_bytes=200 * GIB)
    bfloat16 = replace(TRAINING, compute=Compute(param_dtype=Dtype.BFLOAT16))
    with pytest.raises(CapacityError) as refused:
        require_room(bfloat16, shape(), 2, large)
    assert refused.value.hint == f"{setting('compute.is_cpu_offload=true')} would fit"
    offloaded = replace(bfloat16, compute=replace(bfloat16.compute, is_cpu_offload=True))
    assert require_room(offloaded, shape(), 2, large).host_bytes == 4 * 8_030_261_248
    with pytest.raises(
        CapacityError, match=r"29\.9 GiB of host memory for each rank.*40\.0 GiB are free for 2 ranks"
    ) as refused:
        require_room(offloaded, shape(), 2, replace(large, host_bytes=40 * GIB))
    assert refused.value.hint == f"{setting('method=lora')} would fit"
    small = replace(large, free_bytes=10 * GIB, host_bytes=GIB // 5)
    with pytest.raises(CapacityError) as refused:
        require_room(replace(offloaded, is_from_scratch=True), shape(), 2, small)
    assert refused.value.hint == "a smaller model, or 63 GiB of free host memory, would fit"


@pytest.mark.parametrize(
    ("ranks", "gib", "hint"),
    [
        (1, 21.2, "8 machines like it would fit"),
        (2, 21.2, "16 machines like it would fit"),
        (4, 100, f"{setting('compute.param_dtype=bfloat16')} would fit"),
        (1, 0.5, "a smaller model, or a machine with 126 GiB free, would fit"),
        (2, 0.5, "a smaller model, or a machine with 136 GiB free, would fit"),
    ],
)
def test_without_a_gpu_machines_or_a_larger_one_are_named(ranks: int, gib: float, hint: str) -> None:
    training = replace(TRAINING, is_from_scratch=True, compute=Compute(compute_dtype=Dtype.FLOAT32))
    room = Room(free_bytes=int(gib * GIB), where="memory", num_ranks_sharing=ranks, num_local_ranks=ranks, is_gpu=False)
    with pytest.raises(CapacityError) as refused:
        require_room(training, shape(), ranks, room)
    assert refused.value.hint == hint


def test_ranks_on_one_machine_share_its_memory() -> None:
    room = Room(free_bytes=200 * GIB, where="this machine's memory", num_ranks_sharing=2)
    with pytest.raises(CapacityError, match=r"has 200\.0 GiB free for 2 ranks"):
        require_room(replace(TRAINING, compute=Compute(sharding=Sharding.NO_SHARD)), shape(), 2, room)


def test_adapters_keep_gradients_and_states_of_themselves_alone() -> None:
    full, lora = (state_of(replace(TRAINING, method=method), shape(), 1) for method in (Method.FULL, Method.LORA))
    assert lora.optimizer_bytes < full.optimizer_bytes / 100
    assert lora.parameters_bytes == pytest.approx(8.03e9 * 2, rel=0.02)


def test_a_base_in_four_bits_takes_a_third_and_is_divided_as_the_other_is() -> None:
    lora, qlora = (state_of(replace(TRAINING, method=method), shape(), 1) for method in (Method.LORA, Method.QLORA))
    assert qlora.optimizer_bytes == lora.optimizer_bytes
    head_and_embedding = 2 * 128_256 * 4096 * 2
    matrices = qlora.parameters_bytes - qlora.gradients_bytes - head_and_embedding
    assert matrices == pytest.approx(6.98e9 * 4.13 / 8, rel=0.001)
    halves = state_of(replace(TRAINING, method=Method.QLORA), shape(), 2)
    assert halves.parameters_bytes == pytest.approx(qlora.parameters_bytes / 2, abs=2)
    assert halves.gathered_bytes == pytest.approx(head_and_embedding + matrices / 32, rel=0.001)


def test_a_slow_cpu_computes_in_float32_and_compiles_nothing() -> None:
    training, notes = adapted(TRAINING, Here(is_gpu=False, is_bfloat16_fast=False))
    assert training.compute.compute_dtype is Dtype.FLOAT32
    assert not training.compute.is_compiled
    assert training.compute.checkpointing is Checkpointing.NONE
    assert notes == (
        "This CPU is slow in bfloat16: it computes in float32.",
        "Without a GPU compute.is_compiled and compute.checkpointing=selective are left out.",
    )
    plain = Compute(is_compiled=False, checkpointing=Checkpointing.FULL, compute_dtype=Dtype.FLOAT32)
    assert adapted(replace(TRAINING, compute=plain), Here(is_gpu=False))[1] == ()


def test_a_gpu_of_hopper_takes_the_configuration_as_it_is() -> None:
    training = replace(TRAINING, compute=Compute(is_float8=True))
    assert adapted(training, Here(is_gpu=True, has_float8=True)) == (training, ())
    _, notes = adapted(training, Here(is_gpu=True, has_float8=False))
    assert notes == (
        "compute.is_float8 needs a GPU of compute capability 8.9 or later: linear layers stay in the compute type.",
    )


def test_offload_on_one_gpu_is_refused_as_it_would_train_on_the_cpu() -> None:
    training = replace(TRAINING, compute=Compute(is_cpu_offload=True))
    with pytest.raises(UsageError, match="one rank trains without FSDP"):
        adapted(training, Here(is_gpu=True))
    assert adapted(training, Here(is_gpu=True, num_ranks=2)) == (training, ())


def test_flags_of_a_cpu_are_read_where_there_are_some(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nflags\t\t: fpu avx2 amx_bf16\nprocessor : 1\nflags : fpu\n")
    assert cpu_flags(file) == {"fpu", "avx2", "amx_bf16"}
    assert cpu_flags(tmp_path / "none") == frozenset()
