"""How long a context llama.cpp's slots get, and the memory that they need."""

from __future__ import annotations

from ironloom.units import format_bytes
from ironloom.workload.shapes.gguf_header import GgufHeader

DEFAULT_MAX_MODEL_LEN = 4096
"""Longer only when asked for: each slot's cache is taken at the start, whether it is used or not."""
MIN_MODEL_LEN = 512
CACHE_FRACTION = 0.25
"""Of the memory that is free at the start, where no size was given."""
_KV_DTYPE_BYTES = 2
_ALIGNMENT_TOKENS = 256


def kv_bytes_per_token(header: GgufHeader) -> int:
    """Bytes of KV cache of one token: layers x (K + V) x KV heads x head size x 2 (float16).

    0 when the file does not say. Source of the keys: docs/gguf.md; `attention.key_length` where it is not
    embedding_length / head_count.
    """

    def number(key: str) -> int:
        value = header.metadata.get(f"{header.architecture}.{key}")
        if isinstance(value, tuple) and value:  # one for each layer
            value = max(item for item in value if isinstance(item, int | float))
        return int(value) if isinstance(value, int | float) else 0

    heads = number("attention.head_count")
    kv_heads = number("attention.head_count_kv") or heads
    head_size = number("embedding_length") // heads if heads else 0
    key_size = number("attention.key_length") or head_size
    value_size = number("attention.value_length") or head_size
    return number("block_count") * kv_heads * (key_size + value_size) * _KV_DTYPE_BYTES


def fit_context(
    header: GgufHeader,
    *,
    asked: int = 0,
    num_seqs: int,
    kv_cache_bytes: int = 0,
    available_memory_bytes: int = 0,
) -> int:
    """Tokens of context for each of `num_seqs` slots, so that all their caches fit.

    Without `kv_cache_bytes` the caches may take CACHE_FRACTION of the available memory (0: not known, no limit).
    Raises ValueError when what was asked for is beyond the model, or does not fit.
    """
    own = header.context_length
    if asked and own and asked > own:
        raise ValueError(f"--max-model-len is {asked}; the model's context is {own} tokens")
    wanted = asked or min(own or DEFAULT_MAX_MODEL_LEN, DEFAULT_MAX_MODEL_LEN)
    room_bytes = kv_cache_bytes or int(available_memory_bytes * CACHE_FRACTION)
    token_bytes = kv_bytes_per_token(header)
    if not room_bytes or not token_bytes:
        return wanted
    fits = room_bytes // token_bytes // num_seqs // _ALIGNMENT_TOKENS * _ALIGNMENT_TOKENS
    if fits >= wanted:
        return wanted
    if asked or fits < MIN_MODEL_LEN:
        raise ValueError(
            f"{num_seqs} slots of {wanted} tokens need a cache of {format_bytes(wanted * num_seqs * token_bytes)}, "
            f"and {format_bytes(room_bytes)} are there for it; ask for fewer --max-num-seqs or less --max-model-len"
        )
    return fits
