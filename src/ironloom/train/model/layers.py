"""The decoder's parts: norm, fused linear layers, attention, MLP, block.

Queries, keys and values are one matrix, gate and up another: one product each, larger and so nearer to the GPU's peak,
and one gradient. Names of shapes: B sequences, L tokens of one, N tokens of all, D hidden, H query heads, K KV heads,
V vocabulary.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ironloom.train.model.attention import KvCache, Seen, attend
from ironloom.train.model.config import Layer, ModelConfig
from ironloom.train.model.rope import Turn, turned
from ironloom.train.model.swiglu import swiglu


class RMSNorm(nn.Module):
    """Root mean square norm, computed in fp32 (https://arxiv.org/abs/1910.07467); its result has its weight's type,
    whatever the residual stream is kept in."""

    def __init__(self, size: int, *, eps: float, offset: float) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        if self.offset:  # Gemma multiplies before it rounds
            return (wide * (self.offset + self.weight.float())).to(self.weight.dtype)
        return wide.to(self.weight.dtype) * self.weight


class Linear(nn.Linear):
    """A matrix product whose rows are those of several of the checkpoint's, one after the other."""

    def __init__(self, size_in: int, parts: tuple[int, ...], *, bias: bool) -> None:
        super().__init__(size_in, sum(parts), bias=bias)
        self.parts = parts
        """Rows of each."""

    def reset_parameters(self) -> None:
        """Nothing: `LanguageModel.reset` or a checkpoint fills them."""


class Attention(nn.Module):
    """Attention of one layer."""

    def __init__(self, config: ModelConfig, layer: Layer) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.has_rope, self.softcap = layer.has_rope, config.attention_softcap
        self.window = layer.window
        self.cache: KvCache | None = None
        """Only within `LanguageModel.caching`."""
        self.scale = config.attention_scale or config.head_dim**-0.5
        rows = (config.query_rows, config.kv_rows, config.kv_rows)
        self.qkv = Linear(config.hidden_size, rows, bias=config.has_qkv_bias)
        self.out = Linear(config.query_rows, (config.hidden_size,), bias=config.has_out_bias)
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if config.has_qk_norm:
            self.q_norm = RMSNorm(config.head_dim, eps=config.norm_eps, offset=config.norm_offset)
            self.k_norm = RMSNorm(config.head_dim, eps=config.norm_eps, offset=config.norm_offset)

    def forward(self, x_BLD: torch.Tensor, turn: Turn, seen: Seen) -> torch.Tensor:
        heads = self.qkv(x_BLD).unflatten(-1, (-1, self.head_dim))
        q, k, v = heads.split((self.num_heads, self.num_kv_heads, self.num_kv_heads), dim=-2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.has_rope:
            q, k = turned(q, turn), turned(k, turn)
        if self.cache is not None:
            k, v = self.cache.with_new(k, v)
        return self.out(attend(q, k, v, seen, scale=self.scale, softcap=self.softcap).flatten(-2))


class Mlp(nn.Module):
    """down(act(gate) · up)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, self.is_gelu = config.intermediate_size, config.is_gelu
        self.gate_up = Linear(config.hidden_size, (width, width), bias=config.has_mlp_bias)
        self.down = Linear(width, (config.hidden_size,), bias=config.has_mlp_bias)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        gate_up = self.gate_up(x_BLD)
        if not self.is_gelu:
            return self.down(swiglu(gate_up))
        gate, up = gate_up.chunk(2, dim=-1)
        return self.down(functional.gelu(gate, approximate="tanh") * up)


class Block(nn.Module):
    """One layer: what FSDP shards, checkpointing wraps and the compiler sees as one."""

    def __init__(self, config: ModelConfig, layer: Layer) -> None:
        super().__init__()

        def norm() -> RMSNorm:
            return RMSNorm(config.hidden_size, eps=config.norm_eps, offset=config.norm_offset)

        self.attention_norm = norm()
        self.attention = Attention(config, layer)
        self.mlp_norm = norm()
        self.mlp = Mlp(config)
        self.attention_post_norm = norm() if config.has_post_norms else None
        self.mlp_post_norm = norm() if config.has_post_norms else None

    def forward(self, x_BLD: torch.Tensor, turn: Turn, seen: Seen) -> torch.Tensor:
        attended = self.attention(self.attention_norm(x_BLD), turn, seen)
        x_BLD = x_BLD + (attended if self.attention_post_norm is None else self.attention_post_norm(attended))
        thought = self.mlp(self.mlp_norm(x_BLD))
        return x_BLD + (thought if self.mlp_post_norm is None else self.mlp_post_norm(thought))
