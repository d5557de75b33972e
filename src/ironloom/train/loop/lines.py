"""A run's records as lines for a person, on standard output: one a record, so that a log file reads well too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from ironloom.train.loop.records import Kind
from ironloom.units import format_bytes, format_duration


class Lines:
    """Shows records."""

    def __init__(self, name: str, put: Callable[[str], object] | None = None) -> None:
        self._name = name
        self._put = put or _print

    def show(self, record: Mapping[str, Any]) -> None:
        """Its line; nothing for what a person need not read."""
        line = line_of(record)
        if line:
            self._put(line)


def line_of(record: Mapping[str, Any]) -> str:
    """A record's line; empty where there is none to show."""
    kind, step = record.get("kind"), record.get("step", 0)
    message = str(record.get("message", ""))
    if kind == Kind.STARTED:
        ranks = record.get("num_ranks", 1)
        since = f", from step {step}" if step else ""
        return f"attempt {record.get('attempt')} on {ranks} rank{'s' if ranks != 1 else ''}{since}"
    if kind in (Kind.PHASE, Kind.NOTE, Kind.SKIPPED, Kind.HUNG, Kind.STALLED, Kind.PROFILED):
        return message
    if kind == Kind.STEP:
        return _step_line(record)
    if kind == Kind.EVALUATED:
        return f"step {step}  evaluation loss {_number(record.get('loss'))}"
    if kind == Kind.SAMPLED:
        return f"  {record.get('prompt', '')!r} → {record.get('text', '')!r}"
    if kind == Kind.CHECKPOINTED:
        return f"step {step}  checkpoint"
    if kind == Kind.PREEMPTED:
        return f"asked to end at step {step}: a checkpoint is taken"
    if kind == Kind.EXPORTED:
        of_step = f" of step {step}" if step else ""
        return f"the model{of_step} is in {record.get('path')}"
    return ""


def _step_line(record: Mapping[str, Any]) -> str:
    parts = [
        f"step {record.get('step')}/{record.get('num_steps')}",
        f"loss {_number(record.get('loss'))}",
        f"norm {_number(record.get('grad_norm'))}",
        f"rate {record.get('learning_rate', 0):.3g}",
        f"{record.get('tokens_per_s', 0):,.0f} tokens/s",
    ]
    if isinstance(mfu := record.get("mfu"), int | float):
        parts.append(f"MFU {mfu:.1%}")
    parts.append(format_bytes(record.get("peak_memory_bytes", 0)))
    if isinstance(eta_s := record.get("remaining_s"), int | float):
        parts.append(f"{format_duration(eta_s)} to go")
    return "  ".join(parts)


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "nan"


def _print(line: str) -> None:
    print(line, flush=True, file=sys.stdout)
