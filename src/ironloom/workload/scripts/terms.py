"""Full names that rules ask for, the value of what is not known, and the kinds of nodes that are spoken of."""

from __future__ import annotations

import ast
from enum import Enum
from typing import Final


class Unknown(Enum):
    """The value of what only a run would tell."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
LOOPS = (ast.For, ast.AsyncFor, ast.While)
FSDP1 = "torch.distributed.fsdp.FullyShardedDataParallel"
FSDP2 = "torch.distributed.fsdp.fully_shard"
DDP = "torch.nn.parallel.DistributedDataParallel"
DATA_LOADER = "torch.utils.data.DataLoader"
VLLM = "vllm.LLM"
SGLANG = "sglang.Engine"
OWN = "ironloom.LLM"
SAMPLING = ("vllm.SamplingParams", "ironloom.SamplingParams")
