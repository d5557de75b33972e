"""A configuration as it is on this machine: what a CPU cannot do, or does not do well, is done otherwise and said."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ironloom.errors import UsageError
from ironloom.workload.training import Checkpointing, Dtype, Training

_FAST_BFLOAT16 = frozenset({"amx_bf16", "avx512_bf16"})
"""Flags of /proc/cpuinfo with which a matrix product in bfloat16 is no slower than one in float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Here:
    """What matters of a machine."""

    is_gpu: bool
    is_bfloat16_fast: bool = True
    has_float8: bool = False
    num_ranks: int = 1


def this_machine(*, is_gpu: bool, capability: tuple[int, int] = (0, 0), num_ranks: int = 1) -> Here:
    """Of a GPU by its compute capability, of a CPU by its flags. Float8 needs Hopper (9.0) or Ada (8.9)."""
    if is_gpu:
        return Here(is_gpu=True, has_float8=capability >= (8, 9), num_ranks=num_ranks)
    return Here(is_gpu=False, is_bfloat16_fast=bool(_FAST_BFLOAT16 & cpu_flags()), num_ranks=num_ranks)


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Of the first CPU; none where that cannot be read."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def adapted(training: Training, here: Here) -> tuple[Training, tuple[str, ...]]:
    """The configuration for this machine, and what was changed, a sentence each.

    Raises UsageError for CPU offload on one GPU: it is FSDP2's, which one rank does without.
    """
    compute = training.compute
    notes: list[str] = []
    left_out: list[str] = []
    if here.is_gpu and compute.is_cpu_offload and here.num_ranks == 1:
        raise UsageError(
            "compute.is_cpu_offload is FSDP's, and one rank trains without FSDP",
            hint="two ranks or more on GPUs of their own, or a smaller state: compute.param_dtype=bfloat16, "
            "method=lora, method=qlora",
        )
    if not here.is_gpu:
        if compute.compute_dtype is Dtype.BFLOAT16 and not here.is_bfloat16_fast:
            compute = replace(compute, compute_dtype=Dtype.FLOAT32)
            notes.append("This CPU is slow in bfloat16: it computes in float32.")
        if compute.is_compiled:
            compute = replace(compute, is_compiled=False)
            left_out.append("compute.is_compiled")
        if compute.is_cpu_offload:
            compute = replace(compute, is_cpu_offload=False)
            notes.append("compute.is_cpu_offload changes nothing where everything is in host memory.")
        if compute.checkpointing is Checkpointing.SELECTIVE:
            compute = replace(compute, checkpointing=Checkpointing.NONE)
            left_out.append("compute.checkpointing=selective")
    if left_out:
        notes.append(f"Without a GPU {' and '.join(left_out)} {'are' if len(left_out) > 1 else 'is'} left out.")
    if compute.is_float8 and not here.has_float8:
        compute = replace(compute, is_float8=False)
        notes.append(
            "compute.is_float8 needs a GPU of compute capability 8.9 or later: linear layers stay in the compute type."
        )
    return (training if compute == training.compute else replace(training, compute=compute)), tuple(notes)
