"""The last step down: work, starts, the window, the retention, parking."""

from __future__ import annotations

from dataclasses import dataclass, field

from ironloom.serve.autoscale.zero import Seen, ZeroRules, ZeroState, settle
from ironloom.serve.replica import ScaleOrder


@dataclass
class Run:
    """A service at its last step, with its state carried along."""

    rules: ZeroRules = field(default_factory=lambda: ZeroRules(stable_window_s=60, retention_s=0, park_for_s=0))
    cannot_park: str | None = None
    state: ZeroState = field(default_factory=ZeroState)
    last: ScaleOrder = field(default_factory=lambda: ScaleOrder(num_ready=0))

    def at(
        self, now_s: float, *, want: int = 0, work: int = 0, ready: int = 0, starting: int = 0, parked: int = 0
    ) -> tuple[int, int]:
        seen = Seen(num_work=work, num_ready=ready, num_starting=starting, num_parked=parked)
        self.state, self.last = settle(
            self.state, want, "load", seen, self.rules, cannot_park=self.cannot_park, now_s=now_s
        )
        assert self.last.reason
        return self.last.num_ready, self.last.num_parked


def rules(*, retention_s: float = 0, park_for_s: float = 0) -> ZeroRules:
    return ZeroRules(stable_window_s=60, retention_s=retention_s, park_for_s=park_for_s)


def test_a_request_in_flight_or_held_keeps_one_even_when_the_window_says_none() -> None:
    run = Run()
    run.at(0, want=1, ready=1)
    assert run.at(100, work=1, ready=1) == (1, 0)
    assert "1 request in flight or held" in run.last.reason
    assert run.at(102, work=0, ready=1) == (0, 0)


def test_a_start_is_never_cut_short_by_an_empty_window() -> None:
    run = Run()
    assert run.at(0, want=1, work=1) == (1, 0)
    assert run.at(2, starting=1) == (1, 0)
    assert run.at(500, starting=1) == (1, 0)


def test_a_replica_that_has_just_become_ready_stays_a_whole_window() -> None:
    run = Run()
    run.at(0, want=1, work=1)
    run.at(298, starting=1)
    assert run.at(300, ready=1) == (1, 0)
    assert run.at(358, ready=1) == (1, 0)
    assert "stays at least" in run.last.reason
    assert run.at(360, ready=1) == (0, 0)


def test_the_retention_runs_from_the_moment_the_window_is_empty() -> None:
    run = Run(rules(retention_s=30))
    run.at(0, want=1, ready=1)
    assert run.at(100, ready=1) == (1, 0)
    assert run.at(129, ready=1) == (1, 0)
    assert "retained for 30s" in run.last.reason
    assert run.at(130, ready=1) == (0, 0)


def test_load_during_the_retention_begins_it_anew() -> None:
    run = Run(rules(retention_s=30))
    run.at(0, want=1, ready=1)
    run.at(100, ready=1)
    run.at(120, want=1, ready=1)
    assert run.at(131, ready=1) == (1, 0)
    assert run.at(160, ready=1) == (1, 0)
    assert run.at(161, ready=1) == (0, 0)


def test_a_replica_that_still_drains_does_not_undo_the_decision() -> None:
    run = Run(rules(retention_s=30))
    run.at(0, want=1, ready=1)
    run.at(100, ready=1)
    assert run.at(130, ready=1) == (0, 0)
    assert run.at(132, ready=1) == (0, 0)
    assert run.at(134) == (0, 0)


def test_it_is_parked_first_and_stopped_when_its_time_is_over() -> None:
    run = Run(rules(park_for_s=600))
    run.at(0, want=1, ready=1)
    assert run.at(100, ready=1) == (0, 1)
    assert run.at(102, parked=1) == (0, 1)
    assert run.at(699, parked=1) == (0, 1)
    assert run.at(700, parked=1) == (0, 0)
    assert run.at(702, parked=1) == (0, 0)
    assert run.at(704) == (0, 0)


def test_what_cannot_be_parked_is_stopped_and_the_reason_is_told() -> None:
    run = Run(rules(park_for_s=600), cannot_park="llamacpp cannot park")
    run.at(0, want=1, ready=1)
    assert run.at(100, ready=1) == (0, 0)
    assert "llamacpp cannot park" in run.last.reason


def test_a_request_wakes_what_is_parked_and_its_time_begins_anew() -> None:
    run = Run(rules(park_for_s=600))
    run.at(0, want=1, ready=1)
    run.at(100, ready=1)
    run.at(500, parked=1)
    assert run.at(501, work=1, parked=1) == (1, 0)
    assert run.at(503, starting=1) == (1, 0)
    run.at(504, want=1, ready=1)
    assert run.at(600, ready=1) == (0, 1)
    assert run.at(1199, parked=1) == (0, 1)
    assert run.at(1200, parked=1) == (0, 0)


def test_a_parked_replica_that_is_gone_is_not_asked_for_again() -> None:
    run = Run(rules(park_for_s=600))
    run.at(0, want=1, ready=1)
    assert run.at(100, ready=1) == (0, 1)
    assert run.at(110) == (0, 0)


def test_a_start_that_failed_with_nobody_waiting_goes_to_zero() -> None:
    run = Run()
    run.at(0, want=1, work=1)
    run.at(2, starting=1)
    assert run.at(30) == (0, 0)
