"""Shapes that the tests of plan reckon with, from the fields of their published configs."""

from __future__ import annotations

from typing import Any

from ironloom.workload.shapes.config import shape_of_config
from ironloom.workload.shapes.model import ModelShape

LLAMA_3_70B: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8192,
    "intermediate_size": 28_672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
LLAMA_3_8B: dict[str, Any] = LLAMA_3_70B | {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


def shape(config: dict[str, Any], **changes: Any) -> ModelShape:
    return shape_of_config(config | changes, "the model")
