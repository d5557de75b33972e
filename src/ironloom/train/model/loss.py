"""The head and the cross-entropy in one: logits of a part of the tokens at a time, in the compute type, and their
gradient written over them at once.

The forward already computes the gradients of the hidden states and of the head; the backward only scales them. Logits
in fp32 and logits of all tokens are never kept. The idea is Liger Kernel's
(https://github.com/linkedin/Liger-Kernel, fused_linear_cross_entropy.py, arXiv 2410.10989); here the pointwise part
is left to torch.compile, and the head's gradient is summed over the parts in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn import functional

IGNORED = -100
"""A target that has no loss."""


def cross_entropy_sum(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    *,
    num_chunks: int = 8,
    softcap: float = 0,
) -> torch.Tensor:
    """The summed loss of the targets that are not IGNORED: a scalar in fp32."""
    chunk = max(1, -(-hidden_ND.shape[0] // max(1, num_chunks)))
    if not torch.is_grad_enabled() or not (hidden_ND.requires_grad or weight_VD.requires_grad):
        parts = zip(hidden_ND.split(chunk), targets_N.split(chunk), strict=True)
        losses = [_loss_of(_logits(rows, weight_VD), targets, softcap) for rows, targets in parts]
        return torch.stack(losses).sum()
    return _Fused.apply(hidden_ND, weight_VD, targets_N, chunk, softcap)


@cache
def one(device: torch.device) -> torch.Tensor:
    """The gradient of a loss that is not scaled: given to `backward`, it spares a pass over the head's gradient."""
    return torch.ones((), device=device)


def _logits(hidden_ND: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor:
    return functional.linear(hidden_ND, weight_VD)


def _capped(logits: torch.Tensor, softcap: float) -> torch.Tensor:
    return softcap * torch.tanh(logits / softcap) if softcap else logits


def _loss_of(logits_NV: torch.Tensor, targets_N: torch.Tensor, softcap: float) -> torch.Tensor:
    capped = _capped(logits_NV.float(), softcap)
    return functional.cross_entropy(capped, targets_N, reduction="sum", ignore_index=IGNORED)


def _loss_and_gradient(logits_NV: torch.Tensor, targets_N: torch.Tensor, softcap: float) -> torch.Tensor:
    """The summed loss; the logits become their gradient."""
    values = _capped(logits_NV.float(), softcap)
    is_counted = targets_N != IGNORED
    target = torch.where(is_counted, targets_N, 0)
    normalizer = torch.logsumexp(values, dim=-1)
    of_target = values.gather(1, target[:, None]).squeeze(1)
    loss = torch.where(is_counted, normalizer - of_target, 0.0).sum()
    columns = torch.arange(values.shape[1], device=values.device)
    gradient = torch.exp(values - normalizer[:, None]) - (columns[None, :] == target[:, None]).float()
    if softcap:
        gradient = gradient * (1 - (values / softcap) ** 2)
    logits_NV.copy_(torch.where(is_counted[:, None], gradient, 0.0).to(logits_NV.dtype))
    return loss


@cache
def _compiled() -> Callable[..., torch.Tensor]:
    """One reduction and one pass over the logits, on a GPU."""
    return torch.compile(_loss_and_gradient, dynamic=False)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        targets_N: torch.Tensor,
        chunk: int,
        softcap: float,
    ) -> torch.Tensor:
        hidden_ND, weight = hidden_ND.detach(), weight_VD.detach()
        step = _compiled() if hidden_ND.is_cuda else _loss_and_gradient
        needs_hidden, needs_weight = context.needs_input_grad[:2]
        gradient_hidden = torch.empty_like(hidden_ND) if needs_hidden else None
        gradient_weight: torch.Tensor | None = None
        loss = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        is_whole = chunk >= hidden_ND.shape[0]
        for start in range(0, hidden_ND.shape[0], chunk):
            rows = hidden_ND[start : start + chunk]
            logits = _logits(rows, weight)
            loss += step(logits, targets_N[start : start + chunk], softcap)
            if gradient_hidden is not None:
                torch.mm(logits, weight, out=gradient_hidden[start : start + chunk])
            if needs_weight:
                gradient_weight = _added(gradient_weight, logits, rows, is_whole=is_whole)
            del logits
        context.gradients = (gradient_hidden, gradient_weight)
        context.weight_dtype = weight.dtype
        return loss

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight = context.gradients
        context.gradients = (None, None)
        is_one = gradient.data_ptr() == one(gradient.device).data_ptr()
        if hidden is not None and not is_one:
            hidden = hidden.mul_(gradient)
        if weight is not None:
            weight = (weight if is_one else weight.mul_(gradient)).to(context.weight_dtype)
        return hidden, weight, None, None, None


def _added(sum_VD: torch.Tensor | None, logits_NV: torch.Tensor, rows_ND: torch.Tensor, *, is_whole: bool) -> Any:
    """The head's gradient with one more part of the tokens in it."""
    if is_whole:
        return torch.mm(logits_NV.t(), rows_ND)
    if not logits_NV.is_cuda or logits_NV.dtype == torch.float32:
        part = torch.mm(logits_NV.t(), rows_ND).float()
        return part if sum_VD is None else sum_VD.add_(part)
    if sum_VD is None:
        return torch.mm(logits_NV.t(), rows_ND, out_dtype=torch.float32)
    return torch.addmm(sum_VD, logits_NV.t(), rows_ND, out_dtype=torch.float32, out=sum_VD)
