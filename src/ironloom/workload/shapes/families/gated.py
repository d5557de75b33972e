"""Decoders of Llama's make: rotary positions, RMS norms, gated MLPs; or experts in place of the MLP.

Sources: transformers 5.19, models/{llama,mistral,qwen2,qwen3,smollm3,granite,gemma,gemma2,gemma3,olmo2,cohere,glm4,
mixtral,qwen2_moe,qwen3_moe,phimoe}/modeling_*.py; the tests compare every tensor with the modules there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from ironloom.workload.shapes.draft import Draft
from ironloom.workload.shapes.fields import MAX_EXPERTS, Fields, num_layers_of
from ironloom.workload.shapes.model import Part, Split, Weight
from ironloom.workload.shapes.parts import (
    Heads,
    attention_projections,
    cache,
    ends,
    experts,
    gated_mlp,
    heads_of,
    linear,
    norm,
    plain,
    router,
)

GATED = ("gate_proj", "up_proj", "down_proj")
NUMBERED = ("w1", "w3", "w2")
"""Gate, up and down as Mixtral names them."""


class Make(msgspec.Struct, frozen=True, kw_only=True):
    """What tells one family of this make from another. Defaults are Llama's."""

    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    norm_bias: bool = False
    qkv_bias: bool | None = None
    """None: as `attention_bias` says, which then holds for the way back as well."""
    bias_default: bool = False
    """Of `attention_bias`."""
    out_follows_bias: bool = True
    qk_norm: str = ""
    """`head` for a norm over one head, `all` over all heads at once; empty for none."""
    fused_mlp: bool = False
    tied: bool = False
    """Where the config does not say."""
    head_dim: int = 0
    num_heads: int | None = None
    num_kv_heads: int = 0
    vocab: int | None = None
    max_position: int = 0
    every_nth_full: int = 0
    """Each nth layer is full and those between have the window; 0 where all are alike."""
    window: int = 0
    """Where the config does not say."""
    window_flag: bool = False
    """The window counts only with use_sliding_window, and from layer max_window_layers on."""


LLAMA = Make()
MISTRAL = Make(qkv_bias=False, window=4096, num_kv_heads=8)
QWEN2 = Make(qkv_bias=True, window_flag=True, window=4096)
QWEN3 = Make(qk_norm="head", head_dim=128, window_flag=True, window=4096)
QWEN3_MOE = Make(qk_norm="head", num_kv_heads=4, window_flag=True, window=4096)
_SANDWICH = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
MAKES: dict[str, Make] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "smollm3": Make(tied=True, num_kv_heads=4),
    "granite": LLAMA,
    "seed_oss": Make(bias_default=True, out_follows_bias=False, head_dim=128, num_kv_heads=8),
    "gemma": Make(tied=True, head_dim=256, vocab=256_000, max_position=8192),
    "gemma2": Make(
        norms=_SANDWICH,
        tied=True,
        head_dim=256,
        num_kv_heads=4,
        num_heads=8,
        vocab=256_000,
        every_nth_full=2,
        window=4096,
        max_position=8192,
    ),
    "gemma3_text": Make(
        norms=_SANDWICH,
        tied=True,
        head_dim=256,
        num_kv_heads=4,
        num_heads=8,
        vocab=262_208,
        qk_norm="head",
        every_nth_full=6,
        window=4096,
        max_position=131_072,
    ),
    "olmo2": Make(norms=("post_attention_layernorm", "post_feedforward_layernorm"), qk_norm="all"),
    "cohere": Make(norms=("input_layernorm",), tied=True),
    "glm4": Make(
        norms=(
            "input_layernorm",
            "post_attention_layernorm",
            "post_self_attn_layernorm",
            "post_mlp_layernorm",
        ),
        bias_default=True,
        out_follows_bias=False,
        fused_mlp=True,
        head_dim=128,
        num_kv_heads=2,
    ),
}


def decoder(fields: Fields, make: Make) -> Draft:
    """A dense decoder."""
    draft = frame(fields, make)
    hidden, width = draft.hidden_size, fields.integer("intermediate_size")
    if make.fused_mlp:
        draft.add(linear("model.layers.{layer}.mlp.gate_up_proj", 2 * width, hidden, Split.ROWS, draft.layers))
        draft.add(linear("model.layers.{layer}.mlp.down_proj", hidden, width, Split.COLUMNS, draft.layers))
    else:
        has_bias = fields.flag("mlp_bias")
        draft.add(gated_mlp("model.layers.{layer}.mlp", hidden, width, draft.layers, bias=has_bias))
    draft.intermediate_size = width
    return draft


def frame(fields: Fields, make: Make) -> Draft:
    """Everything but the MLPs."""
    num_layers = num_layers_of(fields)
    hidden = fields.integer("hidden_size")
    heads = heads_of(fields, num_heads=make.num_heads, num_kv_heads=make.num_kv_heads, head_dim=make.head_dim)
    vocab = fields.integer("vocab_size", make.vocab)
    tied = fields.flag("tie_word_embeddings", make.tied)
    window, sliding = windows(fields, make, num_layers)
    draft = Draft(
        num_layers=num_layers,
        hidden_size=hidden,
        vocab_size=vocab,
        num_heads=heads.num_heads,
        max_position=fields.integer("max_position_embeddings", make.max_position, least=0),
        is_tied=tied,
        attention=cache(heads, num_layers, window=window, sliding=sliding),
    )
    draft.add(
        ends(
            vocab=vocab,
            hidden=hidden,
            tied=tied,
            embedding="model.embed_tokens",
            final_norm="model.norm",
            norm_bias=make.norm_bias,
        )
    )
    if make.norm_bias and fields.flag("lm_head_bias"):
        draft.add([plain("lm_head.bias", (vocab,), Part.HEAD, Split.VOCABULARY)])
    attention = "model.layers.{layer}.self_attn"
    said = fields.flag("attention_bias", make.bias_default)
    bias = said if make.qkv_bias is None else make.qkv_bias
    out_bias = said if make.qkv_bias is None and make.out_follows_bias else fields.flag("attention_out_bias")
    draft.add(attention_projections(attention, hidden, heads, draft.layers, bias=bias, out_bias=out_bias))
    draft.add(qk_norms(attention, make, heads, draft.layers))
    for name in make.norms:
        draft.add(norm(f"model.layers.{{layer}}.{name}", hidden, draft.layers, bias=make.norm_bias))
    return draft


def qk_norms(prefix: str, make: Make, heads: Heads, layers: Sequence[int]) -> Iterator[Weight]:
    if make.qk_norm:
        is_head = make.qk_norm == "head"
        yield from norm(f"{prefix}.q_norm", heads.head_dim if is_head else heads.query_rows, layers)
        yield from norm(f"{prefix}.k_norm", heads.head_dim if is_head else heads.kv_rows, layers)


def windows(fields: Fields, make: Make, num_layers: int) -> tuple[int, tuple[int, ...]]:
    """The window, and the layers that have it; (0, ()) where none has.

    A window that is no shorter than the context is none.
    """
    if "sliding_window" in fields.raw and fields.raw["sliding_window"] is None:
        return 0, ()
    window = fields.integer("sliding_window", make.window, least=0)
    if not window or (make.window_flag and not fields.flag("use_sliding_window")):
        return 0, ()
    kinds = fields.texts("layer_types")
    if len(kinds) >= num_layers:
        return window, tuple(layer for layer in range(num_layers) if kinds[layer] == "sliding_attention")
    every = fields.integer("sliding_window_pattern", make.every_nth_full, least=0)
    if every:
        return window, tuple(layer for layer in range(num_layers) if (layer + 1) % every)
    first = fields.integer("max_window_layers", 28, least=0) if make.window_flag else 0
    return window, tuple(range(first, num_layers))


_MIXTRAL = Make(qkv_bias=False, num_kv_heads=8)


def mixtral(fields: Fields, make: Make = _MIXTRAL) -> Draft:
    """Mixtral, and Phi's mixture: every layer has experts."""
    draft = frame(fields, make)
    num_experts = fields.integer("num_local_experts", 16 if make.norm_bias else 8, most=MAX_EXPERTS)
    width = fields.integer("intermediate_size", 6400 if make.norm_bias else 14_336)
    prefix = "model.layers.{layer}.block_sparse_moe"
    draft.add(router(f"{prefix}.gate", num_experts, draft.hidden_size, draft.layers))
    draft.add(
        experts(
            f"{prefix}.experts",
            NUMBERED,
            hidden=draft.hidden_size,
            width=width,
            num_experts=num_experts,
            layers=draft.layers,
        )
    )
    draft.set_experts(num_experts, fields.integer("num_experts_per_tok", 2, most=MAX_EXPERTS), width)
    return draft


def phimoe(fields: Fields) -> Draft:
    return mixtral(fields, Make(norm_bias=True, num_kv_heads=8))


def qwen_moe(fields: Fields, make: Make, *, shared: bool) -> Draft:
    """Qwen2-MoE (with a shared expert and its gate) and Qwen3-MoE: some layers may be dense."""
    draft = frame(fields, make)
    hidden = draft.hidden_size
    num_experts = fields.integer("num_experts", 60 if shared else 128, most=MAX_EXPERTS, least=0)
    width = fields.integer("moe_intermediate_size", 1408 if shared else 768)
    step = fields.integer("decoder_sparse_step", 1)
    dense = set(fields.integers("mlp_only_layers"))
    sparse = [layer for layer in draft.layers if layer not in dense and num_experts and not (layer + 1) % step]
    plain_layers = [layer for layer in draft.layers if layer not in set(sparse)]
    prefix = "model.layers.{layer}.mlp"
    if sparse:
        draft.add(router(f"{prefix}.gate", num_experts, hidden, sparse))
        draft.add(
            experts(f"{prefix}.experts", GATED, hidden=hidden, width=width, num_experts=num_experts, layers=sparse)
        )
        if shared:
            draft.add(
                gated_mlp(
                    f"{prefix}.shared_expert", hidden, fields.integer("shared_expert_intermediate_size", 5632), sparse
                )
            )
            draft.add(router(f"{prefix}.shared_expert_gate", 1, hidden, sparse))
    if plain_layers:
        draft.add(gated_mlp(prefix, hidden, fields.integer("intermediate_size"), plain_layers))
    per_token = fields.integer("num_experts_per_tok", 4 if shared else 8, most=MAX_EXPERTS)
    draft.set_experts(num_experts, per_token, width)
    return draft
