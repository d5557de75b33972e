"""A model's shape from its config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ironloom.errors import ModelCorrupt, ModelRefused
from ironloom.workload.shapes.draft import Draft
from ironloom.workload.shapes.families import gated, gpt_oss, latent, plain, vision
from ironloom.workload.shapes.fields import Fields
from ironloom.workload.shapes.model import DTYPE_BYTES, ModelShape
from ironloom.workload.shapes.quantization import of_config

Family = Callable[[Fields], Draft]
MAX_FACTOR = 10_000
"""Of rope_scaling: no model stretches its positions further."""


def _dense(make: str) -> Family:
    return lambda fields: gated.decoder(fields, gated.MAKES[make])


FAMILIES: Mapping[str, Family] = {
    **{name: _dense(name) for name in gated.MAKES},
    "mixtral": gated.mixtral,
    "phimoe": gated.phimoe,
    "qwen2_moe": lambda fields: gated.qwen_moe(fields, gated.QWEN2, shared=True),
    "qwen3_moe": lambda fields: gated.qwen_moe(fields, gated.QWEN3_MOE, shared=False),
    "deepseek_v2": lambda fields: latent.deepseek(fields, version=2),
    "deepseek_v3": lambda fields: latent.deepseek(fields, version=3),
    "kimi_k2": lambda fields: latent.deepseek(fields, version=3),
    "gpt_oss": gpt_oss.gpt_oss,
    "phi": plain.phi,
    "phi3": plain.phi3,
    "falcon": plain.falcon,
    "RefinedWeb": plain.falcon,
    "RefinedWebModel": plain.falcon,
    "gpt_neox": plain.gpt_neox,
    "starcoder2": plain.starcoder2,
    "gpt_bigcode": lambda fields: plain.gpt2(fields, big_code=True),
    "gpt2": lambda fields: plain.gpt2(fields, big_code=False),
    "opt": plain.opt,
    "gemma3": vision.gemma3,
}
"""By the config's model_type."""

STATE_SPACE = {
    "mamba": "Mamba",
    "mamba2": "Mamba-2",
    "falcon_mamba": "Falcon Mamba",
    "falcon_h1": "Falcon-H1 (attention beside Mamba)",
    "jamba": "Jamba (attention and Mamba)",
    "bamba": "Bamba (attention and Mamba)",
    "zamba": "Zamba (attention and Mamba)",
    "zamba2": "Zamba2 (attention and Mamba)",
    "nemotron_h": "Nemotron-H (attention and Mamba)",
    "granitemoehybrid": "Granite 4 hybrid (attention and Mamba)",
    "plamo2": "PLaMo 2 (attention and Mamba)",
    "rwkv": "RWKV",
    "rwkv6": "RWKV-6",
    "rwkv7": "RWKV-7",
    "xlstm": "xLSTM",
    "recurrent_gemma": "RecurrentGemma (Griffin)",
    "lfm2": "LFM2 (attention and convolutions)",
    "lfm2_moe": "LFM2 (attention and convolutions)",
    "qwen3_next": "Qwen3-Next (attention and gated delta networks)",
    "qwen3_5": "Qwen3.5 (attention and gated delta networks)",
    "qwen3_5_moe": "Qwen3.5 (attention and gated delta networks)",
    "kimi_linear": "Kimi Linear (attention and delta networks)",
    "minimax": "MiniMax-01 (attention and lightning attention)",
}
"""Models whose layers keep a state of fixed size in place of a KV cache, or beside it."""


def shape_of_config(config: Mapping[str, Any], name: str = "", *, source: str = "config.json") -> ModelShape:
    """The shape that a config describes.

    Raises ModelRefused, naming the model's kind, for state-space models and families that are not known; ModelCorrupt
    for fields that are missing, of the wrong type or out of all bounds.
    """
    name = name or str(config.get("_name_or_path") or "the model")
    model_type = str(config.get("model_type") or "")
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    if model_type in STATE_SPACE:
        raise ModelRefused(f"{name} is {STATE_SPACE[model_type]}: a state-space model, whose memory is not modelled")
    fields = Fields(config, name)
    family = FAMILIES.get(model_type)
    if family is None:
        raise ModelRefused(
            f"the tensors of {name} are not known: model_type = {model_type[:60]!r}",
            hint=f"known are {', '.join(sorted(FAMILIES))}",
        )
    draft = family(fields)
    _fits_together(draft, name)
    text = fields.below("text_config") if "text_config" in fields else fields
    dtype = text.text("torch_dtype", text.text("dtype")) or fields.text("torch_dtype", fields.text("dtype", "bfloat16"))
    return ModelShape(
        name=name,
        model_type=model_type,
        architecture=architecture,
        num_layers=draft.num_layers,
        hidden_size=draft.hidden_size,
        vocab_size=draft.vocab_size,
        num_heads=draft.num_heads,
        max_position=scaled_position(draft.max_position, text),
        native_dtype=dtype if dtype in DTYPE_BYTES else "bfloat16",
        is_tied=draft.is_tied,
        attention=draft.attention,
        weights=tuple(draft.weights),
        draft_weights=tuple(draft.draft_weights),
        quantization=of_config(config),
        num_experts=draft.num_experts,
        num_experts_per_token=draft.num_experts_per_token,
        intermediate_size=draft.intermediate_size,
        source=source,
        notes=tuple(draft.notes),
    )


def scaled_position(max_position: int, fields: Fields) -> int:
    """The context with what `rope_scaling` makes of it: the factor times the original context for YaRN, times the
    config's own for linear and dynamic scaling; other kinds say the scaled context themselves.

    Source: vLLM's _get_and_verify_max_len (vllm/config/model.py).
    """
    key = "rope_scaling" if "rope_scaling" in fields else "rope_parameters"
    scaling = fields.below(key)
    kind, factor = scaling.text("rope_type", scaling.text("type")), scaling.raw.get("factor")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 < factor <= MAX_FACTOR:
        return max_position
    if kind == "yarn":
        return int(factor * scaling.integer("original_max_position_embeddings", max_position, least=0))
    return int(factor * max_position) if kind in {"linear", "dynamic"} else max_position


def _fits_together(draft: Draft, name: str) -> None:
    for group in draft.attention:
        if draft.num_heads % group.num_kv_heads:
            raise ModelCorrupt(
                f"the config of {name} has {draft.num_heads} query heads and {group.num_kv_heads} KV heads, "
                "which does not divide them"
            )
