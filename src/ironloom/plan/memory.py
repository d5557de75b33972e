"""Whether a model fits its GPUs, and how much room its KV cache has: each engine's budget, exact where it can be.

    vLLM          room = gpu_memory_utilization * total - weights - overhead
    SGLang        room = mem_fraction_static * (total - context) - weights
    TensorRT-LLM  room = free_gpu_memory_fraction * (total - weights - overhead)

Weights are exact to the tensor; the total and the overhead are bands, so the room is one. The points that the overhead
was laid through are vLLM's: for TensorRT-LLM its band is wider, and what is said of both others is said at the end of
the band where it holds for sure.

Sources: SGLang's profile_max_num_token takes what is free after loading less (1 - mem_fraction_static) of what was free
before it (python/sglang/srt/model_executor); TensorRT-LLM's --kv_cache_free_gpu_memory_fraction is the share of the
free memory after weights and buffers (tensorrt_llm/commands/serve.py).
"""

from __future__ import annotations

from enum import StrEnum

import msgspec
from msgspec.structs import replace

from ironloom.catalog.accelerators import Accelerator
from ironloom.plan.kv_cache import KV_BYTES, KvCache, kv_cache
from ironloom.plan.overhead import FIXED_GIB, NCCL_GIB, Batch, default_batch, overhead_bytes
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

SGLANG_FRACTION = (0.70, 0.98)
"""mem_fraction_static where nobody gives it: from 0.79 to 0.88 by tensor parallelism in 0.3, what a batch and its
graphs leave in later versions, all but 1.5 GiB where the newest size the pool after the graphs
(python/sglang/srt/arg_groups/memory_hook.py)."""
TRTLLM_FRACTION = 0.9
"""free_gpu_memory_fraction where nobody gives it (tensorrt_llm/commands/serve.py)."""
WIDER = 2.0
"""What another engine's overhead may be beside the high end of vLLM's band."""


class Budgeting(StrEnum):
    """How an engine shares out a GPU."""

    VLLM = "vllm"
    SGLANG = "sglang"
    TRTLLM = "trtllm"


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
    """The fraction, at its high end."""
    arithmetic: tuple[str, ...]
    """The sum in words, a line a step."""
    gpu_memory_share: Band = Band(low=DEFAULT_UTILIZATION, high=DEFAULT_UTILIZATION)
    budgeting: Budgeting = Budgeting.VLLM

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
    budgeting: Budgeting = Budgeting.VLLM,
) -> ServingMemory:
    """The memory of one replica. None takes the engine's default: the model's own context for `max_model_len`, the
    checkpoint's quantization for `quantization`; `gpu_memory_utilization`, which stands for the engine's own fraction,
    is 0.92 for vLLM.

    Raises ValueError for a pipeline longer than the model, for numbers below one, and for sliding windows in another
    engine than vLLM: each keeps them in its own way.
    """
    if min(tensor_parallel, pipeline_parallel) < 1 or pipeline_parallel > shape.num_layers:
        raise ValueError(
            f"{shape.num_layers} layers cannot be divided by tensor {tensor_parallel}, pipeline {pipeline_parallel}"
        )
    share = _share(budgeting, gpu_memory_utilization)
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
    if budgeting is not Budgeting.VLLM and any(cache.has_windows for cache in caches):
        raise ValueError(f"the sliding windows of {shape.name} are kept in {budgeting}'s own way")
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
    beside = _beside(budgeting, Band(low=overhead[0], high=overhead[1]), tensor_parallel * pipeline_parallel)
    return min(
        (
            _of_stage(
                shape,
                weights=weights,
                cache=cache,
                total=total,
                overhead=beside,
                share=share,
                division=division,
                budgeting=budgeting,
                how=_how(shape, dtype, stored),
            )
            for weights, cache in zip(per_stage, caches, strict=True)
        ),
        key=lambda memory: (memory.sequences.low, memory.kv_room_bytes.low),
    )


def _share(budgeting: Budgeting, given: float | None) -> Band:
    """The fraction that the engine's option says, or what it may be without."""
    if given is not None:
        return Band(low=given, high=given)
    low, high = {
        Budgeting.VLLM: (DEFAULT_UTILIZATION, DEFAULT_UTILIZATION),
        Budgeting.SGLANG: SGLANG_FRACTION,
        Budgeting.TRTLLM: (TRTLLM_FRACTION, TRTLLM_FRACTION),
    }[budgeting]
    return Band(low=low, high=high)


def _beside(budgeting: Budgeting, overhead: Band, num_gpus: int) -> Band:
    """What the GPU holds beside weights and KV cache, as far as the engine's sum counts it.

    SGLang takes its fraction of what is free once the process has its context and NCCL its buffers; activations and
    graphs lie in the rest.
    """
    fixed = [(FIXED_GIB[end] + (NCCL_GIB[end] if num_gpus > 1 else 0)) * GIB for end in (0, 1)]
    if budgeting is Budgeting.SGLANG:
        return Band(low=0, high=WIDER * fixed[1])
    return overhead if budgeting is Budgeting.VLLM else Band(low=fixed[0], high=WIDER * overhead.high)


def _budget_and_room(
    budgeting: Budgeting, *, share: Band, total: Band, weights: int, beside: Band
) -> tuple[Band, Band]:
    """What the engine shares out, and what of it is left for the KV cache."""
    if budgeting is Budgeting.VLLM:
        budget = Band(low=share.low * total.low, high=share.high * total.high)
        return budget, Band(low=budget.low - weights - beside.high, high=budget.high - weights - beside.low)
    free = Band(low=total.low - beside.high, high=total.high - beside.low)
    if budgeting is Budgeting.SGLANG:
        budget = Band(low=share.low * free.low, high=share.high * free.high)
        return budget, Band(low=budget.low - weights, high=budget.high - weights)
    left = Band(low=free.low - weights, high=free.high - weights)
    # A share of what is missing would make less of it.
    return total, Band(low=min(left.low, share.low * left.low), high=min(left.high, share.high * left.high))


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
    overhead: Band,
    share: Band,
    division: Division,
    budgeting: Budgeting,
    how: str,
) -> ServingMemory:
    budget, room = _budget_and_room(budgeting, share=share, total=total, weights=weights, beside=overhead)
    sequences = Band(
        low=max(0.0, room.low) / cache.bytes_per_sequence, high=max(0.0, room.high) / cache.bytes_per_sequence
    )
    if cache.has_windows:
        tokens = Band(low=sequences.low * cache.num_tokens, high=sequences.high * cache.num_tokens)
    else:
        tokens = Band(low=max(0.0, room.low) / cache.bytes_per_token, high=max(0.0, room.high) / cache.bytes_per_token)
    if room.high <= 0 or sequences.high < 1:
        verdict = Verdict.DOES_NOT_FIT
    elif _is_bare(budgeting, sequences=sequences, room=room, budget=budget):
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
        gpu_memory_utilization=share.high,
        gpu_memory_share=share,
        budgeting=budgeting,
        arithmetic=(),
    )
    return _with_arithmetic(made, shape, how)


def _is_bare(budgeting: Budgeting, *, sequences: Band, room: Band, budget: Band) -> bool:
    """Whether there is little room: maybe for vLLM, for sure for an engine whose band is wide."""
    if budgeting is Budgeting.VLLM:
        return sequences.low < 1 or room.low < BARE_SHARE * budget.low
    return room.high < BARE_SHARE * budget.high


def _with_arithmetic(made: ServingMemory, shape: ModelShape, how: str) -> ServingMemory:
    split = f" over {made.num_gpus} GPUs" if made.num_gpus > 1 else ""
    lines = [
        f"weights: {shape.num_parameters / 1e9:.3f} billion parameters, {how},{split} {gib(made.weights_bytes)} a GPU",
        *_budget_lines(made),
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


def _budget_lines(made: ServingMemory) -> tuple[str, ...]:
    """What the engine shares out, and what of it is neither weights nor KV cache."""
    share = span(made.gpu_memory_share.low, made.gpu_memory_share.high, "{:.2f}")
    if made.budgeting is Budgeting.SGLANG:
        return (
            f"context, NCCL: {_gibs(made.overhead_bytes)}",
            f"weights and KV cache: {share} of the rest of {_gibs(made.total_bytes)} = {_gibs(made.budget_bytes)}",
        )
    beside = f"activations, graphs, NCCL: {_gibs(made.overhead_bytes)}"
    if made.budgeting is Budgeting.TRTLLM:
        return beside, f"the KV cache takes {share} of what both leave of {_gibs(made.total_bytes)}"
    return f"budget: {share} of {_gibs(made.total_bytes)} = {_gibs(made.budget_bytes)}", beside


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
