"""A profiler window over a few steps: a trace of each rank that Perfetto and chrome://tracing open.

It lies in logs/profile-steps-A-B-rank-K.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Trace:
    """A window that was written."""

    first_step: int
    last_step: int
    path: Path

    def of_rank(self, rank: int) -> Path:
        """Another rank's, of the same steps."""
        return trace_path(self.path.parent, self.first_step, self.last_step, rank)


def trace_path(logs: Path, first_step: int, last_step: int, rank: int) -> Path:
    return logs / f"profile-steps-{first_step}-{last_step}-rank-{rank}.json"


class ProfileWindow:
    """From the first to the last step of a window; outside of it nothing is measured."""

    def __init__(self, steps: tuple[int, int] | None, logs: Path, *, rank: int, is_gpu: bool) -> None:
        """`steps`: the window that is known from the start."""
        self._steps = steps
        self._logs = logs
        self._rank = rank
        activities = [torch.profiler.ProfilerActivity.CPU]
        self._activities = [*activities, torch.profiler.ProfilerActivity.CUDA] if is_gpu else activities
        self._profiler: Any = None
        self._first_step = 0

    @property
    def is_open(self) -> bool:
        return self._profiler is not None

    def ask(self, first_step: int, num_steps: int) -> None:
        """A window from this step on, in place of one that has not begun."""
        if not self.is_open:
            self._steps = (first_step, first_step + num_steps - 1)

    def begin_step(self, step: int) -> bool:
        """Whether the window began. A run that goes on within it begins it there."""
        if self._steps is None or self.is_open or not self._steps[0] <= step <= self._steps[1]:
            return False
        self._profiler = torch.profiler.profile(activities=self._activities, acc_events=True)
        self._profiler.start()
        self._first_step = step
        return True

    def end_step(self, step: int, *, is_last: bool = False) -> Trace | None:
        """The trace, at the end of the window's last step, or of the run's."""
        if self._steps is None or not self.is_open or (step < self._steps[1] and not is_last):
            return None
        self._profiler.stop()
        trace = Trace(self._first_step, step, trace_path(self._logs, self._first_step, step, self._rank))
        self._profiler.export_chrome_trace(str(trace.path))
        self._profiler, self._steps = None, None
        return trace
