"""Decoders with a plain MLP, layer norms with biases, and often one tensor for queries, keys and values.

Sources: transformers 5.19, models/{phi,phi3,falcon,gpt_neox,gpt_bigcode,starcoder2,opt,gpt2}/modeling_*.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from ironloom.errors import ModelRefused
from ironloom.workload.shapes.draft import Draft
from ironloom.workload.shapes.families.gated import Make, windows
from ironloom.workload.shapes.fields import Fields, num_layers_of
from ironloom.workload.shapes.model import Part, Split
from ironloom.workload.shapes.parts import (
    Heads,
    attention_projections,
    cache,
    ends,
    heads_of,
    linear,
    norm,
    plain,
)


def _draft(fields: Fields, heads: Heads, *, num_layers: int, hidden: int, tied: bool, max_position: int) -> Draft:
    return Draft(
        num_layers=num_layers,
        hidden_size=hidden,
        vocab_size=fields.integer("vocab_size"),
        num_heads=heads.num_heads,
        max_position=max_position,
        is_tied=tied,
        attention=cache(heads, num_layers),
    )


def _equal_heads(fields: Fields, num_heads: int | None = None) -> Heads:
    """As many KV heads as query heads, whatever else the config says."""
    num_heads = fields.integer("num_attention_heads", num_heads)
    head_dim = max(1, fields.integer("hidden_size") // num_heads)
    return Heads(num_heads=num_heads, num_kv_heads=num_heads, head_dim=head_dim)


def _two(draft: Draft, up: str, down: str, width: int, *, bias: bool = True) -> None:
    """An MLP of two products."""
    draft.add(linear(up, width, draft.hidden_size, Split.ROWS, draft.layers, bias=bias))
    draft.add(linear(down, draft.hidden_size, width, Split.COLUMNS, draft.layers, bias=bias))
    draft.intermediate_size = width


def _fused(draft: Draft, name: str, out: str, heads: Heads, *, bias: bool) -> None:
    """Queries, keys and values in one product, and the way back."""
    rows = heads.query_rows + 2 * heads.kv_rows
    draft.add(linear(name, rows, draft.hidden_size, Split.QKV_ROWS, draft.layers, bias=bias))
    draft.add(linear(out, draft.hidden_size, heads.query_rows, Split.COLUMNS, draft.layers, bias=bias))


def _norms(draft: Draft, names: Sequence[str]) -> None:
    for name in names:
        draft.add(norm(name, draft.hidden_size, draft.layers, bias=True))


def phi(fields: Fields) -> Draft:
    """Phi-1 to Phi-2."""
    heads = heads_of(fields)
    tied = fields.flag("tie_word_embeddings")
    draft = _draft(
        fields,
        heads,
        num_layers=num_layers_of(fields),
        hidden=fields.integer("hidden_size"),
        tied=tied,
        max_position=fields.integer("max_position_embeddings", 2048),
    )
    draft.add(
        ends(
            vocab=draft.vocab_size,
            hidden=draft.hidden_size,
            tied=tied,
            embedding="model.embed_tokens",
            final_norm="model.final_layernorm",
            norm_bias=True,
        )
    )
    draft.add([plain("lm_head.bias", (draft.vocab_size,), Part.HEAD, Split.VOCABULARY)])
    attention = "model.layers.{layer}.self_attn"
    draft.add(attention_projections(attention, draft.hidden_size, heads, draft.layers, bias=True, out="dense"))
    if fields.flag("qk_layernorm"):
        for name in ("q_layernorm", "k_layernorm"):
            draft.add(norm(f"{attention}.{name}", heads.head_dim, draft.layers, bias=True))
    _two(draft, "model.layers.{layer}.mlp.fc1", "model.layers.{layer}.mlp.fc2", fields.integer("intermediate_size"))
    _norms(draft, ["model.layers.{layer}.input_layernorm"])
    return draft


def phi3(fields: Fields) -> Draft:
    """Phi-3, Phi-3.5 and Phi-4: one product for queries, keys and values, one for gate and up; no biases."""
    heads = heads_of(fields)
    tied = fields.flag("tie_word_embeddings")
    num_layers, hidden = num_layers_of(fields), fields.integer("hidden_size")
    window, sliding = windows(fields, Make(), num_layers)
    draft = _draft(
        fields,
        heads,
        num_layers=num_layers,
        hidden=hidden,
        tied=tied,
        max_position=fields.integer("max_position_embeddings", 4096),
    )
    if window and window < draft.max_position:
        draft.attention = cache(heads, num_layers, window=window, sliding=sliding)
    draft.add(
        ends(vocab=draft.vocab_size, hidden=hidden, tied=tied, embedding="model.embed_tokens", final_norm="model.norm")
    )
    _fused(draft, "model.layers.{layer}.self_attn.qkv_proj", "model.layers.{layer}.self_attn.o_proj", heads, bias=False)
    width = fields.integer("intermediate_size")
    draft.add(linear("model.layers.{layer}.mlp.gate_up_proj", 2 * width, hidden, Split.ROWS, draft.layers))
    draft.add(linear("model.layers.{layer}.mlp.down_proj", hidden, width, Split.COLUMNS, draft.layers))
    draft.intermediate_size = width
    for name in ("input_layernorm", "post_attention_layernorm"):
        draft.add(norm(f"model.layers.{{layer}}.{name}", hidden, draft.layers))
    return draft


def falcon(fields: Fields) -> Draft:
    """Falcon 7B, 40B and 180B: three ways to place keys, values and norms."""
    num_layers = num_layers_of(fields, "n_layer" if "n_layer" in fields else "num_hidden_layers", 32)
    hidden = fields.integer("hidden_size", 4544)
    num_heads = fields.integer("n_head" if "n_head" in fields else "num_attention_heads", 71)
    is_new = fields.flag("new_decoder_architecture")
    if is_new:
        key = "n_head_kv" if "n_head_kv" in fields else "num_kv_heads"
        num_kv_heads = fields.integer(key, num_heads)
    else:
        num_kv_heads = 1 if fields.flag("multi_query", True) else num_heads
    heads = Heads(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=max(1, hidden // num_heads))
    tied, bias = fields.flag("tie_word_embeddings", True), fields.flag("bias")
    max_position = fields.integer("max_position_embeddings", 2048)
    draft = _draft(fields, heads, num_layers=num_layers, hidden=hidden, tied=tied, max_position=max_position)
    draft.add(
        ends(
            vocab=draft.vocab_size,
            hidden=hidden,
            tied=tied,
            embedding="transformer.word_embeddings",
            final_norm="transformer.ln_f",
            norm_bias=True,
        )
    )
    layer = "transformer.h.{layer}"
    _fused(draft, f"{layer}.self_attention.query_key_value", f"{layer}.self_attention.dense", heads, bias=bias)
    width = fields.integer("ffn_hidden_size", 4 * hidden)
    _two(draft, f"{layer}.mlp.dense_h_to_4h", f"{layer}.mlp.dense_4h_to_h", width, bias=bias)
    num_norms = fields.integer("num_ln_in_parallel_attn", 2 if is_new else 1)
    is_parallel = fields.flag("parallel_attn", True)
    if is_new and num_norms == 2:
        _norms(draft, [f"{layer}.ln_attn", f"{layer}.ln_mlp"])
    else:
        _norms(draft, [f"{layer}.input_layernorm"])
        if not is_parallel:
            _norms(draft, [f"{layer}.post_attention_layernorm"])
    return draft


def gpt_neox(fields: Fields) -> Draft:
    heads = _equal_heads(fields)
    tied = fields.flag("tie_word_embeddings")
    draft = _draft(
        fields,
        heads,
        num_layers=num_layers_of(fields),
        hidden=fields.integer("hidden_size"),
        tied=tied,
        max_position=fields.integer("max_position_embeddings", 2048),
    )
    draft.add(
        ends(
            vocab=draft.vocab_size,
            hidden=draft.hidden_size,
            tied=tied,
            embedding="gpt_neox.embed_in",
            final_norm="gpt_neox.final_layer_norm",
            head="embed_out",
            norm_bias=True,
        )
    )
    layer = "gpt_neox.layers.{layer}"
    _fused(
        draft,
        f"{layer}.attention.query_key_value",
        f"{layer}.attention.dense",
        heads,
        bias=fields.flag("attention_bias", True),
    )
    _two(draft, f"{layer}.mlp.dense_h_to_4h", f"{layer}.mlp.dense_4h_to_h", fields.integer("intermediate_size"))
    _norms(draft, [f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"])
    return draft


def starcoder2(fields: Fields) -> Draft:
    heads = heads_of(fields, num_kv_heads=2)
    tied, bias = fields.flag("tie_word_embeddings", True), fields.flag("use_bias", True)
    num_layers = num_layers_of(fields)
    draft = _draft(
        fields,
        heads,
        num_layers=num_layers,
        hidden=fields.integer("hidden_size"),
        tied=tied,
        max_position=fields.integer("max_position_embeddings", 4096),
    )
    window, sliding = windows(fields, Make(), num_layers)
    draft.attention = cache(heads, num_layers, window=window, sliding=sliding)
    draft.add(
        ends(
            vocab=draft.vocab_size,
            hidden=draft.hidden_size,
            tied=tied,
            embedding="model.embed_tokens",
            final_norm="model.norm",
            norm_bias=True,
        )
    )
    layer = "model.layers.{layer}"
    draft.add(attention_projections(f"{layer}.self_attn", draft.hidden_size, heads, draft.layers, bias=bias))
    _two(draft, f"{layer}.mlp.c_fc", f"{layer}.mlp.c_proj", fields.integer("intermediate_size"), bias=bias)
    _norms(draft, [f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"])
    return draft


def gpt2(fields: Fields, *, big_code: bool) -> Draft:
    """GPT-2, and GPT-BigCode (StarCoder, SantaCoder): learned positions, one KV head where multi_query says so."""
    num_layers, hidden = num_layers_of(fields, "n_layer", 12), fields.integer("n_embd", 768)
    num_heads = fields.integer("n_head", 12)
    num_kv_heads = 1 if big_code and fields.flag("multi_query", True) else num_heads
    heads = Heads(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=max(1, hidden // num_heads))
    tied = fields.flag("tie_word_embeddings", True)
    positions = fields.integer("n_positions", 1024)
    draft = _draft(fields, heads, num_layers=num_layers, hidden=hidden, tied=tied, max_position=positions)
    draft.add(
        ends(
            vocab=draft.vocab_size,
            hidden=hidden,
            tied=tied,
            embedding="transformer.wte",
            final_norm="transformer.ln_f",
            norm_bias=True,
        )
    )
    draft.add([plain("transformer.wpe.weight", (positions, hidden), Part.EMBEDDING)])
    layer = "transformer.h.{layer}"
    _fused(draft, f"{layer}.attn.c_attn", f"{layer}.attn.c_proj", heads, bias=True)
    _two(draft, f"{layer}.mlp.c_fc", f"{layer}.mlp.c_proj", fields.integer("n_inner", 4 * hidden))
    _norms(draft, [f"{layer}.ln_1", f"{layer}.ln_2"])
    return draft


def opt(fields: Fields) -> Draft:
    """OPT, whose smallest one is in many examples. Its 350M form, with projections at the ends, is refused."""
    hidden = fields.integer("hidden_size", 768)
    if fields.integer("word_embed_proj_dim", hidden) != hidden or not fields.flag("do_layer_norm_before", True):
        raise ModelRefused(f"{fields.name} is the 350M form of OPT, whose tensors are not known here")
    heads = _equal_heads(fields, 12)
    tied, bias = fields.flag("tie_word_embeddings", True), fields.flag("enable_bias", True)
    positions = fields.integer("max_position_embeddings", 2048)
    draft = _draft(fields, heads, num_layers=num_layers_of(fields), hidden=hidden, tied=tied, max_position=positions)
    draft.add(
        ends(
            vocab=draft.vocab_size,
            hidden=hidden,
            tied=tied,
            embedding="model.decoder.embed_tokens",
            final_norm="model.decoder.final_layer_norm",
            norm_bias=True,
        )
    )
    # Two rows before the first position, from the padding token of fairseq.
    draft.add([plain("model.decoder.embed_positions.weight", (positions + 2, hidden), Part.EMBEDDING)])
    layer = "model.decoder.layers.{layer}"
    draft.add(attention_projections(f"{layer}.self_attn", hidden, heads, draft.layers, bias=bias, out="out_proj"))
    _two(draft, f"{layer}.fc1", f"{layer}.fc2", fields.integer("ffn_dim", 3072), bias=bias)
    _norms(draft, [f"{layer}.self_attn_layer_norm", f"{layer}.final_layer_norm"])
    return draft
