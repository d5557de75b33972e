"""Training over the GPUs of one host: FSDP2's strategies, scaling, torchtitan beside them, and the collectives alone.

    python bench/gpu/train_multi.py --system ironloom --gpus 4 --plan four --out FOLDER
    python bench/gpu/train_multi.py --system torchtitan --gpus 4 --plan four --out FOLDER
    python bench/gpu/train_multi.py --system collectives --gpus 4 --out FOLDER
    python bench/gpu/train_multi.py --system ironloom --gpus 2 --plan dry --out FOLDER        (gloo, no GPU needed)

One process a GPU. tokens/s, MFU and memory in OUT/multi.jsonl are of one GPU (rank 0); every rank has `batch` sequences
of its own. Set NCCL_NVLS_ENABLE=0 where NVLink multicast is not to be used.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "src")]

import race_worker
import torch
from race_plans import only
from race_rows import SHAPES, Row, result
from torch import distributed, multiprocessing

MIB = 2**20


def plan(name: str) -> list[Row]:
    """Rows; `sharding` among the tweaks is ours alone. Of the 70B's 80 layers 32 fit two GPUs of 141 GB in bf16:
    29.5 billion parameters of 8 bytes with gradient and Adam states."""
    tiny = Row(shape="tiny", seq=64, batch=2, dtype="float32", checkpointing="full", is_compiled=False, warmup=1)
    row = Row(shape="8b", seq=8192, batch=1, dtype="bfloat16", checkpointing="full", steps=5, warmup=3)
    wide = replace(row, dtype="float32")
    large = replace(row, shape="70b", steps=3, warmup=2)
    return {
        "dry": [replace(tiny, steps=2), only(replace(tiny, steps=2), sharding="HYBRID_SHARD", group=1)],
        "two": [row, wide, only(row, sharding="SHARD_GRAD_OP")],
        "four": [
            row,
            wide,
            replace(wide, checkpointing="selective"),
            only(wide, sharding="SHARD_GRAD_OP"),
            only(row, sharding="HYBRID_SHARD", group=2),
        ],
        "eight": [
            row,
            wide,
            only(row, sharding="SHARD_GRAD_OP"),
            only(row, sharding="HYBRID_SHARD", group=4),
            large,
        ],
        "pair-more": [only(row, sharding="HYBRID_SHARD", group=1), only(replace(large, shape="70b-32"))],
    }[name]


def run_ours(row: Row) -> dict[str, Any]:
    """One row of ours, from the meta device on."""
    from race_ours import Batch

    from ironloom.train.model.decoder import build
    from ironloom.train.parallel.mesh import mesh_for
    from ironloom.train.parallel.model import shard_model
    from ironloom.train.step.step import Step, make_optimizer
    from ironloom.workload.training import Checkpointing, Compute, Dtype, OptimizerSettings, Sharding

    torch._dynamo.reset()
    compute = Compute(
        param_dtype=Dtype(row.dtype),
        compute_dtype=Dtype.BFLOAT16 if torch.cuda.is_available() else Dtype.FLOAT32,
        sharding=Sharding(row.tweaks.get("sharding", "FULL_SHARD")),
        shard_group_size=row.tweaks.get("group", 0),
        checkpointing=Checkpointing(row.checkpointing),
        is_compiled=row.is_compiled,
        loss_chunks=4,
    )
    where = race_worker.device()
    model = build(SHAPES[row.shape].config, device="meta", dtype=getattr(torch, row.dtype))
    shard_model(model, compute, mesh=mesh_for(compute, where.type))
    model.to_empty(device=where)
    model.reset(0)
    settings = OptimizerSettings(learning_rate=row.learning_rate, weight_decay=0.1, max_grad_norm=1.0)
    step = Step(model, make_optimizer(model, settings, compute), num_chunks=compute.loss_chunks)
    source = race_worker.batches(row)
    return race_worker.timed(row, lambda: step([Batch(*next(source))], row.learning_rate).loss, float)


def collectives() -> list[dict[str, Any]]:
    """Bus bandwidth as nccl-tests defines it (https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md):
    all-reduce 2 (n - 1) / n, gather and scatter (n - 1) / n of the whole size over the time."""
    sizes = [MIB * 4**power for power in range(7)] if torch.cuda.is_available() else [MIB]
    return [found for size in sizes for found in _of_size(size)]


def _of_size(size: int) -> list[dict[str, Any]]:
    ranks, where = distributed.get_world_size(), race_worker.device()
    whole = torch.ones(size // 2, dtype=torch.bfloat16, device=where)
    part = torch.ones(size // 2 // ranks, dtype=torch.bfloat16, device=where)
    found = []
    for name, share, call in (
        ("all_reduce", 2 * (ranks - 1) / ranks, lambda: distributed.all_reduce(whole)),
        ("all_gather", (ranks - 1) / ranks, lambda: distributed.all_gather_into_tensor(whole, part)),
        ("reduce_scatter", (ranks - 1) / ranks, lambda: distributed.reduce_scatter_tensor(part, whole)),
    ):
        repeats = 20 if size < 2**28 else 5
        for _ in range(3):
            call()
        race_worker.wait()
        distributed.barrier()
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        race_worker.wait()
        seconds = (time.perf_counter() - begin) / repeats
        bandwidth = round(size * share / seconds / 1e9, 1)
        found.append({"collective": name, "bytes": size, "us": round(seconds * 1e6, 1), "bus_gb_per_s": bandwidth})
    return found


def on_rank(rank: int, options: argparse.Namespace) -> None:
    """All rows on one rank; rank 0 writes."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(options.gpus))
    os.environ.update(LOCAL_WORLD_SIZE=str(options.gpus), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options.port))
    if torch.cuda.is_available():
        torch.cuda.set_device(rank)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    known = race_worker.facts()
    if options.system != "torchtitan":
        distributed.init_process_group(backend)
    if options.system == "collectives":
        write(rank, options, {"system": "collectives", "gpus": options.gpus, "rows": collectives(), "versions": known})
        distributed.destroy_process_group()
        return
    if options.system == "torchtitan":
        import race_torchtitan
        from torchtitan.models.llama3 import get_train_spec
        from torchtitan.protocols.train_spec import register_train_spec

        spec = get_train_spec()
        spec.build_dataloader_fn, spec.build_tokenizer_fn = race_torchtitan.Batches, None
        register_train_spec("race", spec)
        race_torchtitan.CURRENT["spec"] = spec
    for number, row in enumerate(plan(options.plan)):
        if row.tweaks.get("only", options.system) != options.system:
            continue
        row = replace(row, tweaks={k: v for k, v in row.tweaks.items() if k != "only"})
        os.environ["MASTER_PORT"] = str(options.port + 1 + number)
        begin = time.perf_counter()
        try:
            found = result(
                row, options.system, **(run_ours(row) if options.system == "ironloom" else race_torchtitan.run(row))
            )
        except Exception as error:  # a row that fails must not end the others
            traceback.print_exc()
            found = result(row, options.system, ok=False, error=f"{type(error).__name__}: {error}"[:400])
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        found |= {"gpus": options.gpus, "wall_s": round(time.perf_counter() - begin, 1), "versions": known}
        write(rank, options, found)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def write(rank: int, options: argparse.Namespace, found: dict[str, Any]) -> None:
    """A line of OUT/multi.jsonl, and a short one to read."""
    if rank:
        return
    with (options.out / "multi.jsonl").open("a") as log:
        log.write(json.dumps(found) + "\n")
    if "rows" in found:
        for row in found["rows"]:
            size, rate = row["bytes"] / MIB, row["bus_gb_per_s"]
            print(f"{options.gpus} GPUs {row['collective']:15} {size:7.0f} MiB {rate:7.1f} GB/s")
        return
    label = Row(**{k: found[k] for k in Row.__dataclass_fields__}).label()
    if found["ok"]:
        text = f"{found['tokens_per_s']:,} tok/s a GPU  MFU {found['mfu_torchtitan']}  {found['reserved_gib']} GiB"
    else:
        text = f"failed: {found['error'][:200]}"
    print(
        f"{options.system:10} {options.gpus} GPUs  {label}  {text}  {found['tweaks'] or ''} {found['wall_s']} s",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", default="ironloom", choices=("ironloom", "torchtitan", "collectives"))
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--plan", default="dry", choices=("dry", "two", "pair-more", "four", "eight"))
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--port", type=int, default=29600)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:2], os.environ.get("PYTHONPATH", "")])
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    multiprocessing.spawn(on_rank, (options,), nprocs=options.gpus)
    return 0


if __name__ == "__main__":
    sys.exit(main())
