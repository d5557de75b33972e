"""What a rank measures of its steps: their time, where it went, stalls, tokens/s, memory, what is left."""

from __future__ import annotations

import resource
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from ironloom.catalog import accelerators
from ironloom.train.loop.communication import Waits
from ironloom.train.loop.stalls import Stall, Stalls
from ironloom.train.loop.times import HostClock, StepTimes, clock_of

WINDOW = 20
"""Steps whose times tokens/s and the remaining time are taken from."""


class RunMeter:
    """Of one rank. Steps are counted in tokens, or in whatever else a loop counts."""

    def __init__(
        self,
        *,
        num_ranks: int,
        before_s: float = 0.0,
        age_s: float = 0.0,
        device: torch.device | None = None,
        clock: Callable[[], float] = time.perf_counter,
        on_stall: Callable[[int, Stall], None] = lambda _number, _stall: None,
    ) -> None:
        """`before_s` are rank-seconds of earlier attempts, `age_s` is how long this one goes on already. `on_stall`
        hears of each stall, with the step's number among those measured here, from 1."""
        self._num_ranks = num_ranks
        self._clock = clock
        self._times = StepTimes(HostClock(clock) if device is None else clock_of(device))
        self._waits = Waits(self._times)
        self._on_stall = on_stall
        self._ended: deque[tuple[int, bool]] = deque()
        """Tokens of the steps whose times are not known yet, and whether they are like others."""
        self._recent: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._untold_s: dict[str, float] = {}
        self._num_untold = 0
        self._totals_s: dict[str, float] = {}
        self._begun_s = self._clock() - age_s
        self._before_s = before_s
        self._num_known = 0
        self.stalls = Stalls()
        self.num_tokens = 0

    def listen(self) -> None:
        """From now on waits for other ranks are measured; `close` ends that."""
        self._waits.listen()

    def close(self) -> None:
        self._waits.close()

    def mark(self, part: str) -> None:
        """What went on since the last mark was this."""
        self._times.mark(part)

    def part(self, name: str) -> AbstractContextManager[None]:
        """Time inside is this part."""
        return self._times.part(name)

    def begin_step(self) -> None:
        self._times.begin_step()

    def end_step(self, num_tokens: int, *, is_usual: bool = True) -> None:
        """One that is profiled is not like others: it is no stall, whatever it took."""
        self._times.end_step()
        self._ended.append((num_tokens, is_usual))
        self.num_tokens += num_tokens
        self._take()

    def take_parts_s(self, *, is_last: bool = False) -> dict[str, float]:
        """Mean seconds of each part, over the steps known since this was asked last: they add up to the mean step, with
        what was done between steps. On a GPU the last steps may not be known yet; they come the next time, or now where
        it is the last."""
        self._take(at_least_one=not self._num_untold, all_of_them=is_last)
        untold_s, number = self._untold_s, self._num_untold
        self._untold_s, self._num_untold = {}, 0
        return {part: round(seconds / number, 6) for part, seconds in untold_s.items()}

    def _take(self, *, at_least_one: bool = False, all_of_them: bool = False) -> None:
        for step in self._times.ended(at_least_one=at_least_one, all_of_them=all_of_them):
            self._num_known += 1
            num_tokens, is_usual = self._ended.popleft()
            self._recent.append((step.own_s, num_tokens))
            self._num_untold += 1
            for part, seconds in step.parts_s.items():
                self._untold_s[part] = self._untold_s.get(part, 0.0) + seconds
                self._totals_s[part] = self._totals_s.get(part, 0.0) + seconds
            if is_usual and (stall := self.stalls.look(step)) is not None:
                self._on_stall(self._num_known, stall)

    @property
    def tokens_per_s(self) -> float:
        """Over all ranks, in the last steps that are known; what lies between steps is not in it."""
        seconds = sum(took_s for took_s, _ in self._recent)
        return sum(tokens for _, tokens in self._recent) / seconds if seconds else 0.0

    @property
    def rank_s(self) -> float:
        """Rank-seconds of the run so far, earlier attempts among them."""
        return self._before_s + (self._clock() - self._begun_s) * self._num_ranks

    def remaining_s(self, num_steps: int) -> float | None:
        """Seconds for so many more steps, by the last ones; None before the first."""
        if not self._recent:
            return None
        return sum(took_s for took_s, _ in self._recent) / len(self._recent) * num_steps

    def totals_s(self) -> dict[str, float]:
        """Seconds of each part, over all steps: they add up to the time from the meter's making to the last step's end,
        with what earlier attempts had."""
        self._take(all_of_them=True)
        return {part: round(seconds, 3) for part, seconds in self._totals_s.items()}

    # Checkpoints.

    def state(self) -> dict[str, Any]:
        return {"parts_s": self._totals_s, "num_stalls": self.stalls.number, "stall_s": self.stalls.lost_s}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self._totals_s = {str(part): float(seconds) for part, seconds in (state.get("parts_s") or {}).items()}
        self.stalls.number, self.stalls.lost_s = int(state.get("num_stalls") or 0), float(state.get("stall_s") or 0.0)


def peak_flops_of(device: torch.device) -> float | None:
    """The dense peak of the GPU in bfloat16, by the catalog; None for a CPU and for one that is not in it."""
    found = accelerators.find(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return found.bf16_flops if found is not None else None


def peak_memory_bytes(device: torch.device) -> int:
    """Of this rank so far: what the allocator had reserved on a GPU, the resident set on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
