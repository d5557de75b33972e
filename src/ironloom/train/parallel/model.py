"""The decoder laid over ranks: checkpointing inside, compiled by block, sharded by block."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ironloom.train.model.decoder import LanguageModel
from ironloom.train.parallel.checkpointing import checkpoint_block
from ironloom.train.parallel.float8 import to_float8
from ironloom.train.parallel.mesh import mesh_for, world_size
from ironloom.train.parallel.sharding import settings, shard_units
from ironloom.workload.training import Compute


def shard_model(model: LanguageModel, compute: Compute, *, mesh: Any = None, keep_every: int = 1) -> LanguageModel:
    """Lays a decoder out as a configuration says, in place.

    One rank without a mesh takes the plain path. The weights may be
    on `meta`: fill them afterwards. The optimizer is made after this. How many blocks may keep their activations is
    known where the tokens are: without a number it is the last one (`num_whole_blocks`).
    """
    if compute.is_float8:
        to_float8(list(model.layers))
    whole = 1 if compute.num_whole_blocks is None else compute.num_whole_blocks
    for block in model.layers[: max(0, len(model.layers) - whole)]:
        checkpoint_block(block, compute.checkpointing, keep_every=keep_every)
    if compute.is_compiled:
        compile_blocks(list(model.layers))
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    if mesh is None and world_size() == 1:
        return model
    mesh = mesh_for(compute, device_type) if mesh is None else mesh
    how = settings(compute, mesh)
    if model.config.is_tied:
        shard_units(model, list(model.layers), [], how)
    else:
        shard_units(model, [model.embed, *model.layers], [model.head], how)
    return model


def compile_blocks(blocks: list[nn.Module]) -> None:
    """Compiles each block; equal blocks share one compilation. Names in state dicts stay."""
    for block in blocks:
        block.compile(fullgraph=True)
