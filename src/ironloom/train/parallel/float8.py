"""Matrix products of the blocks in float8, by torchao, where the GPU has it (compute capability 8.9 and above).

Scales are per tensor and found anew at each step. The head stays in the compute type, as torchtitan's does; products
that are too small to gain stay too. Source: https://github.com/pytorch/ao/tree/main/torchao/float8.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ironloom.errors import UsageError

MIN_SIZE = 1024
"""Rows and columns below which casting costs more than the product gains."""


def to_float8(blocks: list[nn.Module]) -> int:
    """Exchanges the linear layers of the blocks in place, before they are compiled and sharded; how many.

    Raises UsageError where torchao is missing or the GPU has no float8.
    """
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9):
        raise UsageError("compute.is_float8: this machine has no GPU with float8", hint="leave it out for bf16")
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError:
        raise UsageError("compute.is_float8: torchao is not installed", hint="pip install torchao") from None

    def serves(module: nn.Module, _: str) -> bool:
        return isinstance(module, nn.Linear) and all(n >= MIN_SIZE and n % 16 == 0 for n in module.weight.shape)

    config: Any = Float8LinearConfig.from_recipe_name("tensorwise")
    for block in blocks:
        convert_to_float8_training(block, config=config, module_filter_fn=serves)
    return sum("Float8" in type(module).__name__ for block in blocks for module in block.modules())
