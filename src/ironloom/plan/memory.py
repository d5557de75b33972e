"""Whether a model fits its GPUs, and how much room its KV cache has: vLLM's budget, exact where it can be.

    room = gpu_memory_utilization * total - weights - overhead

Weights are exact to the tensor; the total and the overhead are bands, so the room is one.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
from msgspec.structs import replace

from ironloom.catalog.accelerators import Accelerator
from ironloom.plan.kv_cache import KV_BYTES, KvCache, kv_cache
from ironloom.plan.overhead import Batch, default_batch, overhead_bytes
from ironloom.plan.weights import Division, stage_layers, weight_bytes
from ironloom.units import GIB, KIB
from ironloom.workload.shapes.model import DTYPE_BYTES, ModelShape
from ironloom.workload.shapes.quantization import Quantization, named

DEFAULT_UTILIZATION = 0.92
"""vLLM's since 0.20; 0.9 before (vllm/config/cache.py)."""
UNSEEN_SHARE = 0.995
"""Of the driver's total that a process is told, where the catalogue has not seen it: 79.22 of 79.65 GiB on an H100
(https://github.com/vllm-project/vllm/pull/10511), 139.8 of 140.4 on an H200."""
BARE_SHARE = 0.10
"""A KV room below this share of the budget is called bare."""


class Verdict(StrEnum):
    FITS = "fits"
    BARELY = "barely"
    """It starts or may not, and then has little room: the low end of the band is below one sequence, or a tenth of the
    budget."""
    DOES_NOT_FIT = "does not fit"
    """At the high end of the band as well, the weights or one sequence have no room."""


class Band(msgspec.Struct, frozen=True, kw_only=True):
    """A number between two ends."""

    low: float
    high: float

    def __str__(self) -> str:
        return span(self.low, self.high, "{:.1f}")


class ServingMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Of one GPU: the one that holds most. Bytes, tokens and sequences."""

    verdict: Verdict
    num_gpus: int
    weights_bytes: int
    total_bytes: Band
    """Of the GPU, as a process is told it."""
    budget_bytes: Band
    overhead_bytes: Band
    kv_room_bytes: Band
    """Below zero where there is none."""
    kv_bytes_per_token: int
    kv_bytes_per_sequence: int
    """Of one sequence of max_model_len."""
    kv_tokens: Band
    sequences: Band
    """Of max_model_len, at once; fractions are kept."""
    max_model_len: int
    gpu_memory_utilization: float
    arithmetic: tuple[str, ...]
    """The sum in words, a line a step."""

    @property
    def weights_fit(self) -> bool:
        """Whether weights and the least overhead leave anything at all."""
        return self.kv_room_bytes.high > 0


def serving_memory(
    shape: ModelShape,
    *,
    accelerator: Accelerator,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    expert_parallel: bool = False,
    dtype: str = "auto",
    quantization: Quantization | str | None = None,
    kv_dtype: str = "auto",
    gpu_memory_utilization: float | None = None,
    max_model_len: int | None = None,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    enforce_eager: bool = False,
) -> ServingMemory:
    """The memory of one replica. None takes the engine's default: the model's own context for `max_model_len`, the
    checkpoint's quantization for `quantization`; `gpu_memory_utilization` is 0.92.

    Raises ValueError for a pipeline longer than the model, and numbers below one.
    """
    if min(tensor_parallel, pipeline_parallel) < 1 or pipeline_parallel > shape.num_layers:
        raise ValueError(
            f"{shape.num_layers} layers cannot be divided by tensor {tensor_parallel}, pipeline {pipeline_parallel}"
        )
    utilization = DEFAULT_UTILIZATION if gpu_memory_utilization is None else gpu_memory_utilization
    number_bytes = dtype_bytes(shape, dtype)
    stored = _quantization(shape, quantization)
    division = Division(
        tensor_parallel=tensor_parallel, pipeline_parallel=pipeline_parallel, expert_parallel=expert_parallel
    )
    batch = default_batch(accelerator.memory_bytes, accelerator.name)
    batch = Batch(
        num_tokens=max_num_batched_tokens or batch.num_tokens,
        num_seqs=max_num_seqs or batch.num_seqs,
    )
    length = max_model_len or shape.max_position or 1
    per_stage = weight_bytes(shape, division, dtype_bytes=number_bytes, quantization=stored)
    caches = [
        kv_cache(
            shape,
            stage_layers(shape.num_layers, stage, pipeline_parallel),
            tensor_parallel=tensor_parallel,
            dtype_bytes=KV_BYTES.get(kv_dtype, number_bytes),
            num_tokens=length,
            batched_tokens=batch.num_tokens,
        )
        for stage in range(pipeline_parallel)
    ]
    overhead = overhead_bytes(
        shape,
        batch=batch,
        tensor_parallel=tensor_parallel,
        num_gpus=tensor_parallel * pipeline_parallel,
        dtype_bytes=number_bytes,
        is_eager=enforce_eager,
        repacked_bytes=max(per_stage) if stored is not None and stored.method == "mxfp4" else 0,
    )
    total = Band(
        low=accelerator.cuda_memory_bytes or accelerator.memory_bytes * UNSEEN_SHARE, high=accelerator.memory_bytes
    )
    budget = Band(low=utilization * total.low, high=utilization * total.high)
    return min(
        (
            _of_stage(
                shape,
                weights=weights,
                cache=cache,
                total=total,
                budget=budget,
                overhead=Band(low=overhead[0], high=overhead[1]),
                utilization=utilization,
                division=division,
                how=_how(shape, dtype, stored),
            )
            for weights, cache in zip(per_stage, caches, strict=True)
        ),
        key=lambda memory: (memory.sequences.low, memory.kv_room_bytes.low),
    )


def dtype_bytes(shape: ModelShape, dtype: str) -> int:
    """Bytes of a number that the engine computes with. `auto` takes 16 bits for a float32 checkpoint, as vLLM does."""
    plain = {"half": "float16", "float": "float32"}.get(dtype, dtype)
    if plain in DTYPE_BYTES:
        return DTYPE_BYTES[plain]
    return min(2, DTYPE_BYTES.get(shape.native_dtype, 2))


def _quantization(shape: ModelShape, asked: Quantization | str | None) -> Quantization | None:
    """A checkpoint's own quantization counts before what an option names."""
    if shape.quantization is not None or asked is None:
        return shape.quantization
    return named(asked) if isinstance(asked, str) else asked


def _of_stage(
    shape: ModelShape,
    *,
    weights: int,
    cache: KvCache,
    total: Band,
    budget: Band,
    overhead: Band,
    utilization: float,
    division: Division,
    how: str,
) -> ServingMemory:
    room = Band(low=budget.low - weights - overhead.high, high=budget.high - weights - overhead.low)
    sequences = Band(
        low=max(0.0, room.low) / cache.bytes_per_sequence, high=max(0.0, room.high) / cache.bytes_per_sequence
    )
    if cache.has_windows:
        tokens = Band(low=sequences.low * cache.num_tokens, high=sequences.high * cache.num_tokens)
    else:
        tokens = Band(low=max(0.0, room.low) / cache.bytes_per_token, high=max(0.0, room.high) / cache.bytes_per_token)
    if room.high <= 0 or sequences.high < 1:
        verdict = Verdict.DOES_NOT_FIT
    elif sequences.low < 1 or room.low < BARE_SHARE * budget.low:
        verdict = Verdict.BARELY
    else:
        verdict = Verdict.FITS
    made = ServingMemory(
        verdict=verdict,
        num_gpus=division.tensor_parallel * division.pipeline_parallel,
        weights_bytes=weights,
        total_bytes=total,
        budget_bytes=budget,
        overhead_bytes=overhead,
        kv_room_bytes=room,
        kv_bytes_per_token=cache.bytes_per_token,
        kv_bytes_per_sequence=cache.bytes_per_sequence,
        kv_tokens=tokens,
        sequences=sequences,
        max_model_len=cache.num_tokens,
        gpu_memory_utilization=utilization,
        arithmetic=(),
    )
    return _with_arithmetic(made, shape, how)


def _with_arithmetic(made: ServingMemory, shape: ModelShape, how: str) -> ServingMemory:
    split = f" over {made.num_gpus} GPUs" if made.num_gpus > 1 else ""
    lines = [
        f"weights: {shape.num_parameters / 1e9:.3f} billion parameters, {how},{split} {gib(made.weights_bytes)} a GPU",
        f"budget: {made.gpu_memory_utilization:.2f} of {_gibs(made.total_bytes)} = {_gibs(made.budget_bytes)}",
        f"activations, graphs, NCCL: {_gibs(made.overhead_bytes)}",
    ]
    if made.kv_room_bytes.high <= 0:
        lines.append(f"left for the KV cache: nothing, {gib(-made.kv_room_bytes.high)} a GPU are missing at least")
    else:
        lines.append(
            f"left for the KV cache: {_gibs(made.kv_room_bytes)}; a token takes "
            f"{made.kv_bytes_per_token / KIB:.0f} KiB a GPU: {thousands(made.kv_tokens)} tokens, "
            f"{whole(made.sequences)} sequences of {made.max_model_len}"
        )
    return replace(made, arithmetic=tuple(lines))


def _how(shape: ModelShape, dtype: str, stored: Quantization | None) -> str:
    plain = dtype if dtype in DTYPE_BYTES else {1: "float8", 2: "16 bits", 4: "float32"}[dtype_bytes(shape, dtype)]
    if dtype == "auto" and shape.native_dtype in {"bfloat16", "float16"}:
        plain = shape.native_dtype
    return f"{stored.method} ({stored.weight_bits} bits), the rest {plain}" if stored else plain


def gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f} GiB"


def _gibs(band: Band) -> str:
    return f"{span(band.low / GIB, band.high / GIB, '{:.1f}')} GiB"


def span(low: float, high: float, form: str) -> str:
    """Two ends as text, once where they read alike."""
    first, last = form.format(max(0.0, low)), form.format(max(0.0, high))
    return first if first == last else f"{first}–{last}"


def thousands(band: Band) -> str:
    """Tokens as a person says them: 17k–29k; whole below a thousand."""
    if band.high < 10_000:
        return span(band.low, band.high, "{:.0f}")
    return span(band.low / 1000, band.high / 1000, "{:.0f}k")


def whole(band: Band) -> str:
    """Sequences, rounded down."""
    return span(int(band.low), int(band.high), "{:.0f}")
