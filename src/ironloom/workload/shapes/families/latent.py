"""DeepSeek V2 and V3: latent attention (MLA), many experts, some of them shared.

Sources: transformers 5.19, models/deepseek_v2 and deepseek_v3 (modeling_*.py); the router's correction bias is a
buffer there and a tensor of the checkpoint (deepseek-ai/DeepSeek-V3, model.safetensors.index.json).
"""

from __future__ import annotations

from ironloom.workload.shapes.draft import Draft
from ironloom.workload.shapes.families.gated import GATED
from ironloom.workload.shapes.fields import MAX_EXPERTS, Fields, num_layers_of
from ironloom.workload.shapes.model import Attention, AttentionKind, Split, Weight
from ironloom.workload.shapes.parts import ends, experts, gated_mlp, linear, norm, router


def deepseek(fields: Fields, *, version: int) -> Draft:
    num_layers = num_layers_of(fields)
    hidden = fields.integer("hidden_size")
    vocab = fields.integer("vocab_size")
    num_heads = fields.integer("num_attention_heads")
    latent = fields.integer("kv_lora_rank", 512)
    rotary = fields.integer("qk_rope_head_dim", 64)
    plain = fields.integer("qk_nope_head_dim", 128)
    value = fields.integer("v_head_dim", 128)
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
    prefix = "model.layers.{layer}.self_attn"
    bias = fields.flag("attention_bias")
    query_rows = num_heads * (plain + rotary)
    is_compressed = "q_lora_rank" in fields or ("q_lora_rank" not in fields.raw)
    if is_compressed:
        rank = fields.integer("q_lora_rank", 1536)
        draft.add(linear(f"{prefix}.q_a_proj", rank, hidden, Split.WHOLE, every, bias=bias))
        draft.add(norm(f"{prefix}.q_a_layernorm", rank, every))
        draft.add(linear(f"{prefix}.q_b_proj", query_rows, rank, Split.ROWS, every))
    else:
        draft.add(linear(f"{prefix}.q_proj", query_rows, hidden, Split.ROWS, every))
    draft.add(linear(f"{prefix}.kv_a_proj_with_mqa", latent + rotary, hidden, Split.WHOLE, every, bias=bias))
    draft.add(norm(f"{prefix}.kv_a_layernorm", latent, every))
    draft.add(linear(f"{prefix}.kv_b_proj", num_heads * (plain + value), latent, Split.ROWS, every))
    draft.add(linear(f"{prefix}.o_proj", hidden, num_heads * value, Split.COLUMNS, every, bias=bias))
    for name in ("input_layernorm", "post_attention_layernorm"):
        draft.add(norm(f"model.layers.{{layer}}.{name}", hidden, every))

    num_experts = fields.integer("n_routed_experts", 256 if version == 3 else 64, most=MAX_EXPERTS)
    num_shared = fields.integer("n_shared_experts", 1 if version == 3 else 2, most=MAX_EXPERTS, least=0)
    width = fields.integer("moe_intermediate_size", 2048 if version == 3 else 1407)
    first = fields.integer("first_k_dense_replace", 3 if version == 3 else 0, least=0)
    step = fields.integer("moe_layer_freq", 1)
    sparse = [layer for layer in every if layer >= first and layer % step == 0]
    dense = [layer for layer in every if layer not in set(sparse)]
    mlp = "model.layers.{layer}.mlp"
    if sparse:
        draft.add(router(f"{mlp}.gate", num_experts, hidden, sparse))
        if version == 3:
            draft.add([Weight(name=f"{mlp}.gate.e_score_correction_bias", shape=(num_experts,), layers=tuple(sparse))])
        draft.add(experts(f"{mlp}.experts", GATED, hidden=hidden, width=width, num_experts=num_experts, layers=sparse))
        if num_shared:
            draft.add(gated_mlp(f"{mlp}.shared_experts", hidden, num_shared * width, sparse))
    if dense:
        draft.add(gated_mlp(mlp, hidden, fields.integer("intermediate_size"), dense))
    draft.set_experts(num_experts, fields.integer("num_experts_per_tok", 8 if version == 3 else 6), width)
    if fields.integer("num_nextn_predict_layers", 0, least=0, most=64):
        draft.notes.append("its layers for multi-token prediction are not counted: they load with speculation alone")
    return draft
