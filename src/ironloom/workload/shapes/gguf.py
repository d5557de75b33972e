"""A model's shape from the head of a GGUF file: its tensors as they lie there, its attention from its metadata.

Sources: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (keys), and llama.cpp's src/llama-arch.cpp (names of
tensors) and src/llama-model.cpp (which layers have a window).
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from msgspec.structs import replace

from ironloom.errors import ModelCorrupt, ModelRefused
from ironloom.workload.shapes.gguf_header import FLOAT_TYPES, ArrayLength, GgufHeader, GgufTensor, read_gguf_header
from ironloom.workload.shapes.model import Attention, AttentionKind, ModelShape, Part, Split, Weight
from ironloom.workload.shapes.quantization import Quantization

STATE_SPACE = {
    "mamba": "Mamba",
    "mamba2": "Mamba-2",
    "falcon-h1": "Falcon-H1 (attention beside Mamba)",
    "jamba": "Jamba (attention and Mamba)",
    "nemotron_h": "Nemotron-H (attention and Mamba)",
    "granitehybrid": "Granite 4 hybrid (attention and Mamba)",
    "plamo2": "PLaMo 2 (attention and Mamba)",
    "rwkv6": "RWKV-6",
    "rwkv6qwen2": "RWKV-6",
    "rwkv7": "RWKV-7",
    "arwkv7": "RWKV-7",
    "lfm2": "LFM2 (attention and convolutions)",
    "qwen3next": "Qwen3-Next (attention and gated delta networks)",
    "kimi-linear": "Kimi Linear (attention and delta networks)",
}
"""Architectures whose layers keep a state of fixed size in place of a KV cache, or beside it."""
EVERY_NTH_FULL = {"gemma2": 2, "gemma3": 6, "gpt-oss": 2, "cohere2": 4}
"""Architectures of which each nth layer is full and those between have the window of `attention.sliding_window`."""
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")
_SPLIT = re.compile(r"(.+)-00001-of-(\d{5})\.gguf")
_SPLITS = {
    "attn_q": Split.ROWS,
    "attn_q_b": Split.ROWS,
    "attn_kv_b": Split.ROWS,
    "attn_k": Split.KV_ROWS,
    "attn_v": Split.KV_ROWS,
    "attn_qkv": Split.QKV_ROWS,
    "attn_output": Split.COLUMNS,
    "ffn_gate": Split.ROWS,
    "ffn_up": Split.ROWS,
    "ffn_down": Split.COLUMNS,
    "ffn_gate_exps": Split.ROWS,
    "ffn_up_exps": Split.ROWS,
    "ffn_down_exps": Split.COLUMNS,
    "ffn_gate_shexp": Split.ROWS,
    "ffn_up_shexp": Split.ROWS,
    "ffn_down_shexp": Split.COLUMNS,
}


def shape_of_gguf(path: Path) -> ModelShape:
    """The shape of a GGUF file, all parts of a split one together.

    Raises ModelRefused for state-space models, ModelCorrupt for a file that is damaged or does not say what it is.
    """
    header = read_gguf_header(path)
    tensors = list(header.tensors)
    for part in _other_parts(path, header):
        tensors += read_gguf_header(part).tensors
    return shape_of_header(replace(header, tensors=tuple(tensors)), path.stem, source=str(path))


def shape_of_header(header: GgufHeader, name: str, *, source: str = "") -> ModelShape:
    """The shape that a header of a whole model describes. Raises as `shape_of_gguf` does."""
    if header.architecture in STATE_SPACE:
        kind = STATE_SPACE[header.architecture]
        raise ModelRefused(f"{name} is {kind}: a state-space model, whose memory is not modelled")
    read = _Metadata(header, name)
    num_layers = read.number("block_count", most=4096)
    hidden = read.number("embedding_length")
    heads = read.number("attention.head_count")
    names = {tensor.name for tensor in header.tensors}
    embedding = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    vocab = read.vocabulary() or (embedding.shape[-1] if embedding is not None and embedding.shape else 0)
    num_experts = read.number("expert_count", 0)
    width = read.number("expert_feed_forward_length", 0) or read.number("feed_forward_length", 0)
    return ModelShape(
        name=name,
        model_type=header.architecture,
        architecture="",
        num_layers=num_layers,
        hidden_size=hidden,
        vocab_size=vocab,
        num_heads=heads,
        max_position=read.number("context_length", 0),
        native_dtype="bfloat16" if header.form == "BF16" else "float16",
        is_tied="output.weight" not in names,
        attention=_attention(read, num_layers, hidden, heads),
        weights=tuple(_weights(header.tensors, num_layers, num_experts)),
        quantization=_quantization(header),
        num_experts=num_experts,
        num_experts_per_token=read.number("expert_used_count", 0),
        intermediate_size=width,
        source=source,
        checkpoint_bytes=sum(tensor.num_bytes for tensor in header.tensors),
    )


class _Metadata:
    """The numbers of a model's architecture; nothing in the file is trusted."""

    def __init__(self, header: GgufHeader, name: str) -> None:
        self._header = header
        self._name = name
        if not header.architecture:
            raise ModelCorrupt(f"{name} has no general.architecture in its metadata")

    def number(self, key: str, default: int | None = None, *, most: int = 1 << 24) -> int:
        """A whole number; of a list with one entry a layer, the largest. Raises ModelCorrupt where there is none."""
        value = self._header.metadata.get(f"{self._header.architecture}.{key}")
        if isinstance(value, tuple):
            numbers = [item for item in value if isinstance(item, int)]
            value = max(numbers, default=None)
        if value is None and default is not None:
            return default
        least = 0 if default == 0 else 1
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            said = f"has {key} = {str(value)[:60]!r}" if value is not None else f"has no {key}"
            raise ModelCorrupt(f"the metadata of {self._name} {said}, must be a whole number from {least} to {most}")
        return value

    def vocabulary(self) -> int:
        tokens = self._header.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, ArrayLength):
            return tokens.length
        return len(tokens) if isinstance(tokens, tuple) else 0


def _attention(read: _Metadata, num_layers: int, hidden: int, heads: int) -> tuple[Attention, ...]:
    every = tuple(range(num_layers))
    latent = read.number("attention.kv_lora_rank", 0)
    if latent:
        rotary = read.number("rope.dimension_count", 64)
        return (
            Attention(kind=AttentionKind.LATENT, layers=every, num_kv_heads=1, key_dim=latent + rotary, value_dim=0),
        )
    kv_heads = read.number("attention.head_count_kv", heads)
    key = read.number("attention.key_length", max(1, hidden // heads))
    value = read.number("attention.value_length", key)
    window, step = read.number("attention.sliding_window", 0), EVERY_NTH_FULL.get(read._header.architecture, 0)
    sliding = tuple(layer for layer in every if (layer + 1) % step) if window and step else ()
    full = tuple(sorted(set(every) - set(sliding)))
    groups = [(AttentionKind.FULL, full, 0), (AttentionKind.SLIDING, sliding, window)]
    return tuple(
        Attention(kind=kind, layers=layers, num_kv_heads=kv_heads, key_dim=key, value_dim=value, window=width)
        for kind, layers, width in groups
        if layers
    )


def _weights(tensors: tuple[GgufTensor, ...], num_layers: int, num_experts: int) -> list[Weight]:
    """Equal tensors of many layers as one; dimensions turned round, as GGUF names the innermost first."""
    layers: dict[tuple[str, tuple[int, ...], int, bool], list[int]] = defaultdict(list)
    for tensor in tensors:
        match = _BLOCK.fullmatch(tensor.name)
        is_in = match is not None and int(match[1]) < num_layers
        name = f"blk.{{layer}}.{match[2]}" if match is not None and is_in else tensor.name
        stored = 0 if tensor.type in FLOAT_TYPES else tensor.num_bytes
        layers[name, tensor.shape[::-1], stored, is_in].append(int(match[1]) if match is not None and is_in else -1)
    made = []
    for (name, shape, stored, is_in), where in layers.items():
        short = name.removeprefix("blk.{layer}.").removesuffix(".weight").removesuffix(".bias")
        is_matrix = len(shape) > 1
        split = _SPLITS.get(short, Split.WHOLE)
        if name in {"token_embd.weight", "output.weight"}:
            split = Split.VOCABULARY
        if split is Split.COLUMNS and not is_matrix:
            split = Split.WHOLE  # the bias that is added after the sum
        is_stacked = short.endswith("_exps") and shape[:1] == (num_experts,)
        part = Part.LAYERS if is_in else Part.EMBEDDING if name.startswith("token_embd") else Part.HEAD
        made.append(
            Weight(
                name=name,
                shape=shape or (1,),
                part=part,
                layers=tuple(where) if is_in else (),
                num_experts=num_experts if is_stacked else 0,
                split=split,
                is_linear=is_in and is_matrix,
                stored_bytes=stored,
                is_stacked=is_stacked,
            )
        )
    return made


def _quantization(header: GgufHeader) -> Quantization | None:
    """Named after the format of most weights; its bytes stand with each tensor."""
    if header.form in FLOAT_TYPES or not header.tensors:
        return None
    total = sum(tensor.num_bytes for tensor in header.tensors if tensor.type == header.form)
    numbers = sum(_size(tensor) for tensor in header.tensors if tensor.type == header.form)
    return Quantization(method="gguf", weight_bits=max(1, round(8 * total / max(1, numbers))))


def _size(tensor: GgufTensor) -> int:
    size = 1
    for dim in tensor.shape:
        size *= dim
    return size


def _other_parts(path: Path, header: GgufHeader) -> list[Path]:
    """The further files of a split model. Raises ModelCorrupt for one that is missing or named otherwise."""
    if header.split_count == 1:
        return []
    match = _SPLIT.fullmatch(path.name)
    if match is None or int(match[2]) != header.split_count:
        raise ModelCorrupt(f"{path} is one of {header.split_count} parts, and not named as the first of them")
    parts = [path.with_name(f"{match[1]}-{n:05d}-of-{match[2]}.gguf") for n in range(2, header.split_count + 1)]
    for part in parts:
        if not part.is_file():
            raise ModelCorrupt(f"{path} is not whole: {part.name} is missing")
    return parts
