"""Ironloom's trainer as a worker of the training race (race_worker.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import race_worker
import torch
from race_rows import SHAPES, Row

from ironloom.train.model.decoder import build
from ironloom.train.model.names import state_from_hf
from ironloom.train.parallel.model import shard_model
from ironloom.train.step.step import Step, make_optimizer
from ironloom.workload.training import Checkpointing, Compute, Dtype, OptimizerSettings


class Batch(NamedTuple):
    tokens_BL: torch.Tensor
    targets_BL: torch.Tensor
    documents_BL: torch.Tensor | None = None
    positions_BL: torch.Tensor | None = None


def run(row: Row) -> dict[str, Any]:
    """Trains on one row's settings."""
    torch._dynamo.reset()
    tweaks = dict(row.tweaks)
    for name, value in tweaks.get("inductor", {}).items():
        torch._inductor.config.patch({name: value}).__enter__()
    dtype = Dtype(row.dtype)
    compute = Compute(
        param_dtype=dtype,
        checkpointing=Checkpointing(row.checkpointing),
        is_compiled=row.is_compiled,
        loss_chunks=tweaks.get("chunks", 1),
    )
    where = race_worker.device()
    model = build(SHAPES[row.shape].config, device=where, dtype=getattr(torch, row.dtype))
    if row.weights:
        from safetensors.torch import load_file

        names = [name for name, _ in model.named_parameters()]
        model.load_state_dict(state_from_hf(load_file(row.weights), model.config, names))
    else:
        model.reset(0)
    shard_model(model, compute, keep_every=tweaks.get("keep_every", 1))
    settings = OptimizerSettings(learning_rate=row.learning_rate, weight_decay=0.1, max_grad_norm=1.0)
    step = Step(model, make_optimizer(model, settings, compute), num_chunks=compute.loss_chunks)
    source = race_worker.batches(row)

    def one() -> torch.Tensor:
        return step([Batch(*next(source))], row.learning_rate).loss

    if tweaks.get("profile"):
        _profile(one, row, str(tweaks["profile"]))
    return race_worker.timed(row, one, float)


def _profile(one: Any, row: Row, path: str) -> None:
    """The kernels of two steps, by their time, as text."""
    from torch.profiler import ProfilerActivity, profile

    for _ in range(row.warmup):
        one()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        one()
        one()
        race_worker.wait()
    table = found.key_averages().table(sort_by="self_cuda_time_total", row_limit=60, max_name_column_width=110)
    Path(path).write_text(table)


if __name__ == "__main__":
    race_worker.serve("ironloom", run)
