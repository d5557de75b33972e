"""silu(gate) · up of a fused product (https://arxiv.org/abs/2002.05202), with kernels of its own on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    """… × 2 width → … × width."""
    if gate_up.is_cuda:
        return torch.ops.ironloom.swiglu(gate_up)
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up


@torch.library.custom_op("ironloom::swiglu", mutates_args=(), device_types="cuda")
def _swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    from ironloom.train.model.swiglu_kernel import forward

    out = gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2))
    forward(gate_up.contiguous().flatten(0, -2), out.flatten(0, -2))
    return out


@torch.library.custom_op("ironloom::swiglu_backward", mutates_args=(), device_types="cuda")
def _swiglu_backward(gradient: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    from ironloom.train.model.swiglu_kernel import backward

    out = torch.empty(gate_up.shape, dtype=gate_up.dtype, device=gate_up.device)
    backward(gradient.contiguous().flatten(0, -2), gate_up.contiguous().flatten(0, -2), out.flatten(0, -2))
    return out


@_swiglu.register_fake
def _(gate_up: torch.Tensor) -> torch.Tensor:
    return gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2))


@_swiglu_backward.register_fake
def _(_: torch.Tensor, gate_up: torch.Tensor) -> torch.Tensor:
    return torch.empty(gate_up.shape, dtype=gate_up.dtype, device=gate_up.device)


def _keep(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:  # noqa: ARG001  torch's names
    ctx.save_for_backward(inputs[0])


def _back(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
    return torch.ops.ironloom.swiglu_backward(gradient, ctx.saved_tensors[0])


torch.library.register_autograd("ironloom::swiglu", _back, setup_context=_keep)
