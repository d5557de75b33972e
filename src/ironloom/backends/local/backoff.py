"""When a service whose replicas fail may start the next one. Pure, with `now` given.

A start that fails before it was ready waits 1 s, 2 s, 4 s … up to 5 minutes. One that had been ready starts again at
once the first time and after 1 s from then on: it works when it is started, so waiting longer would only keep its
callers out, and its own load time already bounds the loop. Ten minutes of being ready forget all of it.

Kubernetes' CrashLoopBackOff (10 s doubling to 5 minutes, reset after 10 minutes) is the model; it does not tell the
two cases apart. Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class BackoffLimits:
    """Lengths in seconds."""

    first_s: float = 1.0
    max_s: float = 300.0
    reset_after_s: float = 600.0
    """Ready for this long, and the failures before are forgotten."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backoff:
    """What is remembered of a service's failures."""

    num_failed_starts: int = 0
    """In a row: none of them got ready."""
    num_failures: int = 0
    """Since the last reset, failures after having been ready included."""
    retry_at_s: float = 0.0
    """No start before this time; 0 is at once."""

    def may_start(self, now_s: float) -> bool:
        return now_s >= self.retry_at_s


def after_failure(state: Backoff, now_s: float, ready_for_s: float | None, limits: BackoffLimits) -> Backoff:
    """A replica failed that had been ready for `ready_for_s`, or never was (None)."""
    if ready_for_s is not None and ready_for_s >= limits.reset_after_s:
        state = Backoff()
    if ready_for_s is None:
        num_failed_starts = state.num_failed_starts + 1
        # Past 2**30 the power alone would be slow to compute; max_s bounds it long before.
        delay_s = min(limits.max_s, limits.first_s * 2.0 ** min(num_failed_starts - 1, 30))
    else:
        num_failed_starts = 0
        delay_s = limits.first_s if state.num_failures else 0.0
    return Backoff(
        num_failed_starts=num_failed_starts,
        num_failures=state.num_failures + 1,
        retry_at_s=max(state.retry_at_s, now_s + delay_s),
    )


def after_ready(state: Backoff) -> Backoff:
    """A replica got ready: starts work again. That it may still crash is remembered."""
    return Backoff(num_failures=state.num_failures)
