"""What a rank measures of its steps, on the host's clock: their time, where it went, tokens/s, memory, what is left."""

from __future__ import annotations

import resource
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

WINDOW = 20
"""Steps whose times tokens/s and the remaining time are taken from."""


class Meter:
    """Of one rank. On a GPU a time is when the host knew; a step that waits for its loss ends with the GPU."""

    def __init__(
        self,
        *,
        num_ranks: int,
        before_s: float = 0.0,
        age_s: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`before_s` are rank-seconds of earlier attempts, `age_s` is how long this one goes on already."""
        self._num_ranks = num_ranks
        self._clock = clock
        self._parts: dict[str, float] = {}
        self._between: dict[str, float] = {}
        """Since a step was told of last: what was done between steps."""
        self._steps: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._last_s = self._clock()
        self._begun_s = self._last_s - age_s
        self._before_s = before_s
        self.num_tokens = 0
        self.num_steps = 0

    def mark(self, part: str) -> None:
        """What went on since the last mark was this."""
        now_s = self._clock()
        self._parts[part] = self._parts.get(part, 0.0) + now_s - self._last_s
        self._last_s = now_s

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time inside counts as this part of what lies between steps."""
        begun_s = self._clock()
        yield
        self._last_s = self._clock()
        self._between[name] = self._between.get(name, 0.0) + self._last_s - begun_s

    def begin_step(self) -> None:
        self._parts = {}
        self._step_begun_s = self._last_s = self._clock()

    def end_step(self, num_tokens: int) -> float:
        """The step's seconds."""
        took_s = self._clock() - self._step_begun_s
        self._steps.append((took_s, num_tokens))
        self.num_tokens += num_tokens
        self.num_steps += 1
        return took_s

    def take_parts_s(self) -> dict[str, float]:
        """Of the last step, and of what was done between steps since this was asked last: evaluation, checkpoint."""
        parts, self._between = self._parts | self._between, {}
        return {name: round(seconds, 6) for name, seconds in parts.items()}

    @property
    def tokens_per_s(self) -> float:
        """Over all ranks, in the last steps."""
        seconds = sum(took_s for took_s, _ in self._steps)
        return sum(tokens for _, tokens in self._steps) / seconds if seconds else 0.0

    @property
    def rank_s(self) -> float:
        """Rank-seconds of the run so far, earlier attempts among them."""
        return self._before_s + (self._clock() - self._begun_s) * self._num_ranks

    def remaining_s(self, num_steps: int) -> float | None:
        """Seconds for so many more steps, by the last ones; None before the first."""
        if not self._steps:
            return None
        return sum(took_s for took_s, _ in self._steps) / len(self._steps) * num_steps


def peak_memory_bytes(device: torch.device) -> int:
    """Of this rank so far: what the allocator had reserved on a GPU, the resident set on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
