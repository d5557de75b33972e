"""A run's output folder.

OUTPUT/
  run.json          the configuration, as it is now
  .lock             held (flock) by rank 0 while the run goes on
  checkpoints/      see train/checkpoint
  logs/             rank-K.jsonl, stacks-rank-K.txt, beat-K.json
  report.json       at the end
  config.json, model.safetensors, tokenizer…    at the end: the model in Hugging Face's form
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from ironloom.errors import UsageError
from ironloom.workload.training import Training
from ironloom.workload.training_settings import to_json


def logs_of(output: Path) -> Path:
    return output / "logs"


def checkpoints_of(output: Path) -> Path:
    return output / "checkpoints"


def take(output: Path) -> int:
    """Make the folder and hold it for this process; the lock's descriptor.

    Raises UsageError where it cannot be written or another process trains into it.
    """
    try:
        for folder in (output, logs_of(output), checkpoints_of(output)):
            folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(output / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unwritable(output, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UsageError(
            f"another process trains into {output}", hint="wait for it to end, or name another output folder"
        ) from None
    return lock


def write_configuration(output: Path, training: Training) -> None:
    """Once the run is known to go on here: a refused one leaves an earlier one's as it was. Raises UsageError."""
    try:
        (output / "run.json").write_text(json.dumps(to_json(training), indent=2) + "\n")
    except OSError as error:
        raise _unwritable(output, error) from error


def _unwritable(output: Path, error: OSError) -> UsageError:
    return UsageError(f"the output folder {output} cannot be written: {error.strerror}", hint="--output names another")
