"""What a step is measured by: floating-point operations of a token, MFU in two conventions, tokens a second.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ironloom.train.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class TokenFlops:
    """Operations of one token, forward and backward, nothing computed anew among them."""

    products: float
    """6 a parameter of a matrix product (https://arxiv.org/abs/2001.08361, 2.1), 4 of one that is frozen, whose
    gradient nobody asks for; the embedding is looked up."""
    attention: float
    """12 · layers · query width · sequence: scores and sums over all positions, causal ones and not."""

    @property
    def torchtitan(self) -> float:
        """As torchtitan counts (0.2.2, models/utils.py): attention as if it were not causal."""
        return self.products + self.attention

    @property
    def causal(self) -> float:
        """With half of the attention, which is what is computed."""
        return self.products + self.attention / 2


def num_parameters(config: ModelConfig) -> tuple[int, int]:
    """All parameters, a tied head counted once, and those of matrix products and norms, a tied head among them."""
    hidden, width = config.hidden_size, config.intermediate_size
    qkv, norms = config.query_rows + 2 * config.kv_rows, 4 if config.has_post_norms else 2
    layer = hidden * (qkv + config.query_rows) + 3 * hidden * width + norms * hidden
    layer += 2 * config.head_dim * config.has_qk_norm + qkv * config.has_qkv_bias
    layer += hidden * config.has_out_bias + (2 * width + hidden) * config.has_mlp_bias
    table = config.vocab_size * hidden
    worked = config.num_layers * layer + hidden + table
    return worked + (0 if config.is_tied else table), worked


def token_flops(config: ModelConfig, seq_len: int, *, num_adapter_parameters: int = 0) -> TokenFlops:
    """Of a token in sequences of `seq_len` tokens. A layer with a window sees no more than that.

    With adapters they alone are trained, and the base is frozen.
    """
    _, worked = num_parameters(config)
    seen = sum(min(layer.window or seq_len, seq_len) for layer in config.layers)
    products = 4.0 * worked + 6.0 * num_adapter_parameters if num_adapter_parameters else 6.0 * worked
    return TokenFlops(products=products, attention=12.0 * config.query_rows * seen)


def mfu(tokens_per_s: float, flops_per_token: float, peak_flops: float) -> float:
    """Model FLOP/s utilisation of one GPU: 0 … 1 of its dense peak in the compute type."""
    return tokens_per_s * flops_per_token / peak_flops
