"""Small model files, built byte by byte from the formats' descriptions."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence

_GGUF_TYPES = {bool: (7, "<?"), int: (4, "<I"), float: (6, "<f")}
TENSOR_TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_1": (3, 32, 20)}
"""ggml's number, weights in a block, bytes of a block."""


def safetensors_file(tensors: Mapping[str, Sequence[int]] | None = None, *, dtype: str = "F32") -> bytes:
    """A safetensors file of zeros."""
    num_bytes = {"F32": 4, "BF16": 2, "F16": 2}[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in (tensors or {"model.weight": (4, 4)}).items():
        size = num_bytes
        for dim in shape:
            size *= dim
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(at)


def config(architecture: str = "LlamaForCausalLM", **more: object) -> bytes:
    """A config.json."""
    known = {"architectures": [architecture], "model_type": "llama", "max_position_embeddings": 2048}
    return json.dumps({**known, **more}).encode()


def gguf_file(
    metadata: Mapping[str, object] | None = None,
    tensors: Mapping[str, tuple[str, Sequence[int]]] | None = None,
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A GGUF file; its tensors are zeros."""
    metadata = {"general.architecture": "llama", "llama.context_length": 512} if metadata is None else metadata
    tensors = {"token_embd.weight": ("Q4_1", (64, 2))} if tensors is None else tensors
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += text(key) + _value(value)
    data = b""
    for name, (kind, shape) in tensors.items():
        number, block_weights, block_bytes = TENSOR_TYPES[kind]
        head += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", dim) for dim in shape)
        head += struct.pack("<IQ", number, len(data))
        num_weights = 1
        for dim in shape:
            num_weights *= dim
        data += bytes(-(-num_weights // block_weights) * block_bytes)
        data += bytes(-len(data) % alignment)
    return head + bytes(-len(head) % alignment) + data


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: object) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        items = [_value(item) for item in value]
        return struct.pack("<I", 9) + items[0][:4] + struct.pack("<Q", len(items)) + b"".join(i[4:] for i in items)
    number, layout = _GGUF_TYPES[type(value)]
    return struct.pack("<I", number) + struct.pack(layout, value)
