"""All that a run needs before its first step: device and process group, model, data, optimizer, the last checkpoint.

What can be known to be wrong is found here, from the cheap to the dear: nothing is loaded that cannot fit.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ironloom.errors import UsageError
from ironloom.serve.models.cache import default_cache_dir
from ironloom.train.checkpoint.checkpointer import Checkpointer
from ironloom.train.checkpoint.pretrained import load_pretrained
from ironloom.train.data.corpus import Prepared, prepare_data
from ironloom.train.data.loader import Batch, Loader, held_out_batches
from ironloom.train.data.tokenizer import load_tokenizer, refuse_mismatch
from ironloom.train.loop import agree, folder
from ironloom.train.loop.fits import Room, require_room
from ironloom.train.loop.here import adapted, this_machine
from ironloom.train.loop.identity import identity_of
from ironloom.train.loop.ranks import Ranks
from ironloom.train.loop.records import DATA, Kind, Records
from ironloom.train.loop.source_model import model_folder, read_config
from ironloom.train.loop.watch import HangWatch
from ironloom.train.model.decoder import build
from ironloom.train.model.nf4 import to_nf4
from ironloom.train.parallel.mesh import device_of_rank, start_group
from ironloom.train.parallel.model import shard_model
from ironloom.train.parallel.sharding import DTYPES
from ironloom.train.parallel.whole_blocks import whole_blocks_of
from ironloom.train.step.adamw import AdamW
from ironloom.train.step.determinism import set_deterministic
from ironloom.train.step.lora import add_adapters, reset_adapters
from ironloom.train.step.step import Step, make_optimizer
from ironloom.workload.shapes.files import shape_of_path
from ironloom.workload.training import Method, Training


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """A run, ready to step."""

    training: Training
    ranks: Ranks
    output: Path
    device: torch.device
    config: dict[str, Any]
    source: Path
    """The folder that the model came from: its tokenizer goes into the result."""
    tokenizer: Any
    model: Any
    optimizer: AdamW
    step: Step
    loader: Loader
    held_out: Callable[[], Iterator[Batch]] | None
    """The held-out batches of this rank, anew at each call."""
    held_out_keys: tuple[str, ...]
    """What they are made of, by the cache's keys."""
    checkpointer: Checkpointer
    num_steps: int
    marks: list[Callable[[str], None]]
    """Who is told of a step's parts."""
    extra: dict[str, Any]
    """What the checkpoint that it goes on from said; empty at a beginning."""


def set_up(training: Training, ranks: Ranks, output: Path, records: Records, watch: HangWatch) -> Parts:
    """Raises IronloomError for everything that another attempt would not mend."""

    def say(text: str) -> None:
        if ranks.is_first:
            records.write(Kind.PHASE, message=text)

    def note(text: str) -> None:
        if text and ranks.is_first:
            records.write(Kind.NOTE, message=text)

    device = device_of_rank()
    _seed(training.seed + ranks.rank)
    _share_cores(ranks, device)
    if training.compute.is_deterministic:
        set_deterministic(True)
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    training, notes = adapted(
        training, this_machine(is_gpu=device.type == "cuda", capability=capability, num_ranks=ranks.world)
    )
    if not training.data.sources:
        raise UsageError("data.sources is not said: there is nothing to train on", hint="--data FILE names it")
    start_group(device, timeout_s=max(60.0, 2 * training.watch.hang_timeout_s or 1800.0))
    for one in notes:
        note(one)
    watch.enter("starting")
    source, model_note = model_folder(
        training.model, default_cache_dir(), say, is_from_scratch=training.is_from_scratch
    )
    note(model_note)
    config = read_config(source)
    require_room(training, shape_of_path(source), ranks.world, _room(device, ranks))
    tokenizer = load_tokenizer(source)
    note(refuse_mismatch(tokenizer, config, name=training.model) or "")
    checkpointer = Checkpointer(
        folder.checkpoints_of(output), training.checkpoint, identity=identity_of(training, config, source)
    )
    checkpointer.refuse_another_model()
    say("reading the data")
    prepared = prepare_data(training.data, tokenizer, default_cache_dir() / "tokens", say=say)
    if ranks.is_first:
        for one in prepared.notes:
            records.write(Kind.NOTE, message=one, about=DATA)
    loader = Loader(
        prepared,
        global_batch_size=training.global_batch_size,
        micro_batch_size=training.micro_batch_size,
        rank=ranks.rank,
        world=ranks.world,
        is_pinned=device.type == "cuda",
    )
    say("loading the model")
    model = _model(training, config, source, device, ranks.world)
    optimizer = make_optimizer(model, training.optimizer, training.compute)
    extra = checkpointer.load(model, optimizer) or {}
    for one in checkpointer.damaged:
        note(f"A checkpoint was set aside: {one}.")
    checkpointer.prepare(model, optimizer)
    note(checkpointer.note)
    if extra:
        loader.restore(extra["loader"])
    num_steps = steps_of(
        training,
        prepared.train.sequences_per_epoch,
        step=int(extra.get("step") or 0),
        num_consumed=loader.consumed_sequences,
    )
    agree.wait_for_all()
    marks: list[Callable[[str], None]] = []

    def mark(part: str) -> None:
        for told in marks:
            told(part)

    return Parts(
        training=training,
        ranks=ranks,
        output=output,
        device=device,
        config=config,
        source=source,
        tokenizer=tokenizer,
        model=model,
        optimizer=optimizer,
        step=Step(model, optimizer, num_chunks=training.compute.loss_chunks, mark=mark),
        loader=loader,
        held_out=_held_out(training, prepared, ranks),
        held_out_keys=tuple(sequences.cache.key for sequences in prepared.held_out),
        checkpointer=checkpointer,
        num_steps=num_steps,
        marks=marks,
        extra=extra,
    )


def steps_of(training: Training, sequences_per_epoch: int, *, step: int = 0, num_consumed: int = 0) -> int:
    """Optimizer steps of the whole run: as said, or as many as its epochs take; at least one. Where it goes on from
    `step`, after `num_consumed` sequences, what is left is counted in steps of now: a batch may have had another
    size."""
    if training.num_steps:
        return training.num_steps
    num_sequences, batch = training.num_epochs * sequences_per_epoch, training.global_batch_size
    if num_consumed == step * batch:  # not by what is left: the sum of two roundings may be another
        return max(1, math.ceil(num_sequences / batch))
    return step + math.ceil(max(0.0, num_sequences - num_consumed) / batch)


def _model(training: Training, config: dict[str, Any], source: Path, device: torch.device, num_ranks: int) -> Any:
    """On `meta` first, laid out, then each rank fills its own part."""
    compute = training.compute
    has_adapters = training.method is not Method.FULL
    model = build(config, device="meta", dtype=DTYPES[compute.compute_dtype if has_adapters else compute.param_dtype])
    if training.method is Method.QLORA:
        model = to_nf4(model)
    if has_adapters:
        model = add_adapters(model, training.lora, dtype=DTYPES[compute.param_dtype])
    compute = replace(compute, num_whole_blocks=whole_blocks_of(training, model.config, num_ranks))
    model = shard_model(model, compute)
    model.to_empty(device="cpu" if compute.is_cpu_offload else device)
    if training.is_from_scratch:
        model.reset(training.seed)
    else:
        load_pretrained(model, source)
    if has_adapters:
        reset_adapters(model, training.seed)
    return model.train()


def _held_out(training: Training, prepared: Prepared, ranks: Ranks) -> Callable[[], Iterator[Batch]] | None:
    if not prepared.held_out:
        return None
    return lambda: held_out_batches(
        prepared.held_out,
        micro_batch_size=training.micro_batch_size,
        rank=ranks.rank,
        world=ranks.world,
        has_documents=training.data.is_packed,
    )


def _seed(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)


def _share_cores(ranks: Ranks, device: torch.device) -> None:
    """Ranks of one machine share its cores; torch would give each of them all."""
    if device.type == "cpu" and ranks.local_world > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks.local_world))


def _room(device: torch.device, ranks: Ranks) -> Room:
    from ironloom.fleet.machine import this_machine as machine

    host_bytes, local = machine().available_memory_bytes, ranks.local_world
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return Room(free_bytes=free, where=f"GPU {device.index}", num_local_ranks=local, host_bytes=host_bytes)
    return Room(
        free_bytes=host_bytes,
        where="this machine's memory",
        num_ranks_sharing=local,
        num_local_ranks=local,
        is_gpu=False,
    )
