"""Steps that take much longer than usual: counted, with the part that was longer. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Any

from ironloom.train.loop.times import StepTime

FACTOR = 2.0
"""A step that takes more than this times the median is a stall."""
MIN_EXCESS_S = 0.1
"""Less than this beyond the median is jitter."""
WINDOW = 50
"""Steps that the median is of."""
MIN_STEPS = 5
"""Before so many are known nothing is usual: the first steps compile and warm up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stall:
    """One step that was too long."""

    took_s: float
    usual_s: float
    """The median of the steps before it."""
    part: str
    """What took most beyond its own median."""
    part_s: float

    def facts(self) -> dict[str, Any]:
        """For a record."""
        return {
            "took_s": round(self.took_s, 4),
            "usual_s": round(self.usual_s, 4),
            "part": self.part,
            "part_s": round(self.part_s, 4),
        }

    @property
    def lost_s(self) -> float:
        return self.took_s - self.usual_s


class Stalls:
    """Looks at steps in their order, without evaluations and profiles; a blocking checkpoint is a stall like others."""

    def __init__(self) -> None:
        self._steps: deque[StepTime] = deque(maxlen=WINDOW)
        self.number = 0
        self.lost_s = 0.0
        """Beyond the median, of all stalls."""

    def look(self, step: StepTime) -> Stall | None:
        """The stall that this step was, if it was one."""
        known = list(self._steps)
        self._steps.append(step)
        if len(known) < MIN_STEPS:
            return None
        usual_s = median(one.judged_s for one in known)
        took_s = step.judged_s
        if took_s <= FACTOR * usual_s or took_s - usual_s < MIN_EXCESS_S:
            return None
        beyond_s = {
            part: seconds - median(one.parts_s.get(part, 0.0) for one in known)
            for part, seconds in step.judged_parts_s.items()
        }
        part = max(beyond_s, key=lambda name: beyond_s[name])
        stall = Stall(took_s=took_s, usual_s=usual_s, part=part, part_s=step.parts_s[part])
        self.number += 1
        self.lost_s += stall.lost_s
        return stall
