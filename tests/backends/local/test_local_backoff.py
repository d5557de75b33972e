"""When a failing service may start its next replica."""

from __future__ import annotations

from ironloom.backends.local.backoff import Backoff, BackoffLimits, after_failure, after_ready

LIMITS = BackoffLimits()


def delays(*ready_for_s: float | None) -> list[float]:
    """The delay after each of these failures in a row; None never got ready."""
    state, now_s, found = Backoff(), 1000.0, []
    for ready_s in ready_for_s:
        if ready_s is not None:
            state = after_ready(state)
            now_s += ready_s
        state = after_failure(state, now_s, ready_s, LIMITS)
        found.append(state.retry_at_s - now_s)
        now_s = state.retry_at_s
    return found


def test_starts_that_fail_wait_one_second_doubling_to_five_minutes() -> None:
    assert delays(*[None] * 12) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_thousands_of_failures_still_wait_five_minutes() -> None:
    state = Backoff(num_failed_starts=100_000, num_failures=100_000)
    assert after_failure(state, 0.0, None, LIMITS).retry_at_s == 300


def test_one_that_had_been_ready_starts_again_at_once_and_then_after_a_second() -> None:
    assert delays(5.0, 5.0, 5.0, 5.0) == [0, 1, 1, 1]


def test_ten_minutes_of_being_ready_forget_the_failures() -> None:
    assert delays(5.0, 599.0, 600.0, 5.0) == [0, 1, 0, 1]


def test_getting_ready_ends_the_doubling() -> None:
    assert delays(None, None, None, 1.0, None) == [1, 2, 4, 1, 1]


def test_no_start_before_its_time() -> None:
    state = after_failure(Backoff(), 100.0, None, LIMITS)
    assert not state.may_start(100.9)
    assert state.may_start(101.0)
