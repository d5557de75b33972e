"""`ironloom train` on one GPU at settings of the race: what the whole loop costs beside the bare step, and what
deterministic mode and micro batches of one sequence cost in it.

    python bench/gpu/train_loop.py --size 1b --gpus 1 --out FOLDER --folder SCRATCH
    python bench/gpu/train_loop.py --size tiny --gpus 0 --seq 64 --steps 6 --out FOLDER --folder SCRATCH   (no GPU)

A daemon on a free port trains new weights of a Llama (random_llama.py) on this project's pages, documents packed, fp32
parameters and states, selective checkpointing, one run after the other. A run's rate is the median over the told steps
of its second half.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import kill_resume
import random_llama

import record
from ironloom.train.loop.records import Kind

BATCH = 16
VARIANTS: dict[str, tuple[str, ...]] = {
    "as-in-the-race": (f"micro_batch_size={BATCH}", "compute.loss_chunks=1"),
    "deterministic": (f"micro_batch_size={BATCH}", "compute.loss_chunks=1", "compute.is_deterministic=true"),
    "micro-4": ("micro_batch_size=4",),
    "micro-1": ("micro_batch_size=1",),
    "micro-1-deterministic": ("micro_batch_size=1", "compute.is_deterministic=true"),
}
"""Settings that differ; each run has a batch of 16 sequences."""


def main() -> int:
    options = parsed()
    options.folder.mkdir(parents=True, exist_ok=True)
    options.ranks, options.batch, options.every = 1, BATCH, 0
    random_llama.write(options.folder / "model", replace(random_llama.SIZES[options.size], has_weights=False))
    kill_resume.write_text(options.folder / "text")
    runs = kill_resume.Runs(options, options.folder)
    results: dict[str, Any] = {"settings": {k: v for k, v in vars(options).items() if k not in ("folder", "out")}}
    runs.ironloom("up", "--detach")
    try:
        for name in options.variants.split(","):
            settings = (*VARIANTS[name], "watch.log_every_steps=5", "checkpoint.every_steps=0")
            runs.start(name, name, 1, settings)
            runs.until_step(name, name, 0)
            results[name] = {"settings": settings, **measured(runs.records(name, Kind.STEP))}
            print(name, json.dumps(results[name]), flush=True)
            shutil.rmtree(options.folder / name)
            record.write(options.write, results, distributions=("torch", "triton"), folder=options.out)
    finally:
        runs.ironloom("down")
    return 0


def measured(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the told steps of the second half."""
    last = [one for one in steps if one["step"] > steps[-1]["step"] // 2]
    tokens = (steps[-1]["tokens"] - steps[0]["tokens"]) / (steps[-1]["step"] - steps[0]["step"])
    step_s = median(one["step_s"] for one in last)
    parts = {name: median(one["parts_s"].get(name, 0.0) for one in last) for name in last[-1]["parts_s"]}
    return {
        "tokens_per_s": round(tokens / step_s),
        "step_s": round(step_s, 4),
        "mfu": steps[-1].get("mfu"),
        "parts_s": {name: round(seconds, 5) for name, seconds in parts.items()},
        "peak_memory_gib": round(steps[-1].get("peak_memory_bytes", 0) / 2**30, 2),
        "losses": [steps[0]["loss"], steps[-1]["loss"]],
    }


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny", choices=sorted(random_llama.SIZES))
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--seq", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--limit-s", type=float, default=150, help="of each run")
    parser.add_argument("--folder", type=Path, required=True, help="model, text, outputs")
    parser.add_argument("--write", default="train-loop-settings", metavar="NAME")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
