"""fp32 parameters that are cast to the compute type once a step, on a rank that holds them whole.

The module computes with bf16 parameters, whose gradients are bf16; the optimizer changes the fp32 ones and writes the
bf16 ones in the same pass. Autocast casts at each use instead, and again where activations are computed anew. State
dicts hold the fp32 parameters under their own names, so that a checkpoint is the same as a sharded run's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn


class Masters:
    """The fp32 parameters of a module that computes in a narrower type."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        """Casts the module's trained parameters, in place, and keeps the wide ones. Made before the optimizer."""
        self._by_name: dict[str, torch.Tensor] = {}
        self._by_parameter: dict[int, torch.Tensor] = {}
        self._sums: dict[int, torch.Tensor] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad or parameter.dtype != torch.float32:
                continue
            self._by_name[name] = parameter.data
            parameter.data = parameter.data.to(dtype)
            self._by_parameter[id(parameter)] = self._by_name[name]
        module.register_state_dict_post_hook(partial(self._fill))
        module.register_load_state_dict_pre_hook(self._take)

    def of(self, parameter: torch.Tensor) -> torch.Tensor | None:
        """A parameter's fp32 form; None for one that has no other than itself."""
        return self._by_parameter.get(id(parameter))

    @torch.no_grad()
    def accumulate(self, parameters: Iterable[torch.Tensor]) -> None:
        """Adds the parameters' gradients to sums in fp32, and drops them: for all micro-batches of a step, where there
        are several."""
        for parameter in parameters:
            if parameter.grad is None:
                continue
            if id(parameter) in self._sums:
                self._sums[id(parameter)].add_(parameter.grad)
            else:
                self._sums[id(parameter)] = parameter.grad.float()
            parameter.grad = None

    def gradient_of(self, parameter: torch.Tensor) -> torch.Tensor | None:
        """A parameter's summed gradient, or the one of its only micro-batch."""
        return self._sums.get(id(parameter), parameter.grad)

    def drop_gradients(self) -> None:
        """Forgets the sums."""
        self._sums.clear()

    def _fill(self, _: nn.Module, state: dict[str, Any], prefix: str, __: Mapping[str, Any]) -> None:
        for name, wide in self._by_name.items():
            if prefix + name in state:
                state[prefix + name] = wide

    @torch.no_grad()
    def _take(self, _: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
        for name, wide in self._by_name.items():
            if prefix + name in state:
                wide.copy_(state[prefix + name])
