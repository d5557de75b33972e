"""Requests and tokens a second, as the page and `get` show them: an average over the last ten seconds."""

from __future__ import annotations

from collections import deque

SPAN_S = 10.0


class Rates:
    """Counts what ended, by whole seconds."""

    def __init__(self) -> None:
        self._buckets: deque[list[float]] = deque()
        """[second, requests, tokens], oldest first."""

    def add(self, now_s: float, num_tokens: int) -> None:
        """A request has ended, with so many completion tokens."""
        second = float(int(now_s))
        if self._buckets and self._buckets[-1][0] == second:
            self._buckets[-1][1] += 1
            self._buckets[-1][2] += num_tokens
        else:
            self._buckets.append([second, 1, num_tokens])
            self._forget(now_s)

    def requests_per_s(self, now_s: float) -> float:
        """Requests that ended, a second, over the last ten."""
        self._forget(now_s)
        return sum(bucket[1] for bucket in self._buckets) / SPAN_S

    def tokens_per_s(self, now_s: float) -> float:
        """Completion tokens of requests that ended, a second, over the last ten."""
        self._forget(now_s)
        return sum(bucket[2] for bucket in self._buckets) / SPAN_S

    def _forget(self, now_s: float) -> None:
        while self._buckets and self._buckets[0][0] < now_s - SPAN_S:
            self._buckets.popleft()
