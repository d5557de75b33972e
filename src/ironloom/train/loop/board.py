"""Scalars for TensorBoard, in OUTPUT/tensorboard, where the package tensorboard is installed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ironloom.train.loop.records import Kind

_SCALARS = ("loss", "grad_norm", "learning_rate", "tokens_per_s", "mfu", "step_s", "peak_memory_bytes", "num_stalls",
            "stall_s", "steal_fraction")  # fmt: skip


class Board:
    """Takes in rank 0's records. What an attempt before drew of steps that are done again is taken back."""

    def __init__(self, output: Path) -> None:
        self._folder = output / "tensorboard"
        self._is_there = find_spec("tensorboard") is not None
        self._writer: Any = None

    def show(self, record: Mapping[str, Any]) -> None:
        """The numbers of a step or an evaluation; nothing of other records."""
        if not self._is_there or record.get("kind") not in (Kind.STEP, Kind.EVALUATED):
            return
        step = record["step"]
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        if record["kind"] == Kind.EVALUATED:
            if isinstance(record.get("loss"), int | float):
                self._writer.add_scalar("evaluation/loss", record["loss"], step)
            return
        for name in _SCALARS:
            if isinstance(value := record.get(name), int | float):
                self._writer.add_scalar(f"train/{name}", value, step)
        for part, seconds in (record.get("parts_s") or {}).items():
            self._writer.add_scalar(f"step_parts_s/{part}", seconds, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
