"""Bytes of weights on one GPU: each tensor by its type, its quantization, and how the engine divides it.

Source of the division: vLLM's layers (see `Split`); of the layers of a pipeline stage: vllm/distributed/utils.py,
get_pp_indices.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

import msgspec

from ironloom.workload.shapes.model import DTYPE_BYTES, AttentionKind, ModelShape, Part, Split, Weight
from ironloom.workload.shapes.quantization import Quantization

VOCABULARY_PADDING = 64
"""Rows of the embedding and the head are padded to a multiple of this: vLLM's DEFAULT_VOCAB_PADDING_SIZE."""
MXFP4_PADDING = 256
"""Inputs of MXFP4 experts are padded to a multiple of this for the kernels (vllm/model_executor/layers/quantization/
mxfp4.py): gpt-oss has 2880, and 64.38 GiB are loaded of 120B (https://github.com/vllm-project/vllm/issues/33155); with
Marlin kernels, which pad the other side too, 65.97 (https://github.com/vllm-project/vllm/issues/23278)."""
LEARNED_POSITIONS = frozenset({"opt", "gpt2", "gpt_bigcode"})
"""Whose positions are weights and no table of sines."""


class Division(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is spread over GPUs."""

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    expert_parallel: bool = False
    """Experts whole, spread over the tensor-parallel group, in place of a piece of each on every GPU."""


def stage_layers(num_layers: int, stage: int, num_stages: int) -> range:
    """The layers of a pipeline stage: equal parts, and what is left over given to stages before the last one."""
    sizes = [num_layers // num_stages] * num_stages
    for step in range(2, num_layers % num_stages + 2):
        sizes[-step] += 1
    first = sum(sizes[:stage])
    return range(first, first + sizes[stage])


@lru_cache(maxsize=64)
def checkpoint_bytes(shape: ModelShape) -> int:
    """Bytes of the model's files: as their headers say, or as they follow from its native type and quantization."""
    if shape.checkpoint_bytes:
        return shape.checkpoint_bytes
    own = DTYPE_BYTES.get(shape.native_dtype, 2)
    ahead = 1 + max((layer for weight in shape.draft_weights for layer in weight.layers), default=-1)
    layers = range(max(shape.num_layers, ahead))
    return sum(
        _bytes(shape, weight, copies, layers, Division(), own, shape.quantization, is_file=True)
        for weight in (*shape.weights, *shape.draft_weights)
        if (copies := _copies(weight, layers, 0, 1, shape.is_tied))
    )


@lru_cache(maxsize=256)
def weight_bytes(
    shape: ModelShape, division: Division, *, dtype_bytes: int, quantization: Quantization | None
) -> tuple[int, ...]:
    """Bytes of weights on one GPU of each pipeline stage, the table of rotary positions among them."""
    stages = division.pipeline_parallel
    found = []
    for stage in range(stages):
        layers = stage_layers(shape.num_layers, stage, stages)
        total = position_bytes(shape, dtype_bytes)
        for weight in shape.weights:
            copies = _copies(weight, layers, stage, stages, shape.is_tied)
            if copies:
                total += _bytes(shape, weight, copies, layers, division, dtype_bytes, quantization)
        found.append(total)
    return tuple(found)


def position_bytes(shape: ModelShape, dtype_bytes: int) -> int:
    """The sines and cosines of every position, which all layers share and each GPU has whole.

        max_position * rotary_dim * dtype_bytes

    Source: vllm/model_executor/layers/rotary_embedding (cos_sin_cache): 32 MiB of a Llama-3.1's 14.9888 GiB.
    """
    if shape.model_type in LEARNED_POSITIONS:
        return 0
    first = shape.attention[0]
    rotary = 64 if first.kind is AttentionKind.LATENT else first.key_dim
    return shape.max_position * rotary * dtype_bytes


def _copies(weight: Weight, layers: range, stage: int, stages: int, is_tied: bool) -> int:
    """Layers of the stage that have it, or 1 where the stage has this part."""
    match weight.part:
        case Part.LAYERS:
            return sum(map(layers.__contains__, weight.layers))
        case Part.HEAD:
            return int(stage == stages - 1)
        case Part.EMBEDDING if is_tied and weight.split is Split.VOCABULARY:
            return int(stage in {0, stages - 1})
        case _:
            return int(stage == 0)


def _bytes(
    shape: ModelShape,
    weight: Weight,
    copies: int,
    layers: range,
    division: Division,
    dtype_bytes: int,
    quantization: Quantization | None,
    *,
    is_file: bool = False,
) -> int:
    """Of all its copies in the stage, on one GPU; or in the files, where nothing is padded."""
    experts = weight.num_experts or 1
    parallel = division.tensor_parallel
    if weight.num_experts and division.expert_parallel:
        experts, parallel = -(-experts // division.tensor_parallel), 1
    if weight.stored_bytes:
        held = weight.stored_bytes * experts / (weight.num_experts if weight.is_stacked else 1)
        return copies * round(held * _fraction(shape, weight, parallel))
    one = weight.shape[1:] if weight.is_stacked else weight.shape
    rows, columns = one[0], prod(one[1:])
    if weight.is_stacked and len(one) == 2:
        rows, columns = one[1], one[0]
    if not is_file:
        rows, columns = _piece(shape, weight, rows, columns, parallel)
    is_mxfp4 = quantization is not None and quantization.method == "mxfp4" and not is_file
    if is_mxfp4 and weight.num_experts and weight.is_linear:
        if weight.split is Split.COLUMNS:
            rows = -(-rows // MXFP4_PADDING) * MXFP4_PADDING
        else:
            columns = -(-columns // MXFP4_PADDING) * MXFP4_PADDING
    plain = rows * columns * dtype_bytes * experts
    if quantization is None or not weight.is_linear:
        return copies * plain
    packed = quantization.matrix_bytes(rows, columns) * experts
    if not quantization.skips:
        return copies * (packed if quantization.takes(weight.name, is_expert=bool(weight.num_experts)) else plain)
    is_expert = bool(weight.num_experts)
    names = (weight.name.replace("{layer}", str(layer)) for layer in weight.layers if layer in layers)
    return sum(packed if quantization.takes(name, is_expert=is_expert) else plain for name in names)


def _piece(shape: ModelShape, weight: Weight, rows: int, columns: int, parallel: int) -> tuple[int, int]:
    """Rows and columns of a matrix that one GPU holds."""
    match weight.split:
        case Split.ROWS:
            return -(-rows // parallel), columns
        case Split.COLUMNS:
            return rows, -(-columns // parallel)
        case Split.VOCABULARY:
            padded = -(-rows // VOCABULARY_PADDING) * VOCABULARY_PADDING
            return -(-padded // parallel), columns
        case Split.KV_ROWS:
            return _kv_rows(shape, rows, parallel), columns
        case Split.QKV_ROWS:
            kv = shape.num_kv_heads * rows // (shape.num_heads + 2 * shape.num_kv_heads)
            return -(-(rows - 2 * kv) // parallel) + 2 * _kv_rows(shape, kv, parallel), columns
        case Split.WHOLE:
            return rows, columns


def _kv_rows(shape: ModelShape, rows: int, parallel: int) -> int:
    """Whole heads: a head is on several GPUs where there are more of them than heads."""
    return rows // shape.num_kv_heads * max(1, -(-shape.num_kv_heads // parallel))


def _fraction(shape: ModelShape, weight: Weight, parallel: int) -> float:
    """The share of a stored tensor that one GPU holds."""
    one = weight.shape[1:] if weight.is_stacked else weight.shape
    rows, columns = one[0], prod(one[1:])
    held = _piece(shape, weight, rows, columns, parallel)
    return held[0] * held[1] / (rows * columns)
