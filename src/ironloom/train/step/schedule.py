"""The learning rate over the steps: a warm-up, then constant, linear, cosine, or a decay at the end alone (WSD)."""

from __future__ import annotations

import math

from ironloom.workload.training import OptimizerSettings, Schedule


def rate_at(step: int, num_steps: int, settings: OptimizerSettings) -> float:
    """The learning rate of a step (from 0) of so many. Rises linearly over the warm-up, whose first step is not 0."""
    peak, low = settings.learning_rate, settings.min_lr_fraction
    if step < settings.warmup_steps:
        return peak * (step + 1) / (settings.warmup_steps + 1)
    if settings.schedule is Schedule.CONSTANT:
        return peak
    begin = settings.warmup_steps
    if settings.schedule is Schedule.WSD:
        begin = max(begin, num_steps - round(num_steps * settings.decay_fraction))
    if step < begin:
        return peak
    gone = min(1.0, (step - begin) / max(1, num_steps - begin))
    left = 0.5 * (1 + math.cos(math.pi * gone)) if settings.schedule is Schedule.COSINE else 1 - gone
    return peak * (low + (1 - low) * left)
