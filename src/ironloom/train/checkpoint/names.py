"""A module's parameters and the tensors of a Hugging Face folder: which ones, and where in a fused parameter.

Our decoder says it for itself; any other module (one of Transformers' classes) has the folder's names already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ironloom.train.model.decoder import LanguageModel
from ironloom.train.model.names import names_of, rows_of


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor of the folder, as rows of a parameter."""

    hf_name: str
    begin: int
    num_rows: int


def base_of(model: torch.nn.Module) -> Any:
    """The module itself, without a wrapper of DDP or of torch.compile."""
    for wrapper in ("module", "_orig_mod"):
        inner = getattr(model, wrapper, None)
        if isinstance(inner, torch.nn.Module):
            return base_of(inner)
    return model


def rows_of_parameter(model: torch.nn.Module, name: str, shape: tuple[int, ...]) -> list[Rows]:
    """The folder's tensors that stand one after the other in a parameter of this plain name; none in an adapter's."""
    base = base_of(model)
    if isinstance(base, LanguageModel) and ".adapter." in name:
        return []
    if not isinstance(base, LanguageModel):
        return [Rows(name, 0, shape[0] if shape else 1)]
    if ".adapter." in name:
        return []
    counts = rows_of(name, base.config) or (shape[0],)
    places = []
    begin = 0
    for hf_name, count in zip(names_of(name, base.config), counts, strict=True):
        places.append(Rows(hf_name, begin, count))
        begin += count
    return places
