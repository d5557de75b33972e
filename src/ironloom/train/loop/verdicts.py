"""What a loss means for the run: whether to go on, to skip the step, to stop. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from statistics import median

from ironloom.workload.training import OnBadLoss, Watch

WINDOW = 50
"""Good losses whose median a spike is measured against."""
MIN_LOSSES = 10
"""With fewer than this there is no median to speak of, and no spike."""


class Verdict(Enum):
    GO_ON = "go on"
    SKIP = "skip"
    STOP = "stop"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What to do about a step's loss, and why."""

    verdict: Verdict
    reason: str = ""


@dataclass(slots=True)
class LossJudge:
    """Remembers the good losses, and how many in a row were bad. The same on every rank: it sees the global loss."""

    watch: Watch
    recent: list[float] = field(default_factory=list)
    num_bad_in_a_row: int = 0

    def judge(self, loss: float, grad_norm: float = 0.0) -> Judged:
        """Look at a step's loss and gradient norm before its weights change."""
        why = bad_because(loss, grad_norm, self.recent, self.watch.spike_factor)
        if why is None:
            self.num_bad_in_a_row = 0
            self.recent = [*self.recent[-WINDOW + 1 :], loss]
            return Judged(verdict=Verdict.GO_ON)
        self.num_bad_in_a_row += 1
        if self.watch.on_bad_loss is OnBadLoss.STOP:
            return Judged(verdict=Verdict.STOP, reason=why)
        if self.num_bad_in_a_row > self.watch.max_skipped_in_a_row:
            skipped = f"{self.num_bad_in_a_row} steps in a row were bad, and {self.watch.max_skipped_in_a_row} may be"
            return Judged(verdict=Verdict.STOP, reason=f"{why}; {skipped}")
        return Judged(verdict=Verdict.SKIP, reason=why)

    def state(self) -> dict[str, object]:
        """For a checkpoint, as JSON."""
        return {"recent": self.recent, "num_bad_in_a_row": self.num_bad_in_a_row}

    def restore(self, state: dict[str, object]) -> None:
        recent, number = state.get("recent"), state.get("num_bad_in_a_row")
        self.recent = [float(one) for one in recent] if isinstance(recent, list) else []
        self.num_bad_in_a_row = number if isinstance(number, int) else 0


def bad_because(loss: float, grad_norm: float, recent: Sequence[float], spike_factor: float) -> str | None:
    """Why a loss is bad, or None."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(grad_norm):
        return f"the gradient's norm is {grad_norm} (the loss is {loss:.4g})"
    if spike_factor and len(recent) >= MIN_LOSSES:
        usual = median(recent)
        if loss > spike_factor * usual:
            return f"the loss is {loss:.4g}, more than {spike_factor:g} times the median {usual:.4g} before"
    return None


@dataclass(slots=True)
class EarlyStop:
    """Counts evaluations without a better loss."""

    patience: int
    best: float = math.inf
    best_step: int = 0
    num_worse: int = 0

    def look(self, loss: float, step: int) -> bool:
        """Whether to end the run after this evaluation."""
        if loss < self.best:
            self.best, self.best_step, self.num_worse = loss, step, 0
        else:
            self.num_worse += 1
        return self.is_over

    @property
    def is_over(self) -> bool:
        """Whether the last evaluation was the one too many: of a checkpoint that was taken after it, too."""
        return bool(self.patience) and self.num_worse >= self.patience

    def state(self) -> dict[str, object]:
        best = self.best if math.isfinite(self.best) else None
        return {"best": best, "best_step": self.best_step, "num_worse": self.num_worse}

    def restore(self, state: dict[str, object]) -> None:
        best = state.get("best")
        self.best = float(best) if isinstance(best, int | float) else math.inf
        self.best_step = int(str(state.get("best_step") or 0))
        self.num_worse = int(str(state.get("num_worse") or 0))
