"""Exposed communication as the meter measures it, held against a profiler's trace of the same steps; and what it costs.

    torchrun --nproc-per-node 2 bench/gpu/exposed.py --out FILE

A stack of layers is divided by FSDP2 over the GPUs. With few rows its gathers are longer than what computes, with many
they are hidden. The trace says for how long a kernel of NCCL ran and none that computes; the meter's number is the time
in which the computing stream waited.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from ironloom.train import shard
from ironloom.train.loop.meter import RunMeter

WIDTH, NUM_BLOCKS = 4096, 8
ROWS = (256, 2048, 8192)
NUM_STEPS, NUM_ROUNDS, NUM_PROFILED = 10, 5, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with torch.device("cuda", int(os.environ["LOCAL_RANK"])):
        blocks = [
            nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
            for _ in range(NUM_BLOCKS)
        ]
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = shard(nn.Sequential(*blocks), "FULL_SHARD", mixed_precision=policy)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    results = [measured(model, optimizer, rows) for rows in ROWS]
    if distributed.get_rank() == 0:
        about = {
            "command": f"torchrun --nproc-per-node {distributed.get_world_size()} bench/gpu/exposed.py",
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{distributed.get_world_size()} × {torch.cuda.get_device_name()}",
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        options.out.write_text(json.dumps({**about, "rows": results}, indent=1) + "\n")
        print(json.dumps(results, indent=1))
    distributed.destroy_process_group()


def measured(model: nn.Module, optimizer: torch.optim.Optimizer, num_rows: int) -> dict[str, Any]:
    device = torch.device("cuda", torch.cuda.current_device())
    rows = torch.randn(num_rows, WIDTH, device=device, dtype=torch.bfloat16)

    def steps(number: int, meter: RunMeter | None) -> float:
        """Mean seconds."""
        torch.cuda.synchronize()
        distributed.barrier()
        torch.cuda.synchronize()
        begun_s = time.perf_counter()
        for _ in range(number):
            if meter is not None:
                meter.begin_step()
            loss = model(rows).float().square().mean()
            if meter is not None:
                meter.mark("forward")
            loss.backward()
            if meter is not None:
                meter.mark("backward")
            optimizer.step()
            optimizer.zero_grad()
            if meter is not None:
                meter.mark("update")
                meter.end_step(num_rows)
        torch.cuda.synchronize()
        return (time.perf_counter() - begun_s) / number

    steps(NUM_STEPS, None)
    bare_s, metered_s = [], []
    for _ in range(NUM_ROUNDS):
        bare_s.append(steps(NUM_STEPS, None))
        meter = RunMeter(num_ranks=distributed.get_world_size(), device=device)
        meter.listen()
        metered_s.append(steps(NUM_STEPS, meter))
        meter.close()
        parts_s = meter.take_parts_s(is_last=True)
    meter = RunMeter(num_ranks=distributed.get_world_size(), device=device)
    meter.listen()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        steps(NUM_PROFILED, meter)
    meter.close()
    told = meter.take_parts_s(is_last=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        trace_s, nccl_s = exposed_s(json.loads(path.read_text())["traceEvents"])
    return {
        "rows": num_rows,
        "step_s": {"bare": [round(one, 6) for one in bare_s], "metered": [round(one, 6) for one in metered_s]},
        "cost": round(median(metered_s) / median(bare_s) - 1, 5),
        "parts_s": parts_s,
        "profiled": {
            "communication_s": told["communication"],
            "exposed_by_trace_s": round(trace_s / NUM_PROFILED, 6),
            "nccl_s": round(nccl_s / NUM_PROFILED, 6),
            "step_s": round(sum(told.values()), 6),
        },
    }


def exposed_s(events: list[dict[str, Any]]) -> tuple[float, float]:
    """Seconds in which a kernel of NCCL ran and none that computes, and in which one of NCCL ran."""
    kernels = [
        one for one in events if one.get("ph") == "X" and one.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]
    spans = [(one["ts"], one["ts"] + one["dur"], "nccl" in one["name"].lower()) for one in kernels]
    both = union([(begin, end) for begin, end, _ in spans])
    computing = union([(begin, end) for begin, end, is_nccl in spans if not is_nccl])
    return (both - computing) / 1e6, union([(begin, end) for begin, end, is_nccl in spans if is_nccl]) / 1e6


def union(spans: list[tuple[float, float]]) -> float:
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


if __name__ == "__main__":
    main()
