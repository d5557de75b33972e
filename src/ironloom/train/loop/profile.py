"""A profiler window over a few steps: a trace that Perfetto and chrome://tracing open, in logs/profile-rank-K.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


class ProfileWindow:
    """From the first to the last step of the window; outside of it nothing is measured."""

    def __init__(self, steps: tuple[int, int] | None, path: Path, *, is_gpu: bool) -> None:
        self._steps = steps
        self._path = path
        activities = [torch.profiler.ProfilerActivity.CPU]
        self._activities = [*activities, torch.profiler.ProfilerActivity.CUDA] if is_gpu else activities
        self._profiler: Any = None

    def begin_step(self, step: int) -> None:
        """A run that goes on within the window begins it there."""
        if self._steps is not None and self._profiler is None and self._steps[0] <= step <= self._steps[1]:
            self._profiler = torch.profiler.profile(activities=self._activities, with_stack=False)
            self._profiler.start()

    def end_step(self, step: int) -> Path | None:
        """The trace, at the end of the window's last step."""
        if self._steps is None or self._profiler is None or step < self._steps[1]:
            return None
        self._profiler.stop()
        self._profiler.export_chrome_trace(str(self._path))
        self._profiler, self._steps = None, None
        return self._path
