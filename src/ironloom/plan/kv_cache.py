"""What the KV cache takes of a GPU: bytes of a token, and of a sequence of a given length.

Source: vLLM's vllm/v1/kv_cache_interface.py (bytes of a page of each kind, blocks that a request of a window holds)
and v1/core/kv_cache_utils.py (how layers of several kinds share one pool of pages).
"""

from __future__ import annotations

import msgspec

from ironloom.workload.shapes.model import Attention, AttentionKind, ModelShape

BLOCK_TOKENS = 16
"""Tokens of a page: vLLM's default block size."""
KV_BYTES = {"fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "fp8_inc": 1, "bfloat16": 2, "float16": 2, "float32": 4}


class KvCache(msgspec.Struct, frozen=True, kw_only=True):
    """On one GPU of the fullest stage."""

    bytes_per_token: int
    """If every layer kept every token."""
    bytes_per_sequence: int
    """Of one sequence of `num_tokens`, layers with a window counted as they are kept."""
    num_tokens: int
    has_windows: bool


def kv_cache(
    shape: ModelShape,
    layers: range,
    *,
    tensor_parallel: int,
    dtype_bytes: int,
    num_tokens: int,
    batched_tokens: int,
) -> KvCache:
    """Of the layers of one pipeline stage. Layers of a window keep it, and the tokens of a batch beside it."""
    groups = [(group, sum(1 for layer in group.layers if layer in layers)) for group in shape.attention]
    groups = [(group, count) for group, count in groups if count]
    per_token = sum(count * group.kv_numbers(tensor_parallel) * dtype_bytes for group, count in groups)
    is_mixed = len({group.kind for group, _ in groups}) > 1
    together = _layers_together([count for _, count in groups])
    sequence = 0
    for group, count in groups:
        held = -(-count // together) * together if is_mixed else count
        blocks = _blocks(group, num_tokens, batched_tokens)
        sequence += held * blocks * BLOCK_TOKENS * group.kv_numbers(tensor_parallel) * dtype_bytes
    return KvCache(
        bytes_per_token=per_token,
        bytes_per_sequence=sequence,
        num_tokens=num_tokens,
        has_windows=any(group.kind is AttentionKind.SLIDING for group, _ in groups),
    )


def _blocks(group: Attention, num_tokens: int, batched_tokens: int) -> int:
    if group.kind is AttentionKind.SLIDING:
        held = min(group.window - 1 + batched_tokens, num_tokens)
        return -(-held // BLOCK_TOKENS) + 1
    return -(-num_tokens // BLOCK_TOKENS)


def _layers_together(counts: list[int]) -> int:
    """Layers that share a block table: the fewest of a kind, others are padded up to a multiple; all of the most
    where the kinds are nearly as many (vLLM's _get_kv_cache_groups_uniform_page_size)."""
    if not counts:
        return 1
    least, most = min(counts), max(counts)
    return most if most < least * 1.5 else least
