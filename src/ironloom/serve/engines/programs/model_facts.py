"""What a server must know of a model beside its weights: context length, shapes of the KV cache, special tokens.

From config.json and generation_config.json where the model's folder has them, and from `ironloom.json`, which our own
conversions write (a GGUF has no such files).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ironloom.serve.engines.programs.templates import read_json, special_token

FILE = "ironloom.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """Zero and None: not known."""

    context_length: int = 0
    num_layers: int = 0
    num_kv_heads: int = 0
    head_dim: int = 0
    vocab_size: int = 0
    """Width of the logits, which may be more than the tokenizer has tokens."""
    eos_token_ids: tuple[int, ...] = ()
    special_token_ids: tuple[int, ...] | None = None
    """Tokens that are not shown in text; None: not known, so the tokenizer is asked."""
    bos_token: str | None = None
    eos_token: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As FILE holds it."""
        return asdict(self)


def read_facts(folder: Path) -> ModelFacts:
    """Raises ValueError when a file is no JSON object."""
    own = read_json(folder / FILE)
    if own:
        known = {name: own[name] for name in ModelFacts.__dataclass_fields__ if own.get(name) is not None}
        for name in known.keys() & {"eos_token_ids", "special_token_ids"}:
            known[name] = tuple(known[name])
        return ModelFacts(**known)
    config = read_json(folder / "config.json")
    text: dict[str, Any] = config.get("text_config") or config
    heads = _int(text, "num_attention_heads")
    generation = read_json(folder / "generation_config.json")
    eos = generation.get("eos_token_id", text.get("eos_token_id"))
    return ModelFacts(
        context_length=_int(text, "max_position_embeddings", "n_positions"),
        num_layers=_int(text, "num_hidden_layers", "n_layer"),
        num_kv_heads=_int(text, "num_key_value_heads") or heads,
        head_dim=_int(text, "head_dim") or (_int(text, "hidden_size", "n_embd") // heads if heads else 0),
        vocab_size=_int(text, "vocab_size"),
        eos_token_ids=tuple(eos) if isinstance(eos, list) else (eos,) if isinstance(eos, int) else (),
        bos_token=special_token(folder, "bos_token"),
        eos_token=special_token(folder, "eos_token"),
    )


def _int(config: dict[str, Any], *names: str) -> int:
    return next((config[name] for name in names if isinstance(config.get(name), int)), 0)
