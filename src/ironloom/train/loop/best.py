"""Which step's model a run exports: the last one's, or that of the best evaluation. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """Whose model is exported."""

    step: int
    eval_loss: float | None
    """Of that step; None where it was not evaluated, or to no number."""


def losses_by_step(evaluated: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Evaluations as (step, loss) that a checkpoint can be chosen by: those of trained weights that are numbers."""
    return {step: loss for step, loss in evaluated if step > 0 and math.isfinite(loss)}


def restored(saved: Iterable[tuple[int, float | None]]) -> list[tuple[int, float]]:
    """Evaluations as a checkpoint's JSON has them, which knows no NaN."""
    return [(int(step), math.nan if loss is None else float(loss)) for step, loss in saved]


def better_than(losses: Mapping[int, float], step: int) -> list[int]:
    """The steps whose evaluation was better than this one's, the best first; of equal ones the earlier is better. All
    of them where this one has no evaluation."""
    own = (losses.get(step, math.inf), step)
    ordered = sorted((loss, one) for one, loss in losses.items())
    return [one for loss, one in ordered if (loss, one) < own]
