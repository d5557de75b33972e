"""What a checkpoint costs the steps beside it: an asynchronous one and a synchronous one of the same run.

    python bench/gpu/checkpoint.py --shape 8b --seq 8192 --batch 1 --folder DISK --out OUT

A decoder of random weights is trained for real (bf16 parameters and Adam states, random tokens, no network). Every
step's own stream is waited for, as a loop that reads its loss does, so that its time is its own. After the steps
without a checkpoint, the steps run on while one is taken and written, until it is whole on the disk.

stall: the longest step while a checkpoint is taken, less the median step without one. Host buffers and plans are
prepared before, and their time is told; one checkpoint is on the disk at a time. `--shape tiny` runs on a CPU.
"""

from __future__ import annotations

import argparse
import json
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

import record
from ironloom.train.checkpoint.checkpointer import Checkpointer, Saved
from ironloom.train.model.decoder import build
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
    run = Run(row)
    print(f"built in {time.monotonic() - begin_s:.1f} s", flush=True)
    for _ in range(row.warmup):
        run.step()
    plain = [run.step() for _ in range(options.steps)]
    print(f"median step {median(plain):.3f} s, longest {max(plain):.3f} s", flush=True)
    results: dict[str, Any] = {"row": row.label(), "device": device_name(), "plain_step_s": plain, "taken": []}
    if torch.cuda.is_available():
        results["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    for is_async in (True, False):
        kind = "async" if is_async else "sync"
        left_s = options.limit_s - (time.monotonic() - begin_s)
        if left_s < 0:
            print(f"{kind}: not begun, as the time is up", flush=True)
            break
        results["taken"].append(take(run, options.folder / kind, plain, is_async=is_async, times=options.times))
        (options.out / "checkpoint.json").write_text(json.dumps(results, indent=1))
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
    print(f"wrote {path}", flush=True)
    return 0


class Run:
    """A training run whose steps are timed."""

    def __init__(self, row: Row) -> None:
        torch.manual_seed(0)
        compute = Compute(
            param_dtype=Dtype.BFLOAT16, checkpointing=Checkpointing(row.checkpointing), is_compiled=row.is_compiled
        )
        self.row = row
        self.model = build(SHAPES[row.shape].config, device=race_worker.device(), dtype=torch.bfloat16)
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
        while (outcome := checkpointer.poll()) is None:
            if len(steps) > MAX_STEPS:
                sys.exit("The disk takes longer than the run may.")
            steps.append(run.step())
            waits.append(run.waited_s)
        if not isinstance(outcome, Saved):
            sys.exit(outcome.reason)
        shutil.rmtree(folder)  # one checkpoint on the disk at a time
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
        print(
            f"{'async' if is_async else 'sync'}: {outcome.num_bytes / 1e9:.2f} GB, stall {stall_s:.3f} s, "
            f"written in {outcome.write_s:.1f} s beside {len(steps)} steps (buffers: {prepare_s:.1f} s)",
            flush=True,
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
