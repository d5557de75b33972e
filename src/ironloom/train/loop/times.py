"""Where a rank's time goes: one line of marks without gaps, from step to step, so that its parts add up to it.

On a CPU a mark is the host's clock. On a GPU it is an event on the stream that computes, so that a part is the time the
GPU spent in it and not the time in which it was queued; such a mark is read when the GPU has passed it, and nothing
waits for that.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

COMMUNICATION = "communication"
OTHER = "other"
PARTS = ("data", "forward", "backward", "update", COMMUNICATION, "checkpoint")
"""Of every step, 0 where nothing of it was done."""
ASIDE = ("evaluation", "profile")
"""What a step is not judged by: it is asked for, and takes as long as it takes."""
_WHOLE = (*ASIDE, "checkpoint")
"""Parts whose own collectives stay theirs."""

Mark = Any


class Clock(Protocol):
    """Marks, and the seconds between two of them."""

    def mark(self) -> Mark: ...

    def is_past(self, mark: Mark) -> bool:
        """Whether the mark can be read without waiting."""
        ...

    def wait(self, mark: Mark) -> None: ...

    def seconds(self, begin: Mark, end: Mark) -> float: ...

    def free(self, mark: Mark) -> None:
        """The mark is read no more."""
        ...


class HostClock:
    """The host's monotonic clock."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.mark = clock

    def is_past(self, mark: float) -> bool:  # noqa: ARG002 (a mark of the host is known at once)
        return True

    def wait(self, mark: float) -> None: ...

    def seconds(self, begin: float, end: float) -> float:
        return end - begin

    def free(self, mark: float) -> None: ...


class GpuClock:
    """Events on the stream that computes on a device."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.current_stream(device)
        self._spare: list[torch.cuda.Event] = []

    def mark(self) -> torch.cuda.Event:
        event = self._spare.pop() if self._spare else torch.cuda.Event(enable_timing=True)
        event.record(self.stream)
        return event

    def is_past(self, mark: torch.cuda.Event) -> bool:
        return mark.query()

    def wait(self, mark: torch.cuda.Event) -> None:
        mark.synchronize()

    def seconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return begin.elapsed_time(end) / 1e3

    def free(self, mark: torch.cuda.Event) -> None:
        self._spare.append(mark)


def clock_of(device: torch.device) -> Clock:
    return GpuClock(device) if device.type == "cuda" else HostClock()


@dataclass(frozen=True, slots=True)
class StepTime:
    """One step, with what was done since the one before it."""

    parts_s: dict[str, float]
    own_s: float
    """From its begin to its end, without what lies between steps or aside."""

    @property
    def total_s(self) -> float:
        return sum(self.parts_s.values())

    @property
    def judged_parts_s(self) -> dict[str, float]:
        """Without what is asked for."""
        return {part: seconds for part, seconds in self.parts_s.items() if part not in ASIDE}

    @property
    def judged_s(self) -> float:
        return sum(self.judged_parts_s.values())


@dataclass(slots=True)
class _Segment:
    part: str
    end: Mark
    waits: list[tuple[Mark, Mark]]
    is_aside: bool


@dataclass(slots=True)
class _Pending:
    """A step that has ended for the host."""

    begin: Mark
    segments: list[_Segment] = field(default_factory=list)
    num_between: int = 0


class StepTimes:
    """Of one rank. Every moment from its making on belongs to one part of one step."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._now = _Pending(clock.mark())
        self._waits: list[tuple[Mark, Mark]] = []
        self._pending: deque[_Pending] = deque()

    def mark(self, part: str) -> None:
        """What went on since the last mark was this."""
        self._close(part, is_aside=False)

    def _close(self, part: str, *, is_aside: bool) -> None:
        self._now.segments.append(_Segment(part, self.clock.mark(), self._waits, is_aside))
        self._waits = []

    def waited(self, begin: Mark, end: Mark) -> None:
        """Between these marks, since the last one, it waited for other ranks."""
        self._waits.append((begin, end))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time inside is this part, and not the step's own."""
        self.mark(OTHER)
        try:
            yield
        finally:
            self._close(name, is_aside=True)

    def begin_step(self) -> None:
        self.mark(OTHER)
        self._now.num_between = len(self._now.segments)

    def end_step(self) -> None:
        self.mark(OTHER)
        self._pending.append(self._now)
        self._now = _Pending(self._now.segments[-1].end)

    def ended(self, *, at_least_one: bool = False, all_of_them: bool = False) -> list[StepTime]:
        """Steps whose times are known now, each told once. On a GPU the last ones may still go on: they are told
        later, unless one, or all, are to be waited for."""
        found: list[StepTime] = []
        while self._pending:
            last = self._pending[0].segments[-1].end
            if not self.clock.is_past(last):
                if not all_of_them and (found or not at_least_one):
                    break
                self.clock.wait(last)
            found.append(self._read(self._pending.popleft()))
        return found

    def _read(self, step: _Pending) -> StepTime:
        parts_s = dict.fromkeys(PARTS, 0.0)
        own_s = 0.0
        begin = step.begin
        for number, segment in enumerate(step.segments):
            took_s = max(0.0, self.clock.seconds(begin, segment.end))
            waited_s = min(took_s, sum(self.clock.seconds(*wait) for wait in segment.waits))
            if segment.part in _WHOLE:
                waited_s = 0.0
            parts_s[segment.part] = parts_s.get(segment.part, 0.0) + took_s - waited_s
            parts_s[COMMUNICATION] += waited_s
            own_s += took_s if number >= step.num_between and not segment.is_aside else 0.0
            for mark in (begin, *(mark for wait in segment.waits for mark in wait)):
                self.clock.free(mark)
            begin = segment.end
        return StepTime(parts_s, own_s)
