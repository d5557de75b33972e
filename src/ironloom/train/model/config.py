"""What the decoder needs to know of a model, read from the `config.json` of Hugging Face.

Sources: transformers 5, models/{llama,mistral,qwen2,qwen3,smollm3,gemma,gemma2,gemma3}/modeling_*.py and
modeling_rope_utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ironloom.errors import ModelRefused

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "gemma3_text")
"""The values of model_type that are known here."""
ROPE_TYPES = ("default", "linear", "llama3")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rope:
    """How positions turn queries and keys."""

    theta: float = 10000.0
    kind: str = "default"
    """One of ROPE_TYPES."""
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192
    """Tokens; the three above and this are Llama 3.1's, of kind `llama3`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """What differs from layer to layer."""

    window: int = 0
    """Tokens that a query sees, itself among them; 0 is all before it."""
    has_rope: bool = True
    is_local: bool = False
    """Turned by `ModelConfig.local_rope` where there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A decoder of the Llama family. The defaults are Llama's."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    layers: tuple[Layer, ...]
    norm_eps: float = 1e-6
    rope: Rope = field(default_factory=Rope)
    local_rope: Rope | None = None
    """Of the layers with a window, where theirs is another (Gemma 3)."""
    is_tied: bool = False
    has_qkv_bias: bool = False
    has_out_bias: bool = False
    has_mlp_bias: bool = False
    has_qk_norm: bool = False
    is_gelu: bool = False
    """GELU's tanh form in place of SiLU."""
    norm_offset: float = 0.0
    """Added to the norms' weights: Gemma stores them less 1."""
    has_post_norms: bool = False
    """Norms after attention and after the MLP too (Gemma 2 and 3)."""
    embedding_scale: float = 1.0
    attention_scale: float = 0.0
    """Of the scores; 0 is head_dim ** -0.5."""
    attention_softcap: float = 0.0
    """Scores s become cap · tanh(s / cap); 0 leaves them."""
    logit_softcap: float = 0.0
    initializer_range: float = 0.02

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def query_rows(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_rows(self) -> int:
        return self.num_kv_heads * self.head_dim


def read(config: Mapping[str, Any]) -> ModelConfig:
    """The decoder that a config.json describes.

    Raises ModelRefused for a family, an activation or a rope that is not known here, with what is.
    """
    family = str(config.get("model_type", ""))
    if family not in FAMILIES:
        raise ModelRefused(
            f"config.json: model_type is {family or 'missing'}, which this trainer has no module for",
            hint=f"known: {', '.join(FAMILIES)}",
        )
    heads = int(config["num_attention_heads"])
    hidden = int(config["hidden_size"])
    is_gemma = family.startswith("gemma")
    has_post_norms = family in ("gemma2", "gemma3_text")
    head_dim = int(config.get("head_dim") or (256 if is_gemma else hidden // heads))
    scalar = config.get("query_pre_attn_scalar") if has_post_norms else None
    has_bias = bool(config.get("attention_bias", False))
    main, local = _ropes(config, family)
    return ModelConfig(
        model_type=family,
        vocab_size=int(config["vocab_size"]),
        hidden_size=hidden,
        intermediate_size=int(config["intermediate_size"]),
        num_heads=heads,
        num_kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        layers=_layers(config, family),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope=main,
        local_rope=local,
        is_tied=bool(config.get("tie_word_embeddings", is_gemma)),
        has_qkv_bias=family == "qwen2" or has_bias,
        has_out_bias=has_bias and family != "qwen2",
        has_mlp_bias=bool(config.get("mlp_bias", False)),
        has_qk_norm=family in ("qwen3", "gemma3_text"),
        is_gelu=_is_gelu(config, is_gemma=is_gemma),
        norm_offset=1.0 if is_gemma else 0.0,
        has_post_norms=has_post_norms,
        embedding_scale=hidden**0.5 if is_gemma else 1.0,
        attention_scale=float(scalar) ** -0.5 if scalar else 0.0,
        attention_softcap=float(config.get("attn_logit_softcapping") or 0) if family == "gemma2" else 0.0,
        logit_softcap=float(config.get("final_logit_softcapping") or 0) if has_post_norms else 0.0,
        initializer_range=float(config.get("initializer_range", 0.02)),
    )


def _is_gelu(config: Mapping[str, Any], *, is_gemma: bool) -> bool:
    key = "hidden_activation" if is_gemma else "hidden_act"
    name = str(config.get(key) or ("gelu_pytorch_tanh" if is_gemma else "silu"))
    if name not in ("silu", "gelu_pytorch_tanh"):
        raise ModelRefused(f"config.json: {key} is {name}", hint="known: silu, gelu_pytorch_tanh")
    return name != "silu"


def _layers(config: Mapping[str, Any], family: str) -> tuple[Layer, ...]:
    num_layers = int(config["num_hidden_layers"])
    window = int(config.get("sliding_window") or 0)
    has_rope = config.get("no_rope_layers") or [1] * num_layers
    is_local = [kind == "sliding_attention" for kind in _kinds(config, family, num_layers)]
    return tuple(
        Layer(window=window if local else 0, has_rope=bool(rope), is_local=local)
        for local, rope in zip(is_local, has_rope, strict=True)
    )


def _kinds(config: Mapping[str, Any], family: str, num_layers: int) -> list[str]:
    """`full_attention` or `sliding_attention` of each layer."""
    named = config.get("layer_types")
    if named:
        return [str(kind) for kind in named]
    if family == "mistral":
        is_local = [bool(config.get("sliding_window"))] * num_layers
    elif family == "gemma2":
        is_local = [index % 2 == 0 for index in range(num_layers)]
    elif family == "gemma3_text":
        pattern = int(config.get("sliding_window_pattern") or 6)
        is_local = [(index + 1) % pattern != 0 for index in range(num_layers)]
    elif config.get("use_sliding_window"):
        first = int(config.get("max_window_layers") or 0)
        is_local = [index >= first for index in range(num_layers)]
    else:
        is_local = [False] * num_layers
    return ["sliding_attention" if local else "full_attention" for local in is_local]


def _ropes(config: Mapping[str, Any], family: str) -> tuple[Rope, Rope | None]:
    """Transformers 5 writes rope_parameters, by kind of layer where there are two; before, rope_theta and
    rope_scaling stood apart."""
    new = config.get("rope_parameters")
    if isinstance(new, Mapping) and "full_attention" in new:
        return _rope(new["full_attention"], config), _rope(new["sliding_attention"], config)
    if isinstance(new, Mapping):
        return _rope(new, config), None
    old = {**(config.get("rope_scaling") or {}), "rope_theta": config.get("rope_theta")}
    if family == "gemma3_text":
        old["rope_theta"] = config.get("rope_theta", 1e6)
        return _rope(old, config), Rope(theta=float(config.get("rope_local_base_freq", 10000.0)))
    return _rope(old, config), None


def _rope(found: Mapping[str, Any], config: Mapping[str, Any]) -> Rope:
    kind = str(found.get("rope_type") or found.get("type") or "default")
    if kind not in ROPE_TYPES:
        raise ModelRefused(f"config.json: the rope's type is {kind}", hint=f"known: {', '.join(ROPE_TYPES)}")
    original = found.get("original_max_position_embeddings") or config.get("max_position_embeddings") or 8192
    return Rope(
        theta=float(found.get("rope_theta") or config.get("rope_theta") or 10000.0),
        kind=kind,
        factor=float(found.get("factor") or 1.0),
        low_freq_factor=float(found.get("low_freq_factor") or 1.0),
        high_freq_factor=float(found.get("high_freq_factor") or 4.0),
        original_max_position=int(original),
    )
