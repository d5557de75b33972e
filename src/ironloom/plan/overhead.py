"""What an engine takes beside weights and KV cache, as a band: activations of the largest batch, graphs, NCCL.

The engine measures it at its start (vLLM: `determine_available_memory`), and it depends on version, kernels and
options. So this is a band and no number. Its form is that of what is measured: a fixed part for contexts, NCCL's
buffers and captured graphs, and a part that grows with the largest batch.

    activations = batched_tokens * dtype_bytes * (2 * hidden + MLP)  +  sequences * vocabulary * 6

MLP is 3 * width / tp of a dense layer; with experts, what the fused kernel keeps for the experts of each token. 6 is
the logits in the native type and in float32. The band takes 0.40 to 0.85 of it, for buffers that are used again.

Points that the band was laid through, each non-torch memory plus peak of activations, in GiB:
- Llama-3-8B, one H100: 0.16 + 1.26 (https://github.com/vllm-project/vllm/pull/12126 has the first, 10511 the second)
- Qwen2.5-14B, two 4090: 0.25 + 0.19, no graphs (https://github.com/vllm-project/vllm/issues/13061)
- Llama-3.1-8B, one H100, vLLM 0.26 with graphs: 2.4 still held when weights and cache are given back in sleep, of which
  the process's own context is a part that the engine does not count (measured by this project, 2026-11-23).
- Llama-3.1-70B in INT8, one H100, 8192 tokens a step: 3.1, from 22,096 tokens of KV cache that were left
  (https://github.com/vllm-project/vllm/pull/12569)
- gpt-oss-120b, one H100: 7.4, whatever the batch: what repacking its MXFP4 weights leaves behind
  (https://github.com/vllm-project/vllm/issues/27508, 23278)
"""

from __future__ import annotations

import msgspec

from ironloom.units import GIB
from ironloom.workload.shapes.model import ModelShape

FIXED_GIB = (0.4, 0.7)
"""Contexts, workspaces of the attention kernels and cuBLAS, fragments."""
NCCL_GIB = (0.2, 0.3)
"""NCCL's and the custom all-reduce's buffers; only with more than one GPU."""
GRAPHS_GIB = (0.3, 0.5)
"""Captured CUDA graphs; none in eager mode. Up to 1.3 GB were seen where sizes are many
(https://github.com/vllm-project/vllm/pull/21489)."""
ACTIVATION_SHARE = (0.40, 0.85)
REPACKED_SHARE = (0.0, 0.11)
"""Of MXFP4 weights: what repacking them for the kernels leaves behind, by version."""
SMALL_GPU_BYTES = 70 * GIB
"""Below this vLLM's defaults are smaller: _set_default_max_num_seqs_and_batched_tokens_args in engine/arg_utils.py."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """The largest batch that an engine makes room for."""

    num_tokens: int
    num_seqs: int


def default_batch(memory_bytes: int, name: str = "") -> Batch:
    """What vLLM's server takes on a GPU of this size and kind when nobody says."""
    if memory_bytes < SMALL_GPU_BYTES or "A100" in name:
        return Batch(num_tokens=2048, num_seqs=256)
    return Batch(num_tokens=8192, num_seqs=1024)


def overhead_bytes(
    shape: ModelShape,
    *,
    batch: Batch,
    tensor_parallel: int,
    num_gpus: int,
    dtype_bytes: int,
    is_eager: bool,
    repacked_bytes: int = 0,
) -> tuple[int, int]:
    """Low and high end, on one GPU. `repacked_bytes` are weights that the engine packs anew after loading."""
    activations = activation_bytes(shape, batch=batch, tensor_parallel=tensor_parallel, dtype_bytes=dtype_bytes)
    low, high = (
        (FIXED_GIB[end] + (NCCL_GIB[end] if num_gpus > 1 else 0) + (0 if is_eager else GRAPHS_GIB[end])) * GIB
        + ACTIVATION_SHARE[end] * activations
        + REPACKED_SHARE[end] * repacked_bytes
        for end in (0, 1)
    )
    return round(low), round(high)


def activation_bytes(shape: ModelShape, *, batch: Batch, tensor_parallel: int, dtype_bytes: int) -> int:
    """Of the largest batch, were every buffer of a layer held at once."""
    width = -(-shape.intermediate_size // tensor_parallel)
    mlp = 3 * width
    if shape.num_experts:
        mlp = shape.num_experts_per_token * (3 * width + shape.hidden_size)
    layer = batch.num_tokens * dtype_bytes * (2 * shape.hidden_size + mlp)
    return layer + batch.num_seqs * shape.vocab_size * 6
