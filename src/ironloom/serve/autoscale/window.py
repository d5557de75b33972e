"""Averages of load over the last W seconds, as Knative's autoscaler takes them.

Load comes as pieces: "from `start_s` to `end_s` the average was `value`". A window keeps their integral in buckets of
one second and answers the average over the part of the last W seconds that it has heard of:

- first heard of it less than W ago: only the elapsed part counts;
- a gap inside shorter than W counts as zero load;
- silence since the last piece is left out, not averaged as zero;
- silence of W or more: the average is 0, and the next piece begins a new history.

Source of these four rules: knative/serving pkg/autoscaler/aggregation/bucketing.go (`WindowAverage`, `Record`). There a
bucket holds the samples that fell into it; here a sample covers the time since the one before, so ticks that come late
and pokes between ticks neither lose nor double any load.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

BUCKET_S = 1.0
NUM_DIGITS = 6
"""Averages are rounded to this, as Knative does: a steady 7 must not come out as 7.000000000000001 and ask for one
replica more."""


@dataclass(slots=True)
class _Bucket:
    """Load inside one second: from `start_s` to `end_s` its integral was `total`; inside, it counts as even."""

    start_s: float
    end_s: float
    total: float

    def after(self, begin_s: float) -> float:
        """The integral over the part that lies after `begin_s`."""
        if begin_s <= self.start_s:
            return self.total
        return self.total * max(0.0, self.end_s - begin_s) / (self.end_s - self.start_s)


class Window:
    """One window over one metric. Times are seconds of any clock that does not go back."""

    def __init__(self, span_s: float) -> None:
        if not span_s > 0:
            raise ValueError(f"span_s = {span_s}, must be above 0")
        self.span_s = span_s
        self._buckets: deque[_Bucket] = deque()
        """Oldest first; stretches without load are not kept."""
        self._first_s: float | None = None
        self._last_s = -math.inf

    def record(self, start_s: float, end_s: float, value: float) -> None:
        """Say that the load was `value` on average from `start_s` to `end_s`.

        What lies before the last piece's end, or before the window, is left out.
        """
        start_s = max(start_s, self._last_s, end_s - self.span_s)
        if not start_s < end_s:
            return
        if self._first_s is None or start_s - self._last_s >= self.span_s:
            self._buckets.clear()
            self._first_s = start_s
        self._last_s = end_s
        if value > 0:
            self._spread(start_s, end_s, value)
        while self._buckets and self._buckets[0].end_s <= end_s - self.span_s:
            self._buckets.popleft()

    def average(self, now_s: float) -> float | None:
        """The average over the last `span_s` seconds; None as long as nothing was ever recorded.

        A load that was there never rounds down to none.
        """
        if self._first_s is None:
            return None
        begin_s = max(self._first_s, now_s - self.span_s)
        if self._last_s <= begin_s:
            return 0.0
        total = math.fsum(bucket.after(begin_s) for bucket in self._buckets)
        exact = total / (self._last_s - begin_s)
        return max(round(exact, NUM_DIGITS), 10.0**-NUM_DIGITS) if exact > 0 else 0.0

    def resize(self, span_s: float) -> None:
        """Another span from now on; what was recorded stays, as far as it goes."""
        if not span_s > 0:
            raise ValueError(f"span_s = {span_s}, must be above 0")
        if span_s > self.span_s and self._first_s is not None:
            # Older buckets were dropped: the wider window knows of the time since then only.
            self._first_s = max(self._first_s, self._last_s - self.span_s)
        self.span_s = span_s

    def _spread(self, start_s: float, end_s: float, value: float) -> None:
        while start_s < end_s:
            second = math.floor(start_s / BUCKET_S)
            until_s = min(end_s, (second + 1) * BUCKET_S)
            last = self._buckets[-1] if self._buckets else None
            if last is not None and math.floor(last.start_s / BUCKET_S) == second and last.end_s == start_s:
                last.total += value * (until_s - start_s)
                last.end_s = until_s
            else:
                self._buckets.append(_Bucket(start_s, until_s, value * (until_s - start_s)))
            start_s = until_s
