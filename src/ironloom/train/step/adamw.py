"""AdamW in one pass over the memory: the clipped gradient, both moments, the decay, the fp32 parameter and the
parameter that is computed with.

The pass is one kernel on a GPU (`adamw_kernel`), and `update` elsewhere. The gradient's norm
is one read of the gradients before; the clipping factor stays on the device, so that nothing waits for it and the
gradients are not written again. Source: https://arxiv.org/abs/1711.05101, as torch.optim.AdamW computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import nn

from ironloom.train.step.masters import Masters

Group = dict[str, Any]


class AdamW(torch.optim.Optimizer):
    """torch.optim.AdamW's results, with clipping and the cast inside.

    `max_grad_norm` 0 does not clip. `state_dtype` None keeps the moments in the type of the parameters (of their fp32
    forms where `masters` has them).
    """

    def __init__(
        self,
        groups: Iterable[Group],
        *,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        max_grad_norm: float = 0.0,
        state_dtype: torch.dtype | None = None,
        masters: Masters | None = None,
    ) -> None:
        defaults = {"lr": learning_rate, "betas": betas, "eps": eps, "weight_decay": 0.0}
        super().__init__(list(groups), defaults)
        self.max_grad_norm, self.state_dtype, self.masters = max_grad_norm, state_dtype, masters

    def trained(self) -> list[tuple[torch.Tensor, torch.Tensor, Group]]:
        """Parameters that have a gradient now, with it and their group."""
        found = []
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = self.masters.gradient_of(parameter) if self.masters is not None else parameter.grad
                if gradient is not None:
                    found.append((parameter, gradient, group))
        return found

    @torch.no_grad()
    def step(self, closure: Any = None, *, scale: torch.Tensor | None = None) -> torch.Tensor:
        """One update; returns the gradients' global norm, a scalar on the device.

        `scale` multiplies every gradient before the norm is taken: 1 / targets, where the gradients are of a sum.
        """
        assert closure is None
        trained = self.trained()
        norm = global_norm([gradient for _, gradient, _ in trained])
        if scale is not None:
            scale = scale.to(norm.device)
            norm = norm * scale
        factor = scale if scale is not None else torch.ones_like(norm)
        if self.max_grad_norm:
            factor = factor * (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        for parameter, gradient, group in trained:
            self._update(parameter, gradient, group, factor)
        return norm

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops the gradients."""
        super().zero_grad(set_to_none=set_to_none)
        if self.masters is not None:
            self.masters.drop_gradients()

    def _update(self, parameter: torch.Tensor, gradient: torch.Tensor, group: Group, factor: torch.Tensor) -> None:
        wide = self.masters.of(parameter) if self.masters is not None else None
        state = self.state[parameter]
        if not state:
            like = parameter if wide is None else wide
            dtype = self.state_dtype or like.dtype
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(like, dtype=dtype)
            state["exp_avg_sq"] = torch.zeros_like(like, dtype=dtype)
        state["step"] += 1
        number = float(state["step"])
        beta1, beta2 = group["betas"]
        tensors = [local(t) for t in (parameter, gradient, state["exp_avg"], state["exp_avg_sq"])]
        if tensors[0].numel() == 0:
            return
        is_flat = tensors[0].is_cuda and all(t.is_contiguous() for t in tensors)
        run: Callable[..., None] = _kernel() if is_flat else update
        run(
            *tensors,
            None if wide is None else local(wide),
            factor,
            keep=1 - group["lr"] * group["weight_decay"],
            rate=group["lr"] / (1 - beta1**number),
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            root=(1 - beta2**number) ** -0.5,
        )


def local(tensor: Any) -> torch.Tensor:
    """This rank's part of a tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def update(
    parameter: torch.Tensor,
    gradient: torch.Tensor,
    average: torch.Tensor,
    square: torch.Tensor,
    wide: torch.Tensor | None,
    factor: torch.Tensor,
    *,
    keep: float,
    rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    root: float,
) -> None:
    """One tensor's update, in place. `keep` is 1 - rate · decay, `rate` is divided by the first moment's correction
    and `root` is the second's, under the root and inverted."""
    gradient = gradient.float() * factor
    new_average = torch.lerp(gradient, average.float(), beta1)
    new_square = torch.lerp(gradient * gradient, square.float(), beta2)
    value = (parameter if wide is None else wide).float() * keep
    value = value - rate * new_average / (new_square.sqrt() * root + eps)
    average.copy_(new_average)
    square.copy_(new_square)
    if wide is not None:
        wide.copy_(value)
    parameter.copy_(value)


@cache
def _kernel() -> Callable[..., None]:
    from ironloom.train.step.adamw_kernel import run

    return run


def global_norm(gradients: list[Any]) -> torch.Tensor:
    """The 2-norm over all gradients of all ranks, in fp32, on the device. The gradients may be sharded."""
    from torch.distributed.tensor import DTensor

    if not gradients:
        return torch.zeros(())
    sharded = [g for g in gradients if isinstance(g, DTensor)]
    whole = [g for g in gradients if not isinstance(g, DTensor)]
    total = _squares(whole) if whole else torch.zeros((), device=gradients[0].device)
    if sharded:
        mesh = sharded[0].device_mesh
        square = _squares([g.to_local() for g in sharded])
        torch.distributed.all_reduce(square, group=mesh.get_group(mesh.ndim - 1))
        total = total + square
    return total.sqrt()


def _squares(gradients: list[torch.Tensor]) -> torch.Tensor:
    """Their sum, in fp32."""
    if gradients[0].is_cuda and all(g.is_contiguous() for g in gradients):
        from ironloom.train.step.adamw_kernel import sum_of_squares

        return sum_of_squares(gradients)
    return torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float32)).square().sum()


def decay_groups(module: nn.Module, weight_decay: float, *, is_vector_decayed: bool = False) -> list[Group]:
    """Trained parameters in two groups: matrices decay, vectors (norms, biases) only where asked."""
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices, vectors = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    of_vectors = weight_decay if is_vector_decayed else 0.0
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": of_vectors}]
    return [group for group in groups if group["params"]]
