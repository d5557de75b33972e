"""A shape while it is put together."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ironloom.workload.shapes.model import Attention, Weight


class Draft(msgspec.Struct, kw_only=True):
    """What a family's function fills in; `config` makes the ModelShape of it."""

    num_layers: int
    hidden_size: int
    vocab_size: int
    num_heads: int
    max_position: int
    is_tied: bool
    attention: tuple[Attention, ...]
    weights: list[Weight] = msgspec.field(default_factory=list)
    draft_weights: list[Weight] = msgspec.field(default_factory=list)
    num_experts: int = 0
    num_experts_per_token: int = 0
    intermediate_size: int = 0
    notes: list[str] = msgspec.field(default_factory=list)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(range(self.num_layers))

    def add(self, weights: Iterable[Weight]) -> None:
        self.weights.extend(weights)

    def set_experts(self, num_experts: int, per_token: int, width: int) -> None:
        self.num_experts, self.num_experts_per_token, self.intermediate_size = num_experts, per_token, width
