"""Training on one GPU: Ironloom beside torchtitan, or beside Hugging Face's Trainer, the same settings in turns.

    python bench/gpu/train_race.py --plan race --rounds 2 --out FOLDER
    python bench/gpu/train_race.py --plan lora-race --rounds 2 --systems ironloom,transformers --out FOLDER
    python bench/gpu/train_race.py --plan dry --rounds 1 --systems ironloom      (no GPU needed)

Each system is one process that lives through the race. A round runs every row with each system, one after the other,
and turns the order of the systems around in the next. A row is a warm-up and then so many steps between two waits for
the GPU: tokens/s counts all of it, update and clipping included. Tokens are random. Plan `loss` trains both from the
same weights on real text and compares the curves. Results: OUT/rows.jsonl, one line a run (race_rows.py), and a table.

Needs torch with CUDA; torchtitan 0.2.2 and what it needs beside, or transformers, accelerate and peft.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "src")]

from race_plans import PLANS
from race_rows import Row

ROW_S = 240
"""A run that takes longer is ended, and its system started anew."""
START_S = 180
MARK = "RESULT "
PATH = os.pathsep.join(filter(None, (str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH"))))


class Worker:
    """A system's process."""

    def __init__(self, system: str, out: Path) -> None:
        self.system, self._out = system, out
        self._start()

    def _start(self) -> None:
        log = (self._out / f"{self.system}.log").open("a")
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / f"race_{'ours' if self.system == 'ironloom' else self.system}.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, "PYTHONPATH": PATH, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
        )  # fmt: skip
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._next(START_S)

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(MARK):
                self._lines.put(line[len(MARK) :])
        self._lines.put(None)

    def _next(self, timeout_s: float) -> dict[str, Any]:
        line = self._lines.get(timeout=timeout_s)
        if line is None:
            raise EOFError(self.system)
        found: dict[str, Any] = json.loads(line)
        return found

    def run(self, row: Row) -> dict[str, Any]:
        """A row's result; a failure is one too."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(asdict(row)) + "\n")
            self._process.stdin.flush()
            return self._next(ROW_S)
        except (queue.Empty, EOFError, OSError) as error:
            self._process.kill()
            self._process.wait()
            self._start()
            return {"system": self.system, **asdict(row), "ok": False, "error": f"{type(error).__name__}: ended"}

    def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()


class Workers:
    """The systems' processes, each started when a row first asks for it; another one for deterministic rows, as cuBLAS
    reads its setting once."""

    def __init__(self, systems: list[str], out: Path) -> None:
        self.systems, self._out = systems, out
        self._started: dict[tuple[str, bool], Worker] = {}

    def of(self, system: str, row: Row) -> Worker:
        key = (system, bool(row.tweaks.get("deterministic")))
        if key not in self._started:
            self._started[key] = Worker(system, self._out)
        return self._started[key]

    def end(self) -> None:
        for worker in self._started.values():
            worker.end()


def race(rows: list[Row], workers: Workers, rounds: int, out: Path, end_s: float) -> list[dict[str, Any]]:
    """Every row with every system, so many times; ends early where the time does."""
    found = []
    with (out / "rows.jsonl").open("a") as log:
        for number in range(rounds):
            for row in rows:
                asked = [row.tweaks["only"]] if "only" in row.tweaks else workers.systems
                for system in asked[:: 1 if number % 2 == 0 else -1]:
                    if time.monotonic() > end_s:
                        print("out of time", flush=True)
                        return found
                    tweaks = {name: value for name, value in row.tweaks.items() if name != "only"}
                    result = {**workers.of(system, row).run(replace(row, tweaks=tweaks)), "round": number}
                    found.append(result)
                    log.write(json.dumps(result) + "\n")
                    log.flush()
                    print(line(result), flush=True)
    return found


def line(found: dict[str, Any]) -> str:
    """A result in one line."""
    label = f"{found['system']:10} {Row(**{k: found[k] for k in Row.__dataclass_fields__}).label():44}"
    if not found["ok"]:
        return f"{label} failed: {found['error'][:150]}"
    tail = f"{found['tweaks'] or ''} {found['wall_s']:.0f} s"
    return (
        f"{label} {found['tokens_per_s']:>8,} tok/s {found['step_ms']:>8} ms  MFU {found['mfu_torchtitan']:5.2f} "
        f"(causal {found['mfu_causal']:5.2f})  {found['reserved_gib']:5.1f} GiB  {tail}"
    )


def table(found: Iterable[dict[str, Any]]) -> str:
    """The medians of each row, side by side, and their ratio."""
    cells: dict[tuple[str, str, str], list[float]] = {}
    for item in found:
        if item["ok"]:
            label = Row(**{k: item[k] for k in Row.__dataclass_fields__}).label()
            cells.setdefault((label, str(item["tweaks"] or ""), item["system"]), []).append(item["tokens_per_s"])
    lines = []
    for (label, tweaks, system), rates in cells.items():
        peers = {name: found for (other, plain, name), found in cells.items() if other == label and not plain}
        ratios = [
            f"{median(rates) / median(found):.3f}x of {name}'s {median(found):,.0f}"
            for name, found in peers.items()
            if name not in (system, "ironloom")
        ]
        if system == "ironloom" or tweaks:
            said = ", ".join(ratios) or "alone"
            lines.append(f"{system:12} {label:44} {median(rates):>9,.0f} tok/s  {said}  {tweaks}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", default="dry", help=f"one or several of {', '.join(sorted(PLANS))}; NAME:ROUNDS")
    parser.add_argument("--rounds", type=int, default=2, help="of a plan that says no number")
    parser.add_argument("--systems", default="ironloom,torchtitan")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--limit-s", type=float, default=3600, help="no run begins after this")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    end_s = time.monotonic() + options.limit_s
    workers = Workers(options.systems.split(","), options.out)
    found = []
    for plan in options.plan.split(","):
        name, _, rounds = plan.partition(":")
        print(f"-- {plan}", flush=True)
        found += race(PLANS[name](options.out), workers, int(rounds or options.rounds), options.out, end_s)
    workers.end()
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
