"""Shapes read from files: tensors as they lie there, checked against the shape of the config."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.weights import gguf_file, safetensors_file

from ironloom.errors import ModelCorrupt, ModelNotFound, ModelRefused
from ironloom.plan.weights import Division, position_bytes, weight_bytes
from ironloom.workload.shapes.config import shape_of_config
from ironloom.workload.shapes.files import shape_of_path
from ironloom.workload.shapes.model import AttentionKind

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
METADATA: dict[str, object] = {
    "general.architecture": "llama",
    "llama.block_count": 3,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 96,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 512,
}


def gguf_tensors(kind: str = "F16") -> dict[str, tuple[str, tuple[int, ...]]]:
    """A Llama's tensors under GGUF's names, innermost dimension first."""
    made: dict[str, tuple[str, tuple[int, ...]]] = {
        "token_embd.weight": (kind, (64, 128)),
        "output_norm.weight": ("F32", (64,)),
        "output.weight": (kind, (64, 128)),
    }
    for layer in range(3):
        prefix = f"blk.{layer}"
        made |= {
            f"{prefix}.attn_q.weight": (kind, (64, 64)),
            f"{prefix}.attn_k.weight": (kind, (64, 32)),
            f"{prefix}.attn_v.weight": (kind, (64, 32)),
            f"{prefix}.attn_output.weight": (kind, (64, 64)),
            f"{prefix}.ffn_gate.weight": (kind, (64, 96)),
            f"{prefix}.ffn_up.weight": (kind, (64, 96)),
            f"{prefix}.ffn_down.weight": (kind, (96, 64)),
            f"{prefix}.attn_norm.weight": ("F32", (64,)),
            f"{prefix}.ffn_norm.weight": ("F32", (64,)),
        }
    return made


@pytest.mark.parametrize("tensor_parallel", [1, 2, 4, 8])
def test_a_gguf_file_has_the_shape_of_its_config(tmp_path: Path, tensor_parallel: int) -> None:
    file = tmp_path / "llama.gguf"
    file.write_bytes(gguf_file(METADATA, gguf_tensors()))
    read, made = shape_of_path(file), shape_of_config(CONFIG, "llama")
    assert read.num_parameters == made.num_parameters
    assert read.attention == made.attention
    assert (read.hidden_size, read.vocab_size, read.max_position, read.is_tied) == (64, 128, 512, False)
    division = Division(tensor_parallel=tensor_parallel)
    assert weight_bytes(read, division, dtype_bytes=2, quantization=None) == weight_bytes(
        made, division, dtype_bytes=2, quantization=None
    )


def test_packed_tensors_of_a_gguf_file_are_counted_as_they_lie_there(tmp_path: Path) -> None:
    file = tmp_path / "llama.gguf"
    file.write_bytes(gguf_file(METADATA, gguf_tensors("Q4_1")))
    read = shape_of_path(file)
    assert read.quantization is not None
    assert read.quantization.weight_bits == 5, "Q4_1 has 20 bytes for 32 weights"
    packed = sum(prod(shape) for kind, shape in gguf_tensors("Q4_1").values() if kind == "Q4_1") // 32 * 20
    norms = 2 * 64 * 7
    assert weight_bytes(read, Division(), dtype_bytes=2, quantization=read.quantization) == (
        packed + norms + position_bytes(read, 2),
    )
    assert read.checkpoint_bytes == packed + 2 * norms, "norms are float32 in the file, and 16 bits in the engine"


def test_windows_and_experts_of_a_gguf_file_are_read(tmp_path: Path) -> None:
    metadata = {key.replace("llama", "gpt-oss"): value for key, value in METADATA.items()} | {
        "general.architecture": "gpt-oss",
        "gpt-oss.attention.sliding_window": 128,
        "gpt-oss.expert_count": 4,
        "gpt-oss.expert_used_count": 2,
    }
    tensors = gguf_tensors() | {
        f"blk.{layer}.ffn_{name}_exps.weight": ("F16", (64, 96, 4) if name != "down" else (96, 64, 4))
        for layer in range(3)
        for name in ("gate", "up", "down")
    }
    file = tmp_path / "moe.gguf"
    file.write_bytes(gguf_file(metadata, tensors))
    read = shape_of_path(file)
    assert [(group.kind, group.layers, group.window) for group in read.attention] == [
        (AttentionKind.FULL, (1,), 0),
        (AttentionKind.SLIDING, (0, 2), 128),
    ]
    experts = 3 * 4 * 3 * 64 * 96
    dense = shape_of_config(CONFIG, "llama").num_parameters
    assert read.num_parameters == dense + experts
    assert read.num_active_parameters == dense + experts // 2
    whole, half = (
        weight_bytes(read, Division(tensor_parallel=n, expert_parallel=n > 1), dtype_bytes=2, quantization=None)[0]
        for n in (1, 2)
    )
    assert half > whole // 2, "norms are on both"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "mamba"}, "state-space"),
        ({"general.architecture": "rwkv7"}, "RWKV-7"),
        ({"llama.block_count": 10_000}, "must be a whole number from 1 to 4096"),
        ({"llama.attention.head_count": "four"}, "attention.head_count = 'four'"),
        ({"llama.embedding_length": [True]}, "embedding_length"),
    ],
)
def test_a_gguf_file_that_is_no_transformer_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf_file(METADATA | changes, gguf_tensors()))
    with pytest.raises((ModelRefused, ModelCorrupt), match=message):
        shape_of_path(file)


def folder(path: Path, *files: bytes, **config: Any) -> Path:
    (path / "config.json").write_text(json.dumps(CONFIG | config))
    for number, data in enumerate(files, start=1):
        (path / f"model-{number:05d}-of-{len(files):05d}.safetensors").write_bytes(data)
    return path


def tensors_of(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return dict(shape_of_config(config, "m").parameters())


def test_a_folder_says_what_its_files_take(tmp_path: Path) -> None:
    read = shape_of_path(folder(tmp_path, safetensors_file(tensors_of(CONFIG), dtype="F32")))
    assert read.num_parameters == shape_of_config(CONFIG, "m").num_parameters
    assert read.checkpoint_bytes == 4 * read.num_parameters
    assert weight_bytes(read, Division(), dtype_bytes=2, quantization=None) == (
        2 * read.num_parameters + position_bytes(read, 2),
    )


def test_packed_weights_of_a_folder_are_counted_with_their_scales(tmp_path: Path) -> None:
    header: dict[str, Any] = {}
    at = 0
    quantized = 0
    for name, shape in tensors_of(CONFIG).items():
        is_packed = name.endswith("_proj.weight") and ".layers.1." in name
        parts = [(name, "F8_E4M3" if is_packed else "BF16", shape, prod(shape) * (1 if is_packed else 2))]
        if is_packed:
            parts.append((f"{name}_scale", "F32", (shape[0], 1), 4 * shape[0]))
            quantized += prod(shape) - 4 * shape[0]
        for tensor, dtype, dims, size in parts:
            header[tensor] = {"dtype": dtype, "shape": dims, "data_offsets": [at, at + size]}
            at += size
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(at)
    read = shape_of_path(folder(tmp_path, data, quantization_config={"quant_method": "fp8"}))
    bf16 = 2 * read.num_parameters
    assert read.checkpoint_bytes == at == bf16 - quantized
    assert len(read.weights) > len(shape_of_config(CONFIG, "m").weights), "layer 1 differs from the others"
    # The layers that are not packed in the files are what the config says they are: a scale a matrix.
    others = sum(
        prod(shape) - 4
        for name, shape in tensors_of(CONFIG).items()
        if name.endswith("_proj.weight") and ".layers.1." not in name
    )
    assert weight_bytes(read, Division(), dtype_bytes=2, quantization=read.quantization) == (
        bf16 - quantized - others + position_bytes(read, 2),
    )


def test_an_index_whose_files_are_not_there_says_the_total(tmp_path: Path) -> None:
    folder(tmp_path)
    index = {"metadata": {"total_size": 123_456}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert shape_of_path(tmp_path).checkpoint_bytes == 123_456


def test_a_folder_that_says_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        shape_of_path(tmp_path / "nowhere")
    with pytest.raises(ModelRefused, match=r"no config\.json"):
        shape_of_path(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelCorrupt, match="no JSON object"):
        shape_of_path(tmp_path)
