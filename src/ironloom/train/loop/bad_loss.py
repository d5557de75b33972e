"""The end of a run whose loss went bad, and what is kept to look into it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


class BadLoss(Exception):
    """The loss went bad, and the rule says stop. What led there is in a file beside the records."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """`logs/bad-loss-step-N.json`. On a GPU losses are looked at when they are told: it may have happened at any step
    since the last look, whose sequences are those named."""

    step: int
    last_step_before: int
    """Whose loss was looked at."""
    loss: str
    """As Python writes it: JSON has no nan."""
    grad_norm: str | None
    """Before clipping; None where the weights were left as they are."""
    recent_losses: Sequence[float]
    """Good ones, the last one last."""
    first_sequence: int
    """Of the run's order, from 0."""
    num_sequences: int

    def write(self, logs: Path) -> None:
        """Under `file`'s name."""
        self.file(logs).write_text(json.dumps(asdict(self), indent=2) + "\n")

    def file(self, logs: Path) -> Path:
        """Where it lies in a run's logs."""
        return logs / f"bad-loss-step-{self.step}.json"

    def told(self, logs: Path, *, reason: str, saved_step: int) -> str:
        """In a sentence. `saved_step` is the last checkpoint's; 0 without one."""
        looked = ""
        if self.step - self.last_step_before > 1:
            looked = f", and was looked at last at step {self.last_step_before}"
        last = f"the last checkpoint is of step {saved_step}" if saved_step > 0 else "no checkpoint was taken yet"
        return f"step {self.step}: {reason}{looked}; {last}; what led there is in {self.file(logs)}"
