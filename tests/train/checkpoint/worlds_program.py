"""Trains one model over phases of different numbers of ranks, each going on from the last one's checkpoint.

    python worlds_program.py FOLDER

After each phase the whole state (every tensor gathered, as lists of numbers) is written to FOLDER/phase-N.json, and
what the phase had loaded to FOLDER/loaded-N.json.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ironloom.train.checkpoint.checkpointer import Checkpointer, Saved
from ironloom.train.checkpoint.state import tensors_of
from ironloom.workload.training import CheckpointPolicy

PHASES = ((4, "full"), (2, "full"), (3, "full"), (4, "hybrid"), (1, "whole"), (2, "whole"))
STEPS = 2


def model_of(world: int, kind: str, seed: int) -> nn.Module:
    """Layers whose first dimensions no number of ranks divides; one is smaller than four."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 7), nn.LayerNorm(7))
    if kind == "whole":
        return model
    if kind == "hybrid":
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicas", "shards"))
    else:
        mesh = init_device_mesh("cpu", (world,))
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def whole_state(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).tolist()
        for name, tensor in tensors_of(model, [optimizer]).items()
    }


def phase(number: int, rank: int, world: int, kind: str, folder: Path) -> None:
    model = model_of(world, kind, seed=100 * number + (0 if kind == "whole" else rank))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1 if number == 0 else 0.9)
    checkpointer = Checkpointer(folder / "checkpoints", CheckpointPolicy(keep_last=2, is_async=number % 2 == 0))
    extra = checkpointer.load(model, optimizer)
    loaded = {"extra": extra, "rate": optimizer.param_groups[0]["lr"], "state": whole_state(model, optimizer)}
    checkpointer.prepare(model, optimizer)
    generator = torch.Generator().manual_seed(number)
    for step in range(STEPS * number + 1, STEPS * (number + 1) + 1):
        model(torch.randn(4, 8, generator=generator)).square().sum().backward()
        checkpointer.before_update()
        optimizer.step()
        optimizer.zero_grad()
        checkpointer.save(step, model, optimizer, {"step": step})
    assert isinstance(checkpointer.close(), Saved)
    state = whole_state(model, optimizer)
    if rank == 0:
        (folder / f"loaded-{number}.json").write_text(json.dumps(loaded))
        (folder / f"phase-{number}.json").write_text(json.dumps(state))


def run(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    for number, (world, kind) in enumerate(PHASES):
        if rank < world:
            store = dist.FileStore(str(folder / f"store-{number}"), world)
            dist.init_process_group("gloo", rank=rank, world_size=world, store=store)
            phase(number, rank, world, kind, folder)
            dist.barrier()
            dist.destroy_process_group()
        wait_for(folder / f"phase-{number}.json")


def wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.02)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.spawn(run, (Path(sys.argv[1]),), nprocs=4)
