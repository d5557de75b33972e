"""What a rank writes down as it goes: JSON objects, a line each, in OUTPUT/logs/rank-K.jsonl. One writer a file.

Each record has `kind`, `t` (seconds since the epoch), `attempt`, of a run that a daemon started `run_id` (another run
may have written into the same folder before), and, where it belongs to one, `step`. Rank 0 tells of
the whole run: steps, evaluations, checkpoints, samples; every rank tells of itself: its start, its end, its errors.
docs/reference/training.md lists them. A line that is not
whole (the rank was killed in the middle of it) is passed over.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

MAX_READ_BYTES = 64 * 1024 * 1024
DATA = "data"
"""What a note may be `about`: what was read, and what of it was left out."""


class Kind(StrEnum):
    """What a record tells."""

    STARTED = "started"
    """The attempt began: ranks, pid, the step that it goes on from."""
    PHASE = "phase"
    """What is done before the first step: pulling, tokenising, loading."""
    NOTE = "note"
    """Something that a person should know, a sentence."""
    STEP = "step"
    """Loss, gradient norm, learning rate, tokens/s, MFU, memory, stalls so far; `step_s` and `parts_s` are the mean
    step since the last one that was told and its parts, which add up to it."""
    STALLED = "stalled"
    """A step took more than twice the median of those before it: `took_s`, `usual_s`, the part that was longer."""
    PROFILED = "profiled"
    """The traces of a profiler window are written: their paths, rank by rank."""
    EVALUATED = "evaluated"
    """The loss on held-out data."""
    SAMPLED = "sampled"
    """A prompt and what the model makes of it."""
    CHECKPOINTED = "checkpointed"
    """A checkpoint is whole on the disk."""
    SKIPPED = "skipped"
    """A step with a bad loss changed no weight."""
    HUNG = "hung"
    """A step takes too long; the slow rank is named, stacks are in a file beside this one."""
    FAILED = "failed"
    """An error: code, message, hint, whether another attempt would end the same."""
    PREEMPTED = "preempted"
    """Asked to end: a checkpoint was taken."""
    EXPORTED = "exported"
    """The model is in the output folder: of which step, and its evaluation loss."""
    DONE = "done"
    """The run's end, with its report."""


class Records:
    """The writer of one rank. Each record is in the file when `write` returns."""

    def __init__(
        self,
        folder: Path,
        rank: int,
        *,
        attempt: int = 1,
        run_id: str = "",
        clock: Callable[[], float] = time.time,
        echo: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        """`echo` is shown each record too. Raises OSError where the folder cannot be written."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = path_of(folder, rank)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._of_all: dict[str, Any] = {"attempt": attempt} | ({"run_id": run_id} if run_id else {})
        self._clock = clock
        self._echo = echo
        self._may_be_torn = os.fstat(self._file).st_size > 0

    def write(self, kind: Kind, **facts: Any) -> None:
        """Numbers that are not finite become null. A full disk loses the record, and nothing else."""
        record = {"kind": kind.value, "t": round(self._clock(), 3), **self._of_all}
        record |= {name: _plain(value) for name, value in facts.items() if value is not None}
        line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        if self._may_be_torn:
            line, self._may_be_torn = b"\n" + line, False
        try:
            os.write(self._file, line)
        except OSError:
            self._may_be_torn = True
        if self._echo is not None:
            self._echo(record)

    def close(self) -> None:
        os.close(self._file)


def path_of(folder: Path, rank: int) -> Path:
    """A rank's file in the logs' folder."""
    return folder / f"rank-{rank}.jsonl"


def read_records(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole records from `offset` on, and where to go on reading. Nothing, where there is no such file."""
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < offset:
                offset = 0
            file.seek(offset)
            data = file.read(MAX_READ_BYTES)
    except OSError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    found = []
    for line in whole.splitlines():
        if not line.strip():
            continue
        try:
            record = _decode(line)
        except (msgspec.DecodeError, ValueError):
            continue
        if isinstance(record.get("kind"), str):
            found.append(record)
    return found, offset + len(whole)


_decode = msgspec.json.Decoder(dict[str, Any]).decode


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
