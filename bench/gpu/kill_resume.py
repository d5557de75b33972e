"""`ironloom train` on GPUs: a rank killed, the run resumed, and resumed on fewer ranks, beside an uninterrupted run.

    python bench/gpu/kill_resume.py --size 1b --ranks 2 --gpus 2 --steps 60 --out FOLDER
    python bench/gpu/kill_resume.py --size tiny --ranks 2 --gpus 0 --steps 12 --seq 64 --out FOLDER    (gloo, no GPU)

A daemon on a free port with a state folder of its own trains new weights of a Llama (random_llama.py) on this project's
pages, but for one in deterministic mode, a checkpoint every few steps:

  plain    from the first step to the last
  free     the same without deterministic mode and without checkpoints between: what that mode costs
  killed   kill -9 of the last rank in the middle between two checkpoints; the run goes on by itself
  fewer    `ironloom delete` after a third of the steps (a checkpoint is taken), then on half as many ranks to the end

Told: the largest difference of the losses from plain's (killed: 0, bit for bit), the seconds from the kill to the next
new step, the steps done twice, the checkpoints' bytes and seconds, and the longest step beside one, less the median.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "bench"), str(ROOT / "src")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))

import random_llama

import record
from ironloom.train.loop.records import Kind, path_of, read_records
from ironloom.train.run_state import ENDED_STATES, RunState

CLI = [sys.executable, "-c", "from ironloom.cli.main import main; main()"]
PAUSE_S = 0.05


class Runs:
    """The runs of one daemon."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._environment = {
            **os.environ,
            "IRONLOOM_HOME": str(folder / "home"),
            "IRONLOOM_CACHE": str(folder / "cache"),
            "IRONLOOM_PORT": str(free_port()),
            "NCCL_NVLS_ENABLE": "0",
        }

    def ironloom(self, *args: str, limit_s: float = 60) -> str:
        done = subprocess.run(
            [*CLI, *args], check=False, env=self._environment, capture_output=True, text=True, timeout=limit_s
        )
        if done.returncode:
            sys.exit(f"ironloom {args[0]} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout

    def start(self, name: str, output: str, num_ranks: int, more: Sequence[str] = ()) -> None:
        """A run that trains in `output`; without `more` settings deterministic, with a checkpoint every few steps."""
        options = self._options
        settings = list(more) or [
            "compute.is_deterministic=true",
            f"checkpoint.every_steps={options.every}",
            f"micro_batch_size={options.micro}",
            "watch.log_every_steps=1",
        ]
        settings += ["checkpoint.keep_last=1", "optimizer.warmup_steps=5", "data.seed=1"]
        gpus = min(options.gpus, num_ranks)
        self.ironloom(
            "train", str(self._folder / "model"), "--from-scratch", "--name", name, "--no-wait",
            "--data", str(self._folder / "text"), "--output", str(self._folder / output),
            "--steps", str(options.steps), "--batch", str(options.ranks * options.batch),
            "--seq-len", str(options.seq), "--lr", "3e-4", "--ranks", str(num_ranks), "--gpus", str(gpus),
            *(part for setting in settings for part in ("--set", setting)),
        )  # fmt: skip

    def records(self, output: str, kind: Kind) -> list[dict[str, Any]]:
        path = path_of(self._folder / output / "logs", 0)
        found = read_records(path)[0] if path.exists() else []
        return [one for one in found if one["kind"] == kind]

    def until_step(self, name: str, output: str, step: int) -> None:
        """Wait until the run has done a step, or `step` = 0: has ended."""
        deadline = time.monotonic() + self._options.limit_s
        next_look = 0.0
        while True:
            steps = self.records(output, Kind.STEP)
            if step and steps and steps[-1]["step"] >= step:
                return
            if time.monotonic() > next_look:
                state = self.described(name)["state"]
                if state == RunState.SUCCEEDED:
                    return
                if state in ENDED_STATES:
                    sys.exit(f"{name}: {state}\n{self.ironloom('describe', name)}{self.log(output)}")
                next_look = time.monotonic() + 1
            if time.monotonic() > deadline:
                sys.exit(f"{name} took more than {self._options.limit_s} s.\n{self.ironloom('describe', name)}")
            time.sleep(PAUSE_S)

    def described(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ironloom("describe", name, "-o", "json"))
        return found

    def log(self, output: str) -> str:
        return "\n".join(path.read_text()[-2000:] for path in sorted((self._folder / output / "logs").glob("*.log")))

    def losses(self, output: str) -> dict[int, float]:
        return {one["step"]: one["loss"] for one in self.records(output, Kind.STEP)}


def main() -> int:
    options = parsed()
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    random_llama.write(folder / "model", replace(random_llama.SIZES[options.size], has_weights=False))
    write_text(folder / "text")
    runs = Runs(options, folder)
    results: dict[str, Any] = {"settings": {k: v for k, v in vars(options).items() if k not in ("folder", "out")}}
    runs.ironloom("up", "--detach")
    try:
        print(json.dumps(plain(runs, results)), flush=True)
        print(json.dumps(free(runs, results)), flush=True)
        print(json.dumps(killed(runs, options, results)), flush=True)
        save(results, options)
        print(json.dumps(fewer(runs, options, results)), flush=True)
    finally:
        runs.ironloom("down")
    print(f"wrote {save(results, options)}")
    return 0


def write_text(folder: Path) -> None:
    """This project's pages."""
    folder.mkdir(exist_ok=True)
    for number, page in enumerate(sorted((ROOT / "docs").rglob("*.md"))):
        (folder / f"{number}.txt").write_text(page.read_text())


def plain(runs: Runs, results: dict[str, Any]) -> dict[str, Any]:
    """From the first step to the last."""
    runs.start("plain", "plain", runs._options.ranks)
    runs.until_step("plain", "plain", 0)
    steps = runs.records("plain", Kind.STEP)
    usual_s = median(one["step_s"] for one in steps[5:])
    saved = runs.records("plain", Kind.CHECKPOINTED)
    beside = [one["step_s"] for one in steps[5:]]
    results["losses"] = {"plain": runs.losses("plain")}
    results["plain"] = {
        "first_loss": steps[0]["loss"],
        "last_loss": steps[-1]["loss"],
        "step_s": round(usual_s, 4),
        "longest_step_s": round(max(beside), 4),
        "tokens_per_s": steps[-1].get("tokens_per_s"),
        "mfu": steps[-1].get("mfu"),
        "parts_s": steps[-1].get("parts_s"),
        "checkpoints": [{k: v for k, v in one.items() if k not in ("kind", "t", "attempt")} for one in saved],
    }
    return dict(results["plain"])


def free(runs: Runs, results: dict[str, Any]) -> dict[str, Any]:
    """Not deterministic. The price is plain's usual step over this one's."""
    micro = f"micro_batch_size={runs._options.micro}"
    settings = ("compute.is_deterministic=false", "checkpoint.every_steps=0", micro, "watch.log_every_steps=1")
    runs.start("free", "free", runs._options.ranks, settings)
    runs.until_step("free", "free", 0)
    steps = runs.records("free", Kind.STEP)
    usual_s = median(one["step_s"] for one in steps[5:])
    results["losses"]["free"] = runs.losses("free")
    results["free"] = {
        "step_s": round(usual_s, 4),
        "tokens_per_s": steps[-1].get("tokens_per_s"),
        "mfu": steps[-1].get("mfu"),
        "parts_s": steps[-1].get("parts_s"),
        "price_of_determinism": round(results["plain"]["step_s"] / usual_s, 3),
        "largest_loss_difference": apart(results["losses"]["plain"], results["losses"]["free"]),
    }
    return dict(results["free"])


def killed(runs: Runs, options: argparse.Namespace, results: dict[str, Any]) -> dict[str, Any]:
    """kill -9 of the last rank between two checkpoints."""
    at_step = options.every * 2 + options.every // 2
    runs.start("killed", "killed", options.ranks)
    runs.until_step("killed", "killed", at_step)
    ranks = runs.described("killed")["ranks"]
    killed_s = time.time()
    os.kill(next(one["pid"] for one in ranks if one["rank"] == options.ranks - 1), signal.SIGKILL)
    last_step = runs.records("killed", Kind.STEP)[-1]["step"]
    runs.until_step("killed", "killed", 0)
    steps = runs.records("killed", Kind.STEP)
    again = [one for one in steps if one["attempt"] > 1]
    results["losses"]["killed"] = runs.losses("killed")
    results["killed"] = {
        "killed_after_step": last_step,
        "attempts": steps[-1]["attempt"],
        "first_step_again": again[0]["step"],
        "seconds_to_next_step": round(again[0]["t"] - killed_s, 2),
        "seconds_to_new_step": round(next(one["t"] for one in again if one["step"] > last_step) - killed_s, 2),
        "largest_loss_difference": apart(results["losses"]["plain"], results["losses"]["killed"]),
        "is_bit_identical": results["losses"]["plain"] == results["losses"]["killed"],
    }
    return dict(results["killed"])


def fewer(runs: Runs, options: argparse.Namespace, results: dict[str, Any]) -> dict[str, Any]:
    """Ended after a third of the steps, and gone on with on half as many ranks."""
    num_ranks = max(1, options.ranks // 2)
    runs.start("first", "fewer", options.ranks)
    runs.until_step("first", "fewer", options.steps // 3)
    runs.ironloom("delete", "first", limit_s=120)
    left_at = runs.records("fewer", Kind.STEP)[-1]["step"]
    runs.start("second", "fewer", num_ranks)
    runs.until_step("second", "fewer", 0)
    losses = runs.losses("fewer")
    results["losses"]["fewer"] = losses
    usual = results["losses"]["plain"]
    results["fewer"] = {
        "ranks": [options.ranks, num_ranks],
        "left_at_step": left_at,
        "has_every_step": losses.keys() == usual.keys(),
        "largest_loss_difference": apart(usual, losses),
        "mean_loss_difference": round(sum(abs(losses[k] - usual[k]) for k in usual) / len(usual), 6),
        "last_losses": [usual[max(usual)], losses[max(losses)]],
    }
    return dict(results["fewer"])


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def apart(one: dict[int, float], other: dict[int, float]) -> float:
    return max(abs(other[step] - one[step]) for step in one)


def save(results: dict[str, Any], options: argparse.Namespace) -> Path:
    return record.write(options.write, results, distributions=("torch", "triton"), folder=options.out)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny", choices=sorted(random_llama.SIZES))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--batch", type=int, default=2, help="sequences a rank and step")
    parser.add_argument("--micro", type=int, default=1, help="sequences a rank computes at once")
    parser.add_argument("--seq", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every", type=int, default=4, help="steps between checkpoints")
    parser.add_argument("--limit-s", type=float, default=300, help="of each run")
    parser.add_argument("--folder", type=Path, required=True, help="model, text, outputs")
    parser.add_argument("--write", default="train-kill-resume", metavar="NAME")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
