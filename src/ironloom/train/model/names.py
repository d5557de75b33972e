"""The decoder's parameters under their names in Hugging Face's checkpoints.

A fused matrix is several tensors there, one after the other along the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ironloom.train.model.config import ModelConfig

_LAYER = {
    "attention_norm": "input_layernorm",
    "attention.qkv": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
    "attention.out": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate_up": "mlp.gate_proj mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}
_LAYER_WITH_POST_NORMS = {
    **_LAYER,
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
_ENDS = {
    "embed.weight": "model.embed_tokens.weight",
    "head.norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}


def hf_names(module: Any) -> dict[str, tuple[str, ...]]:
    """For each parameter of a decoder, the checkpoint's tensors that stand one after the other in its rows."""
    return {name: names_of(name, module.config) for name, _ in module.named_parameters()}


def names_of(name: str, config: ModelConfig) -> tuple[str, ...]:
    """The checkpoint's tensors in the parameter of this name. Raises KeyError for a name the decoder does not have."""
    if name in _ENDS:
        return (_ENDS[name],)
    _, layer, rest = name.split(".", 2)
    inner, _, kind = rest.rpartition(".")
    parts = (_LAYER_WITH_POST_NORMS if config.has_post_norms else _LAYER)[inner].split()
    return tuple(f"model.layers.{layer}.{part}.{kind}" for part in parts)


def rows_of(name: str, config: ModelConfig) -> tuple[int, ...] | None:
    """Rows of each of a fused parameter's tensors; None for one that is one tensor."""
    if ".qkv." in name:
        return (config.query_rows, config.kv_rows, config.kv_rows)
    return (config.intermediate_size,) * 2 if ".gate_up." in name else None


def to_hf(name: str, tensor: Any, config: ModelConfig) -> Iterator[tuple[str, Any]]:
    """A parameter's tensors under the checkpoint's names: views of it."""
    rows = rows_of(name, config)
    yield from zip(names_of(name, config), tensor.split(rows) if rows else (tensor,), strict=True)


def state_from_hf(tensors: Mapping[str, Any], config: ModelConfig, names: list[str]) -> dict[str, Any]:
    """The decoder's state dict out of a checkpoint's tensors. Raises KeyError, naming the first that is missing."""
    import torch

    state: dict[str, Any] = {}
    for name in names:
        parts = [tensors[part] for part in names_of(name, config)]
        state[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return state
