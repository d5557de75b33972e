"""Activation checkpointing: which activations of a block stay for the backward.

`full` keeps a block's input, `attention` attention's result too. `selective` keeps the results of matrix products and
of attention, which cost most to compute and least to keep beside the wide pointwise results between them; torchtitan
keeps every second product (torchtitan 0.2.2, distributed/activation_checkpoint.py), which `keep_every=2` does here.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from ironloom.train.model.nf4 import NF4_PRODUCT
from ironloom.workload.training import Checkpointing

_ATEN = torch.ops.aten
PRODUCTS = frozenset({_ATEN.mm.default, _ATEN.addmm.default, _ATEN._scaled_mm.default, NF4_PRODUCT})
KEPT = frozenset(
    {
        _ATEN._scaled_dot_product_cudnn_attention.default,
        _ATEN._scaled_dot_product_flash_attention.default,
        _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
        _ATEN._scaled_dot_product_efficient_attention.default,
        torch._higher_order_ops.flex_attention,
    }
)
"""Kept beside the matrix products."""


class _Policy:
    """Says of each operation of one forward whether its result is kept: attention, and every so many products; 0 keeps
    none of them."""

    def __init__(self, keep_every: int) -> None:
        self._keep_every = keep_every
        self._products = {False: 0, True: 0}

    def __call__(self, context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        if operation in KEPT:
            return CheckpointPolicy.MUST_SAVE
        if operation not in PRODUCTS or not self._keep_every:
            return CheckpointPolicy.PREFER_RECOMPUTE
        number = self._products[context.is_recompute]
        self._products[context.is_recompute] += 1
        return CheckpointPolicy.PREFER_RECOMPUTE if number % self._keep_every else CheckpointPolicy.MUST_SAVE


def _contexts(keep_every: int) -> Any:
    return create_selective_checkpoint_contexts(_Policy(keep_every))


def checkpoint_block(block: nn.Module, kind: Checkpointing, *, keep_every: int = 1) -> None:
    """Puts a block's forward under checkpointing, in place: its parameters keep their names. `none` changes nothing."""
    if kind is Checkpointing.NONE:
        return
    plain = block.forward
    contexts = {}
    if kind is not Checkpointing.FULL:
        contexts["context_fn"] = partial(_contexts, keep_every if kind is Checkpointing.SELECTIVE else 0)

    def forward(*args: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*args, **named)
        return checkpoint(plain, *args, use_reentrant=False, preserve_rng_state=False, **contexts, **named)

    block.forward = forward
