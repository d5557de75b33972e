"""How an embedding model's vectors are made of its last hidden states: what its sentence-transformers files say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from ironloom.serve.engines.programs.templates import read_json


class Pooling(StrEnum):
    """Which of a text's hidden states become its vector."""

    CLS = "cls"
    MEAN = "mean"
    LAST_TOKEN = "lasttoken"


_FLAGS = {
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_lasttoken": Pooling.LAST_TOKEN,
}
_MODULES = frozenset({"Transformer", "Pooling", "Normalize"})


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorForm:
    """From hidden states to a vector."""

    pooling: Pooling = Pooling.MEAN
    normalized: bool = False
    """Scaled to the length 1."""
    shortens: bool = False
    """The first so many numbers of a vector are a vector too (Matryoshka representation learning)."""
    lengths: tuple[int, ...] = ()
    """The only lengths that it was trained for, beside its own; empty: any."""

    def why_not(self, dimensions: int, own_length: int) -> str | None:
        """None when vectors can have so many numbers, else the reason."""
        if dimensions == own_length:
            return None
        if not self.shortens:
            return f"this model's vectors have {own_length} numbers, and its config.json declares no shorter form"
        if self.lengths and dimensions not in self.lengths:
            return f"this model's vectors can have {', '.join(map(str, self.lengths))} or {own_length} numbers"
        return None if dimensions < own_length else f"this model's vectors have {own_length} numbers"


def read_form(model: Path) -> VectorForm:
    """What the folder's files say; mean pooling, sentence-transformers' own, where they say nothing.

    A shorter form is declared as vLLM reads it: `is_matryoshka` or `matryoshka_dimensions` in config.json.
    Raises ValueError for a pooling or a module that is not there.
    """
    config = read_json(model / "config.json")
    lengths = config.get("matryoshka_dimensions")
    known = tuple(each for each in lengths if type(each) is int) if isinstance(lengths, list) else ()
    return VectorForm(
        pooling=_pooling(read_json(model / "1_Pooling" / "config.json")),
        normalized="Normalize" in _modules(model / "modules.json"),
        shortens=config.get("is_matryoshka") is True or bool(known),
        lengths=known,
    )


def _pooling(config: dict[str, Any]) -> Pooling:
    wanted = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    if not wanted and isinstance(config.get("pooling_mode"), str):
        wanted = [f"pooling_mode_{config['pooling_mode']}"]
    if not wanted:
        return Pooling.MEAN
    found = _FLAGS.get(wanted[0]) or _FLAGS.get(f"{wanted[0]}_token") or _FLAGS.get(f"{wanted[0]}_tokens")
    if len(wanted) > 1 or found is None:
        raise ValueError(f"the model pools by {' and '.join(wanted)}, which is not there")
    return found


def _modules(file: Path) -> list[str]:
    """The kinds of sentence-transformers' modules, in their order."""
    try:
        modules = msgspec.json.decode(file.read_bytes())
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    except FileNotFoundError:
        return []
    except (msgspec.DecodeError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is no list of modules: {error}") from error
    strange = [kind for kind in kinds if kind not in _MODULES]
    if strange:
        raise ValueError(f"the model's vectors go through {' and '.join(strange)} (modules.json), which is not there")
    return kinds
