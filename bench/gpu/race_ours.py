"""Ironloom's trainer as a worker of the training race (race_worker.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import race_worker
import torch
from race_rows import SHAPES, Row

from ironloom.train.model.decoder import build
from ironloom.train.model.names import state_from_hf
from ironloom.train.model.nf4 import to_nf4
from ironloom.train.parallel.model import shard_model
from ironloom.train.parallel.whole_blocks import num_free_blocks
from ironloom.train.step.determinism import set_deterministic
from ironloom.train.step.lora import add_adapters, reset_adapters
from ironloom.train.step.step import Step, make_optimizer
from ironloom.workload.training import Checkpointing, Compute, Dtype, Lora, OptimizerSettings


class Batch(NamedTuple):
    tokens_BL: torch.Tensor
    targets_BL: torch.Tensor
    documents_BL: torch.Tensor | None = None
    positions_BL: torch.Tensor | None = None


def packed(row: Row) -> tuple[torch.Tensor, torch.Tensor] | tuple[None, None]:
    """Each token's document and its place in it, where a row says how long documents are."""
    length = row.tweaks.get("document_tokens")
    if not length:
        return None, None
    at = torch.arange(row.seq).expand(row.batch, -1)
    return (at // length).to(torch.int32).contiguous(), (at % length).contiguous()


def run(row: Row) -> dict[str, Any]:
    """Trains on one row's settings."""
    torch._dynamo.reset()
    tweaks = dict(row.tweaks)
    set_deterministic(tweaks.get("deterministic", False))
    for name, value in tweaks.get("inductor", {}).items():
        torch._inductor.config.patch({name: value}).__enter__()
    compute = Compute(
        param_dtype=Dtype(row.dtype),
        compute_dtype=Dtype(row.compute_dtype),
        checkpointing=Checkpointing(tweaks.get("checkpointing", row.checkpointing)),
        is_compiled=row.is_compiled,
        loss_chunks=tweaks.get("chunks", 1),
        num_whole_blocks=tweaks.get("whole_blocks"),
        is_float8=tweaks.get("float8", False),
    )
    base = torch.bfloat16 if row.lora_rank else getattr(torch, row.dtype)
    model = build(SHAPES[row.shape].config, device=race_worker.device(), dtype=base)
    if row.weights:
        from safetensors.torch import load_file

        names = [name for name, _ in model.named_parameters()]
        model.load_state_dict(state_from_hf(load_file(row.weights), model.config, names))
    else:
        model.reset(0)
    if tweaks.get("nf4"):
        to_nf4(model)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if row.lora_rank:
        add_adapters(model, Lora(rank=row.lora_rank, alpha=2.0 * row.lora_rank), dtype=torch.float32)
        reset_adapters(model, 0)
    elif compute.num_whole_blocks is None and row.is_compiled:
        compute = replace(
            compute, num_whole_blocks=num_free_blocks(model.config, compute, num_tokens=row.tokens_per_step)
        )
    model.is_residual_wide = tweaks.get("wide_residual", False)
    shard_model(model, compute, keep_every=tweaks.get("keep_every", 1))
    settings = OptimizerSettings(
        learning_rate=row.learning_rate,
        weight_decay=0.1,
        is_vector_decayed=tweaks.get("vectors_decay", True),
        max_grad_norm=1.0,
        state_dtype=Dtype(tweaks["state_dtype"]) if "state_dtype" in tweaks else None,
    )
    step = Step(model, make_optimizer(model, settings, compute), num_chunks=compute.loss_chunks)
    source = race_worker.batches(row)

    def one() -> torch.Tensor:
        return step([Batch(*next(source), *packed(row))], row.learning_rate).loss

    return race_worker.timed(row, one, float)


if __name__ == "__main__":
    race_worker.serve("ironloom", run)
