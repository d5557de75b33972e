"""What a checkpoint costs the steps beside it: an asynchronous one and a synchronous one of the same run.

    python bench/gpu/checkpoint.py --shape 8b --seq 8192 --batch 1 --folder DISK --out OUT
    torchrun --standalone --nproc-per-node 8 bench/gpu/checkpoint.py --shape 8b --seq 8192 --batch 1 …

A decoder of random weights is trained for real (bf16 parameters and Adam states, random tokens, no network). Every
step's own stream is waited for, as a loop that reads its loss does, so that its time is its own. After the steps
without a checkpoint, the steps run on while one is taken and written, until it is whole on the disk.

stall: the longest step while a checkpoint is taken, less the median step without one. Host buffers and plans are
prepared before, and their time is told; one checkpoint is on the disk at a time. `--shape tiny` runs on a CPU. Under
torchrun the model is sharded over all ranks, and the times are those of rank 0, whose steps wait for the others.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / "src")]

import race_worker
import torch
from race_ours import Batch
from race_rows import SHAPES, Row
from torch import distributed

import record
from ironloom.train.checkpoint.checkpointer import Checkpointer, Saved
from ironloom.train.model.decoder import build
from ironloom.train.parallel.mesh import device_of_rank, mesh_for, start_group
from ironloom.train.parallel.model import shard_model
from ironloom.train.step.step import Step, make_optimizer
from ironloom.workload.training import Checkpointing, CheckpointPolicy, Compute, Dtype, OptimizerSettings

MAX_STEPS = 400
"""While one checkpoint is written; a disk slower than that ends the run."""


def main() -> int:
    options = parsed()
    row = Row(
        shape=options.shape,
        seq=options.seq,
        batch=options.batch,
        dtype="bfloat16",
        checkpointing=options.checkpointing,
        is_compiled=not options.eager,
    )
    begin_s = time.monotonic()
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    start_group(device_of_rank())
    run = Run(row)
    say(f"built in {time.monotonic() - begin_s:.1f} s")
    for _ in range(row.warmup):
        run.step()
    plain = [run.step() for _ in range(options.steps)]
    say(f"median step {median(plain):.3f} s, longest {max(plain):.3f} s")
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    results: dict[str, Any] = {"row": row.label(), "device": device_name(), "num_ranks": ranks}
    results |= {"plain_step_s": plain, "taken": []}
    if torch.cuda.is_available():
        results["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    for is_async in (True, False):
        kind = "async" if is_async else "sync"
        left_s = options.limit_s - (time.monotonic() - begin_s)
        if not agreed(left_s >= 0):
            say(f"{kind}: not begun, as the time is up")
            break
        results["taken"].append(take(run, options.folder / kind, plain, is_async=is_async, times=options.times))
        if is_first():
            (options.out / "checkpoint.json").write_text(json.dumps(results, indent=1))
    if is_first():
        tell(results, options)
    if distributed.is_initialized():
        distributed.destroy_process_group()
    return 0


def tell(results: dict[str, Any], options: argparse.Namespace) -> None:
    """The result as a file."""
    path = record.write(
        "gpu-checkpoint",
        results,
        distributions=("torch", "triton"),
        notes=[
            "stall_s: the longest step while a checkpoint is taken, less the median step without one",
            "a step is timed from the end of the one before to the end of its own stream, the save included",
        ],
        folder=options.out,
    )
    say(f"wrote {path}")


def is_first() -> bool:
    return not distributed.is_initialized() or distributed.get_rank() == 0


def say(text: str) -> None:
    """Once, whatever the number of ranks."""
    if is_first():
        print(text, flush=True)


def agreed(is_so: bool) -> bool:
    """Whether it is so on every rank: they take the same number of steps."""
    if not distributed.is_initialized():
        return is_so
    flag = torch.tensor(int(is_so))
    distributed.all_reduce(flag, distributed.ReduceOp.MIN)
    return bool(flag)


class Run:
    """A training run whose steps are timed."""

    def __init__(self, row: Row) -> None:
        torch.manual_seed(0)
        compute = Compute(
            param_dtype=Dtype.BFLOAT16, checkpointing=Checkpointing(row.checkpointing), is_compiled=row.is_compiled
        )
        self.row = row
        where = device_of_rank()
        if distributed.is_initialized():
            self.model = build(SHAPES[row.shape].config, device="meta", dtype=torch.bfloat16)
            shard_model(self.model, compute, mesh=mesh_for(compute, where.type))
            self.model.to_empty(device=where)
            self.model.reset(0)
        else:
            self.model = build(SHAPES[row.shape].config, device=where, dtype=torch.bfloat16)
            self.model.reset(0)
            shard_model(self.model, compute)
        self.optimizer = make_optimizer(self.model, OptimizerSettings(learning_rate=row.learning_rate), compute)
        self.checkpointer: Checkpointer | None = None
        self.number = 0
        self.waited_s = 0.0
        self._batches = race_worker.batches(row)
        self._step = Step(self.model, self.optimizer, num_chunks=compute.loss_chunks, mark=self._mark)

    def step(self, *, is_saved: bool = False) -> float:
        """One step, with a save at its end where asked for; its seconds."""
        begin_s = time.perf_counter()
        self.waited_s = 0.0
        self._step([Batch(*next(self._batches))], self.row.learning_rate)
        self.number += 1
        if is_saved and self.checkpointer is not None:
            self.checkpointer.save(self.number, self.model, self.optimizer, {"step": self.number})
        if torch.cuda.is_available():  # the copy's stream is not the step's: the next update waits for it, and is timed
            torch.cuda.current_stream().synchronize()
        return time.perf_counter() - begin_s

    def _mark(self, part: str) -> None:
        if part == "backward" and self.checkpointer is not None:
            begin_s = time.perf_counter()
            self.checkpointer.before_update()
            self.waited_s += time.perf_counter() - begin_s


def take(run: Run, folder: Path, plain: list[float], *, is_async: bool, times: int) -> dict[str, Any]:
    """Takes checkpoints one after the other, with steps beside them, and removes them."""
    if is_first():
        shutil.rmtree(folder, ignore_errors=True)
    policy = CheckpointPolicy(keep_last=1, is_async=is_async)
    run.checkpointer = checkpointer = Checkpointer(folder, policy)
    begin_s = time.perf_counter()
    checkpointer.prepare(run.model, run.optimizer)
    prepare_s = time.perf_counter() - begin_s
    usual_s = median(plain)
    found = []
    for _ in range(times if is_async else 1):
        steps, waits = [run.step(is_saved=True)], [run.waited_s]
        outcome = checkpointer.poll()
        while not agreed(outcome is not None):
            if len(steps) > MAX_STEPS:
                sys.exit("The disk takes longer than the run may.")
            steps.append(run.step())
            waits.append(run.waited_s)
            outcome = outcome or checkpointer.poll()
        if not isinstance(outcome, Saved):
            sys.exit(outcome.reason if outcome else "no checkpoint was taken")
        if is_first():
            shutil.rmtree(folder)  # one checkpoint on the disk at a time
        agreed(True)
        stall_s = max(steps) - usual_s
        found.append(
            {
                "num_bytes": outcome.num_bytes,
                "stall_s": round(stall_s, 4),
                "lost_s": round(sum(steps) - len(steps) * usual_s, 4),
                "write_s": round(outcome.write_s, 3),
                "write_gb_per_s": round(outcome.num_bytes / outcome.write_s / 1e9, 3),
                "steps_s": [round(step, 4) for step in steps],
                "waited_for_copy_s": [round(wait, 4) for wait in waits],
            }
        )
        say(
            f"{'async' if is_async else 'sync'}: {outcome.num_bytes / 1e9:.2f} GB, stall {stall_s:.3f} s, "
            f"written in {outcome.write_s:.1f} s beside {len(steps)} steps (buffers: {prepare_s:.1f} s)",
        )
    checkpointer.close()
    run.checkpointer = None
    return {"is_async": is_async, "prepare_s": round(prepare_s, 3), "checkpoints": found}


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="tiny", choices=sorted(SHAPES))
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--checkpointing", default="full", choices=["none", "selective", "full"])
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--steps", type=int, default=12, help="steps without a checkpoint, for the median")
    parser.add_argument("--times", type=int, default=2, help="asynchronous checkpoints")
    parser.add_argument("--limit-s", type=float, default=600, help="no kind of checkpoint begins after this")
    parser.add_argument("--folder", type=Path, required=True, help="checkpoints are written, and removed, here")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
