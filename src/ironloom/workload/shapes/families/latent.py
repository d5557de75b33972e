"""DeepSeek V2 and V3: latent attention (MLA), many experts, some of them shared.

Sources: transformers 5.19, models/deepseek_v2 and deepseek_v3 (modeling_*.py); the router's correction bias is a
buffer there and a tensor of the checkpoint (deepseek-ai/DeepSeek-V3, model.safetensors.index.json).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ironloom.workload.shapes.draft import Draft
from ironloom.workload.shapes.families.gated import GATED
from ironloom.workload.shapes.fields import MAX_EXPERTS, Fields, num_layers_of
from ironloom.workload.shapes.model import Attention, AttentionKind, Split, Weight
from ironloom.workload.shapes.parts import ends, experts, gated_mlp, linear, norm, router

LAYER = "model.layers.{layer}"


def deepseek(fields: Fields, *, version: int) -> Draft:
    num_layers = num_layers_of(fields)
    hidden = fields.integer("hidden_size")
    vocab = fields.integer("vocab_size")
    num_heads = fields.integer("num_attention_heads")
    latent = fields.integer("kv_lora_rank", 512)
    rotary = fields.integer("qk_rope_head_dim", 64)
    tied = fields.flag("tie_word_embeddings")
    every = tuple(range(num_layers))
    draft = Draft(
        num_layers=num_layers,
        hidden_size=hidden,
        vocab_size=vocab,
        num_heads=num_heads,
        max_position=fields.integer("max_position_embeddings", 0, least=0),
        is_tied=tied,
        attention=(
            Attention(kind=AttentionKind.LATENT, layers=every, num_kv_heads=1, key_dim=latent + rotary, value_dim=0),
        ),
    )
    draft.add(ends(vocab=vocab, hidden=hidden, tied=tied, embedding="model.embed_tokens", final_norm="model.norm"))
    first = fields.integer("first_k_dense_replace", 3 if version == 3 else 0, least=0)
    step = fields.integer("moe_layer_freq", 1)
    sparse = [layer for layer in every if layer >= first and layer % step == 0]
    dense = [layer for layer in every if layer not in set(sparse)]
    draft.add(_attention(fields, every))
    if sparse:
        draft.add(_experts(fields, version, sparse))
    if dense:
        draft.add(gated_mlp(f"{LAYER}.mlp", hidden, fields.integer("intermediate_size"), dense))
    num_experts, _, width = _sizes(fields, version)
    draft.set_experts(num_experts, fields.integer("num_experts_per_tok", 8 if version == 3 else 6), width)
    ahead = fields.integer("num_nextn_predict_layers", 0, least=0, most=64)
    if ahead:
        draft.draft_weights.extend(_ahead(fields, version, range(num_layers, num_layers + ahead)))
        draft.notes.append("its layers for multi-token prediction are in its files alone: they load with speculation")
    return draft


def _attention(fields: Fields, layers: Sequence[int]) -> Iterator[Weight]:
    """Latent attention with the norms of the layer."""
    hidden, num_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    latent = fields.integer("kv_lora_rank", 512)
    rotary = fields.integer("qk_rope_head_dim", 64)
    plain = fields.integer("qk_nope_head_dim", 128)
    value = fields.integer("v_head_dim", 128)
    bias = fields.flag("attention_bias")
    prefix, query_rows = f"{LAYER}.self_attn", num_heads * (plain + rotary)
    is_compressed = "q_lora_rank" in fields or ("q_lora_rank" not in fields.raw)
    if is_compressed:
        rank = fields.integer("q_lora_rank", 1536)
        yield from linear(f"{prefix}.q_a_proj", rank, hidden, Split.WHOLE, layers, bias=bias)
        yield from norm(f"{prefix}.q_a_layernorm", rank, layers)
        yield from linear(f"{prefix}.q_b_proj", query_rows, rank, Split.ROWS, layers)
    else:
        yield from linear(f"{prefix}.q_proj", query_rows, hidden, Split.ROWS, layers)
    yield from linear(f"{prefix}.kv_a_proj_with_mqa", latent + rotary, hidden, Split.WHOLE, layers, bias=bias)
    yield from norm(f"{prefix}.kv_a_layernorm", latent, layers)
    yield from linear(f"{prefix}.kv_b_proj", num_heads * (plain + value), latent, Split.ROWS, layers)
    yield from linear(f"{prefix}.o_proj", hidden, num_heads * value, Split.COLUMNS, layers, bias=bias)
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield from norm(f"{LAYER}.{name}", hidden, layers)


def _sizes(fields: Fields, version: int) -> tuple[int, int, int]:
    """Experts of a layer, those that every token meets, and the width of one."""
    return (
        fields.integer("n_routed_experts", 256 if version == 3 else 64, most=MAX_EXPERTS),
        fields.integer("n_shared_experts", 1 if version == 3 else 2, most=MAX_EXPERTS, least=0),
        fields.integer("moe_intermediate_size", 2048 if version == 3 else 1407),
    )


def _experts(fields: Fields, version: int, layers: Sequence[int]) -> Iterator[Weight]:
    hidden, mlp = fields.integer("hidden_size"), f"{LAYER}.mlp"
    num_experts, num_shared, width = _sizes(fields, version)
    yield from router(f"{mlp}.gate", num_experts, hidden, layers)
    if version == 3:
        yield Weight(name=f"{mlp}.gate.e_score_correction_bias", shape=(num_experts,), layers=tuple(layers))
    yield from experts(f"{mlp}.experts", GATED, hidden=hidden, width=width, num_experts=num_experts, layers=layers)
    if num_shared:
        yield from gated_mlp(f"{mlp}.shared_experts", hidden, num_shared * width, layers)


def _ahead(fields: Fields, version: int, layers: Sequence[int]) -> Iterator[Weight]:
    """Layers for multi-token prediction: each a layer with experts, a projection of two hidden states to one, and
    copies of the embedding and the head in the files.

    Source: deepseek-ai/DeepSeek-V3, README_WEIGHTS.md and model.safetensors.index.json.
    """
    hidden, vocab = fields.integer("hidden_size"), fields.integer("vocab_size")
    yield from _attention(fields, layers)
    yield from _experts(fields, version, layers)
    for name in ("enorm", "hnorm", "shared_head.norm"):
        yield from norm(f"{LAYER}.{name}", hidden, layers)
    for name, shape in (
        ("eh_proj", (hidden, 2 * hidden)),
        ("embed_tokens", (vocab, hidden)),
        ("shared_head.head", (vocab, hidden)),
    ):
        yield Weight(name=f"{LAYER}.{name}.weight", shape=shape, layers=tuple(layers))
