"""Runs a function of a test on several ranks: gloo processes on this machine, their results back as one list."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing


def on_ranks(num_ranks: int, function: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """`function(*args)` on each rank, inside a process group; what each returned, by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_run, (num_ranks, port, function, folder, args), nprocs=num_ranks)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(num_ranks)]


def _run(rank: int, num_ranks: int, port: int, function: Callable[..., Any], folder: Path, args: Any) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(num_ranks),
        LOCAL_WORLD_SIZE=str(num_ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    try:
        torch.save(function(*args), folder / f"rank-{rank}.pt")
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
