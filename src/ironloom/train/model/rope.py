"""Rotary positions in Hugging Face's layout: a head's first half is turned against its second.

The turn is computed in fp32 from real numbers, so that a compiler fuses it with the cast before and after. Complex
numbers, which other trainers use, fall out of the compiler and cost several passes over queries and keys.
Source: https://arxiv.org/abs/2104.09864; Llama 3.1's stretched frequencies as transformers 5,
modeling_rope_utils.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ironloom.train.model.config import Rope


class Turn(NamedTuple):
    """Cosine and sine of each position and pair: L or B × L rows of head_dim / 2 columns, fp32."""

    cos: torch.Tensor
    sin: torch.Tensor


def frequencies(rope: Rope, head_dim: int) -> list[float]:
    """Radians per token of each pair of a head."""
    plain = [rope.theta ** (-2 * pair / head_dim) for pair in range(head_dim // 2)]
    if rope.kind == "linear":
        return [value / rope.factor for value in plain]
    if rope.kind == "llama3":
        return [_stretched(value, rope) for value in plain]
    return plain


def _stretched(value: float, rope: Rope) -> float:
    """Long waves are stretched by the factor, short ones left, those between blended."""
    turns = rope.original_max_position * value / (2 * math.pi)
    if turns >= rope.high_freq_factor:
        return value
    if turns <= rope.low_freq_factor:
        return value / rope.factor
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return (1 - blend) * value / rope.factor + blend * value


class Rotation:
    """Turns for positions, kept for the positions 0 … L-1 that most steps ask for."""

    def __init__(self, rope: Rope, head_dim: int) -> None:
        self._frequencies = frequencies(rope, head_dim)
        self._kept: dict[tuple[int, torch.device], Turn] = {}

    def of(self, length: int, device: torch.device, positions_BL: torch.Tensor | None = None) -> Turn:
        """Of positions 0 … length-1, or of the ones given for each sequence."""
        if positions_BL is not None:
            return self._computed(positions_BL.to(torch.float32), device)
        key = (length, device)
        if key not in self._kept:
            self._kept = {key: self._computed(torch.arange(length, device=device, dtype=torch.float32), device)}
        return self._kept[key]

    def _computed(self, positions: torch.Tensor, device: torch.device) -> Turn:
        with torch.no_grad():
            step = torch.tensor(self._frequencies, device=device, dtype=torch.float32)
            angle = positions[..., None] * step
            return Turn(angle.cos(), angle.sin())


def turned(x_BLHD: torch.Tensor, turn: Turn) -> torch.Tensor:
    """Queries or keys, turned to their positions."""
    cos, sin = turn.cos.unsqueeze(-2), turn.sin.unsqueeze(-2)
    first, second = x_BLHD.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x_BLHD.dtype)
