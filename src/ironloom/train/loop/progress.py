"""What a run's records add up to: how far it is, its loss curve, what it costs, what happened. Pure.

Records of a step that a later attempt did again are replaced by its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ironloom.train.loop.records import DATA, Kind

MAX_POINTS = 400
"""Of a curve: beyond this every second point is left out."""
MAX_NOTES = 50
_OF_PROFILES = ("first_step", "last_step", "paths", "request")


@dataclass(slots=True)
class Curve:
    """A value by step, thinned as it grows."""

    points: list[tuple[int, float]] = field(default_factory=list)
    stride: int = 1
    """Of the points that come, every so many-th stays."""
    _seen: int = 0
    latest: tuple[int, float] | None = None

    def add(self, step: int, value: float) -> None:
        self.latest = (step, value)
        if self._seen % self.stride == 0:
            self.points.append(self.latest)
        self._seen += 1
        if len(self.points) > MAX_POINTS:
            self.points = self.points[::2]
            self.stride *= 2

    def cut(self, step: int) -> None:
        """Forget what comes after a step."""
        self.points = [point for point in self.points if point[0] <= step]
        if self.latest is not None and self.latest[0] > step:
            self.latest = self.points[-1] if self.points else None

    def shown(self) -> list[tuple[int, float]]:
        """The points, the last one among them."""
        last = [self.latest] if self.latest is not None and self.points[-1:] != [self.latest] else []
        return self.points + last


@dataclass(slots=True)
class RunProgress:
    """A run as its records tell it. `add` takes them in their order."""

    attempt: int = 0
    num_ranks: int = 0
    step: int = 0
    started_step: int = 0
    """What the present attempt goes on from."""
    num_steps: int = 0
    tokens: int = 0
    """Trained on, over all ranks."""
    phase: str = ""
    """What is done before the first step."""
    last: dict[str, Any] = field(default_factory=dict)
    """The last step's record."""
    loss: Curve = field(default_factory=Curve)
    eval_loss: Curve = field(default_factory=Curve)
    checkpoint_step: int = 0
    """The newest that is whole on the disk."""
    num_skipped: int = 0
    profile: dict[str, Any] = field(default_factory=dict)
    """The last profiler window: its steps, the traces' paths, and who asked for it."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Of the last evaluation."""
    notes: list[str] = field(default_factory=list)
    data_notes: list[str] = field(default_factory=list)
    """Those of the notes that tell of the data: an attempt's take the place of an earlier one's."""
    data_attempt: int = -1
    """Whose they are."""
    failure: dict[str, Any] | None = None
    """The last failure that was told, of any rank; a new attempt clears it."""
    exported: str = ""
    report: dict[str, Any] | None = None
    """Of the present attempt, where that has ended well."""

    @property
    def num_steps_left(self) -> int:
        return max(0, self.num_steps - self.step)

    def add_all(self, records: Iterable[Mapping[str, Any]]) -> None:
        for record in records:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        """One record. What is not understood changes nothing."""
        kind, step = record.get("kind"), _int(record.get("step"))
        if "attempt" in record and _int(record["attempt"]) != self.attempt:  # its first record, whatever that tells
            self.attempt, self.failure, self.report = _int(record["attempt"]), None, None
        if kind == Kind.STARTED:
            self.num_ranks, self.phase = _int(record.get("num_ranks")), "starting"
            if "step" in record:
                self._go_back(step)
            self.num_steps = _int(record.get("num_steps")) or self.num_steps
        elif kind == Kind.PHASE:
            self.phase = str(record.get("message", ""))
        elif kind == Kind.NOTE:
            note = str(record.get("message", ""))
            if record.get("about") == DATA:
                self._forget_other_data()
                self.data_notes.append(note)
            if note and note not in self.notes:
                self.notes = [*self.notes[-MAX_NOTES + 1 :], note]
        elif kind == Kind.STEP:
            self.step, self.phase = step, ""
            self.tokens = _int(record.get("tokens")) or self.tokens
            self.num_steps = _int(record.get("num_steps")) or self.num_steps
            self.last = dict(record)
            if isinstance(loss := record.get("loss"), int | float):
                self.loss.add(step, float(loss))
        elif kind == Kind.EVALUATED and isinstance(loss := record.get("loss"), int | float):
            self.eval_loss.add(step, float(loss))
            self.samples = []
        elif kind == Kind.SAMPLED:
            self.samples.append({name: record[name] for name in ("step", "prompt", "text") if name in record})
        elif kind == Kind.CHECKPOINTED:
            self.checkpoint_step = max(step, self.checkpoint_step)
        elif kind == Kind.SKIPPED:
            self.num_skipped += 1
        elif kind == Kind.PROFILED:
            self.profile = {name: record[name] for name in _OF_PROFILES if name in record}
        elif kind in (Kind.FAILED, Kind.HUNG):
            self.failure = dict(record)
        elif kind == Kind.EXPORTED:
            self.exported = str(record.get("path", ""))
        elif kind == Kind.PREEMPTED and "step" in record:
            self.step = step
        elif kind == Kind.DONE:
            self.step = step if "step" in record else self.step
            report = record.get("report")
            self.report = dict(report) if isinstance(report, Mapping) else {}

    def _forget_other_data(self) -> None:
        if self.data_attempt != self.attempt:
            self.notes = [note for note in self.notes if note not in self.data_notes]
            self.data_notes, self.data_attempt = [], self.attempt

    def _go_back(self, step: int) -> None:
        self.step = self.started_step = step
        self.loss.cut(step)
        self.eval_loss.cut(step)
        self.checkpoint_step = step  # what it goes on from is there, of another run too


def _int(value: object) -> int:
    """A count of a record; 0 where none can be read, infinity and NaN (which Python's JSON has) among them."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0
    return int(value)
