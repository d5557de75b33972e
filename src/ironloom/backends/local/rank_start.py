"""What the ranks of a run on this machine are started with: a configuration, an environment, a log each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ironloom.backends.local.ground import Ground
from ironloom.backends.local.run_store import AttemptRow, RunStore
from ironloom.train.loop.ranks import ATTEMPT, RUN_ID
from ironloom.workload.training_job import TrainingJob
from ironloom.workload.training_settings import to_json

PREEMPT_GRACE_S = 120.0
"""From SIGTERM to SIGKILL: the step ends, a checkpoint is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunGround:
    """What every run of the local backend stands on, beside the replicas' ground."""

    ground: Ground
    store: RunStore
    program: tuple[str, ...]
    """The command of a rank, before the configuration's path."""
    folder: Path
    """Configurations, a folder for each run."""
    changed: Callable[[str], None]
    grace_s: float = PREEMPT_GRACE_S


def write_config(base: RunGround, job: TrainingJob) -> Path:
    """The configuration that all ranks of a run read. Raises OSError."""
    folder = base.folder / job.name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / "config.json"
    path.write_text(json.dumps(to_json(job.training), indent=2) + "\n")
    return path


def environment(ground: Ground, job: TrainingJob, row: AttemptRow, rank: int) -> dict[str, str]:
    """Of one rank of an attempt: torchrun's variables, the run's own, and the devices that it may see."""
    extra = {
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **job.env,
        ATTEMPT: str(row.attempt),
        RUN_ID: row.run_id,
        "RANK": str(rank),
        "WORLD_SIZE": str(row.num_ranks),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(row.num_ranks),
    }
    if row.port:
        extra |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(row.port)}
    if ground.num_gpus_here():
        gpus = ",".join(map(str, row.gpu_indexes))
        extra |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": gpus}
    return ground.environment(row.mark, extra)


def log_path(ground: Ground, job: TrainingJob, rank: int) -> Path:
    """Where a rank's output goes, of all its attempts."""
    return ground.log_path(job.name, f"rank-{rank}")
