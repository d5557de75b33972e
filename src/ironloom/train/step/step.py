"""One optimizer step over its micro-batches, without a wait for the GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule

from ironloom.train.model.loss import one
from ironloom.train.parallel.sharding import DTYPES
from ironloom.train.step.adamw import AdamW, decay_groups
from ironloom.train.step.masters import Masters
from ironloom.workload.training import Compute, Dtype, OptimizerSettings


class MicroBatch(Protocol):
    """Sequences of one rank: what `train.data` yields, on any device."""

    tokens_BL: torch.Tensor
    targets_BL: torch.Tensor
    documents_BL: torch.Tensor | None
    positions_BL: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step came to: scalars on the device, over all ranks. Reading one waits for the step's end."""

    loss: torch.Tensor
    """Mean over the targets, before the update."""
    num_targets: torch.Tensor
    grad_norm: torch.Tensor | None
    """Before clipping; None where the weights were left as they are."""


def make_optimizer(model: nn.Module, settings: OptimizerSettings, compute: Compute) -> AdamW:
    """AdamW for a model that is laid out and filled.

    On one rank without FSDP, fp32 parameters get a bf16 form here that is computed with (`Masters`).
    """
    masters = None
    is_sharded = isinstance(model, FSDPModule)
    is_wide = any(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    if not is_sharded and is_wide and compute.compute_dtype is not Dtype.FLOAT32:
        masters = Masters(model, DTYPES[compute.compute_dtype])
    return AdamW(
        decay_groups(model, settings.weight_decay, is_vector_decayed=settings.is_vector_decayed),
        learning_rate=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        max_grad_norm=settings.max_grad_norm,
        state_dtype=None if settings.state_dtype is None else DTYPES[settings.state_dtype],
        masters=masters,
    )


class Step:
    """Forward, backward and update of a model with `loss(tokens, targets, …)`."""

    def __init__(
        self,
        model: Any,
        optimizer: AdamW,
        *,
        num_chunks: int = 8,
        mark: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`mark` is told when forward, backward and update are queued: for a meter of the step's parts."""
        self.model, self.optimizer, self.num_chunks, self._mark = model, optimizer, num_chunks, mark
        self._is_sharded = isinstance(model, FSDPModule)
        first = next(model.parameters())
        is_gpu = "cuda" in (first.device.type, first.device_mesh.device_type if self._is_sharded else "")
        self._device = torch.device("cuda", torch.cuda.current_device()) if is_gpu else first.device

    def __call__(
        self, batches: Sequence[MicroBatch], learning_rate: float, *, is_kept: Callable[[Outcome], bool] | None = None
    ) -> Outcome:
        """One update over all micro-batches of all ranks.

        `is_kept` decides with the loss in hand whether the weights change; asking waits for the GPU.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        device = self._device
        sums = torch.zeros(2, dtype=torch.float32, device=device)
        for number, batch in enumerate(batches):
            if self._is_sharded:
                self.model.set_requires_gradient_sync(number == len(batches) - 1)
            total, count = self.model.loss(
                batch.tokens_BL.to(device, non_blocking=True),
                batch.targets_BL.to(device, non_blocking=True),
                _moved(batch.documents_BL, device),
                positions_BL=_moved(batch.positions_BL, device),
                num_chunks=self.num_chunks,
            )
            self._mark("forward")
            total.backward(one(total.device))
            self._mark("backward")
            sums += torch.stack((total.detach(), count.float()))
            if self.optimizer.masters is not None and len(batches) > 1:
                self.optimizer.masters.accumulate(self.model.parameters())
        if distributed.is_initialized():
            distributed.all_reduce(sums)
            self._mark("communication")
        scale = 1 / sums[1].clamp(min=1)
        outcome = Outcome(sums[0] * scale, sums[1], None)
        if is_kept is None or is_kept(outcome):
            outcome = Outcome(outcome.loss, outcome.num_targets, self.optimizer.step(scale=scale))
        self.optimizer.zero_grad()
        self._mark("update")
        return outcome


def _moved(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)
