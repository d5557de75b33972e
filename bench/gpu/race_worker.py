"""What the workers of a training race share: rows come in on stdin, results go out on stdout, one line of JSON each.

A worker lives through the whole race, so that imports and compiled code are paid once; between rows it gives all GPU
memory back.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from race_rows import SHAPES, Row, result

MARK = "RESULT "
NUM_BATCHES = 8
"""Distinct batches, which come again in turn."""


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Until the GPU has done all that is queued."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def batches(row: Row) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Tokens and targets of each step, in pinned memory; the same for every system."""
    generator = torch.Generator().manual_seed(row.seed)
    size = (row.batch, row.seq + 1)
    if row.text:
        data = torch.frombuffer(bytearray(Path(row.text).read_bytes()), dtype=torch.uint8).long()
        while True:
            starts = torch.randint(len(data) - row.seq - 1, (row.batch,), generator=generator)
            yield _split(torch.stack([data[start : start + row.seq + 1] for start in starts.tolist()]))
    made = [_split(torch.randint(SHAPES[row.shape].vocab, size, generator=generator)) for _ in range(NUM_BATCHES)]
    while True:
        yield from made


def _split(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    return (tokens.pin_memory(), targets.pin_memory()) if torch.cuda.is_available() else (tokens, targets)


def timed(row: Row, step: Callable[[], Any], read: Callable[[Any], float]) -> dict[str, Any]:
    """Runs the warm-up and the steps that count. Nothing waits for the GPU between the first and the last of them."""
    from race_rows import measured

    losses = [step() for _ in range(row.warmup)]
    wait()
    if row.tweaks.get("profile"):
        profile(step, str(row.tweaks["profile"]))
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    losses += [step() for _ in range(row.steps)]
    wait()
    seconds = time.perf_counter() - begin
    on_gpu = torch.cuda.is_available()
    return measured(
        row,
        seconds=seconds,
        losses=[read(loss) for loss in losses if loss is not None],
        peak=torch.cuda.max_memory_allocated() if on_gpu else 0,
        reserved=torch.cuda.max_memory_reserved() if on_gpu else 0,
    )


def profile(step: Callable[[], Any], path: str) -> None:
    """The kernels of two steps, the longest first, as text."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        for _ in range(2):
            step()
        wait()
    table = found.key_averages().table(sort_by="self_cuda_time_total", row_limit=70, max_name_column_width=110)
    Path(path).write_text(table)


def facts() -> dict[str, str]:
    """What the numbers hold for."""
    from importlib import metadata

    found = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
    for name in ("torchtitan", "transformers", "peft", "triton", "torchao"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def serve(system: str, run: Callable[[Row], dict[str, Any]]) -> None:
    """Runs each row that stdin names, until it ends."""
    known = facts()
    print(f"{MARK}{json.dumps({'ready': system, **known})}", flush=True)
    for line in sys.stdin:
        row = Row(**json.loads(line))
        begin = time.perf_counter()
        try:
            found = result(row, system, **run(row))
        except Exception as error:  # a row that fails must not end the race
            traceback.print_exc()
            found = result(row, system, ok=False, error=f"{type(error).__name__}: {error}"[:500])
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        found["wall_s"] = round(time.perf_counter() - begin, 1)
        print(f"{MARK}{json.dumps({**found, 'versions': known, 'pid': os.getpid()})}", flush=True)
