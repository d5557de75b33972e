"""The same bits in each run: kernels that add in a fixed order.

cuDNN's attention has none such, so that another kernel takes its place; sums over an index are sorted first. Source:
https://docs.pytorch.org/docs/stable/notes/randomness.html.
"""

from __future__ import annotations

import os

import torch
import torch.utils.deterministic


def set_deterministic(is_on: bool) -> None:
    """For this process, before its first product on a GPU: cuBLAS reads its setting once.

    Memory that is laid out and not yet written is left as it is: torch would fill all of it so that a kernel that
    reads it be found out, a pass over the memory that makes no sum the same.
    """
    if is_on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.utils.deterministic.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(is_on)
