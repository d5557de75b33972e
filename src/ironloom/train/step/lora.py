"""LoRA: two small matrices beside each chosen linear layer, which alone are trained; in PEFT's format on disk.

A fused layer holds several of the checkpoint's. Each of those that is chosen has its own pair; their first matrices lie
in one, so that the product with the input is one. Sources: https://arxiv.org/abs/2106.09685 and
https://github.com/huggingface/peft/blob/main/src/peft/tuners/lora/layer.py (names, scale, initialisation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ironloom.errors import UsageError
from ironloom.train.model.decoder import LanguageModel
from ironloom.train.model.layers import Linear
from ironloom.train.model.names import names_of
from ironloom.workload.training import Lora


class Adapter(nn.Module):
    """The pairs of one linear layer: `b · a · x · alpha / rank` for each part that is chosen."""

    def __init__(self, layer: Linear, is_chosen: tuple[bool, ...], lora: Lora, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.parts, self.is_chosen, self.rank = layer.parts, is_chosen, lora.rank
        self.scale, self.dropout = lora.alpha / lora.rank, lora.dropout
        kind = {"device": next(layer.parameters()).device, "dtype": dtype or layer.weight.dtype}
        self.a = nn.Parameter(torch.empty(sum(is_chosen) * lora.rank, layer.in_features, **kind))
        self.b = nn.Parameter(torch.empty(sum(self._rows()), lora.rank, **kind))

    def _rows(self) -> list[int]:
        return [rows for rows, chosen in zip(self.parts, self.is_chosen, strict=True) if chosen]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.dropout(x, self.dropout, self.training) if self.dropout else x
        inner = iter(functional.linear(x, self.a).split(self.rank, dim=-1))
        outer = iter(self.b.split(self._rows()))
        made = [
            functional.linear(next(inner), next(outer)) if chosen else x.new_zeros((*x.shape[:-1], rows))
            for rows, chosen in zip(self.parts, self.is_chosen, strict=True)
        ]
        return (torch.cat(made, dim=-1) if len(made) > 1 else made[0]) * self.scale

    def pairs(self, a: torch.Tensor, b: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """Each chosen part's number and its two matrices, out of whole `a` and `b`."""
        numbers = [number for number, chosen in enumerate(self.is_chosen) if chosen]
        yield from zip(numbers, a.split(self.rank), b.split(self._rows()), strict=True)


@dataclass(frozen=True, slots=True)
class Delta:
    """One of the checkpoint's matrices and what is added to it: `scale · b · a`."""

    hf_name: str
    a: torch.Tensor
    b: torch.Tensor
    scale: float

    @property
    def product(self) -> torch.Tensor:
        return (self.b.float() @ self.a.float()) * self.scale


def add_adapters(model: LanguageModel, lora: Lora, *, dtype: torch.dtype | None = None) -> LanguageModel:
    """Freezes the model and puts adapters beside the chosen layers, in place; before it is laid out.

    `dtype` is of the adapters; None is the layer's own. They are not filled yet: `reset_adapters`, or a checkpoint.
    Raises UsageError for a target that the model does not have.
    """
    targets = set(lora.targets)
    found: set[str] = set()
    model.requires_grad_(False)
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, Linear)]
    for name, layer in layers:
        parts = [part.split(".")[-2] for part in names_of(f"{name}.weight", model.config)]
        is_chosen = tuple(part in targets for part in parts)
        found.update(part for part in parts if part in targets)
        if any(is_chosen):
            layer.adapter = Adapter(layer, is_chosen, lora, dtype)
            layer.forward = _with(layer.forward, layer.adapter)
    if targets - found:
        known = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
        raise UsageError(f"lora.targets: {sorted(targets - found)[0]} is no layer of the model", hint=f"known: {known}")
    return model


def _with(plain: Callable[[torch.Tensor], torch.Tensor], adapter: Adapter) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        return plain(x) + adapter(x)

    return forward


def adapters(model: nn.Module) -> Iterator[tuple[str, Adapter]]:
    """Each adapter with the name of the layer that it stands beside."""
    for name, module in model.named_modules():
        if isinstance(module, Adapter):
            yield name.removesuffix(".adapter"), module


@torch.no_grad()
def reset_adapters(model: nn.Module, seed: int) -> None:
    """As PEFT begins: the first matrix uniform (Kaiming's, a = √5), the second zero, so that nothing changes yet."""
    from ironloom.train.model.decoder import fill

    generator = torch.Generator().manual_seed(seed)
    for _, adapter in adapters(model):
        bound = 1 / math.sqrt(adapter.a.shape[1])
        fill(adapter.a, torch.empty(adapter.a.shape).uniform_(-bound, bound, generator=generator))
        fill(adapter.b, torch.zeros(adapter.b.shape))


def deltas(model: LanguageModel, whole: Callable[[torch.Tensor], torch.Tensor] = lambda t: t) -> Iterator[Delta]:
    """What is added to each of the checkpoint's matrices. `whole` gathers a sharded tensor, on every rank."""
    for name, adapter in adapters(model):
        hf_names = names_of(f"{name}.weight", model.config)
        for number, a, b in adapter.pairs(whole(adapter.a.detach()), whole(adapter.b.detach())):
            yield Delta(hf_names[number], a, b, adapter.scale)


def merged(model: LanguageModel, whole: Callable[[torch.Tensor], torch.Tensor] = lambda t: t) -> Callable[..., Any]:
    """A change of the checkpoint's tensors by name that adds the adapters: for `checkpoint.export`."""
    by_name = {delta.hf_name: delta for delta in deltas(model, whole)}

    def change(hf_name: str, tensor: torch.Tensor) -> torch.Tensor:
        delta = by_name.get(hf_name)
        if delta is None:
            return tensor
        return (tensor.float() + delta.product.to(tensor.device)).to(tensor.dtype)

    return change


def peft_state(
    model: LanguageModel, whole: Callable[[torch.Tensor], torch.Tensor] = lambda t: t
) -> dict[str, torch.Tensor]:
    """The adapters under PEFT's names: what adapter_model.safetensors holds."""
    state = {}
    for delta in deltas(model, whole):
        stem = f"base_model.model.{delta.hf_name.removesuffix('.weight')}"
        state[f"{stem}.lora_A.weight"], state[f"{stem}.lora_B.weight"] = delta.a, delta.b
    return state


def peft_config(lora: Lora, base_model: str) -> dict[str, Any]:
    """What adapter_config.json says."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted(lora.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }
