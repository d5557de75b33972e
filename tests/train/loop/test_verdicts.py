"""What a loss means for the run."""

from __future__ import annotations

import math

import pytest

from ironloom.train.loop.verdicts import EarlyStop, LossJudge, Verdict, bad_because
from ironloom.workload.training import OnBadLoss, Watch


@pytest.mark.parametrize(
    ("loss", "norm", "recent", "factor", "said"),
    [
        (2.0, 1.0, [2.0] * 20, 3.0, None),
        (math.nan, 1.0, [], 0.0, "the loss is nan"),
        (math.inf, 1.0, [], 0.0, "the loss is inf"),
        (2.0, math.nan, [], 0.0, "the gradient's norm is nan (the loss is 2)"),
        (6.1, 1.0, [2.0] * 20, 3.0, "the loss is 6.1, more than 3 times the median 2 before"),
        (6.1, 1.0, [2.0] * 9, 3.0, None),
        (60.0, 1.0, [2.0] * 20, 0.0, None),
    ],
)
def test_a_loss_is_bad_when_it_is_not_finite_or_spikes(
    loss: float, norm: float, recent: list[float], factor: float, said: str | None
) -> None:
    assert bad_because(loss, norm, recent, factor) == said


def test_by_default_a_bad_loss_stops_the_run() -> None:
    judge = LossJudge(Watch())
    assert judge.judge(2.0).verdict is Verdict.GO_ON
    assert judge.judge(math.nan).verdict is Verdict.STOP


def test_a_bad_loss_is_skipped_by_rule_until_too_many_come_in_a_row() -> None:
    judge = LossJudge(Watch(on_bad_loss=OnBadLoss.SKIP, max_skipped_in_a_row=2))
    told = [judge.judge(loss) for loss in (math.nan, math.nan, 2.0, math.nan, math.nan, math.nan)]
    assert [one.verdict for one in told] == [*[Verdict.SKIP] * 2, Verdict.GO_ON, *[Verdict.SKIP] * 2, Verdict.STOP]
    assert told[-1].reason == "the loss is nan; 3 steps in a row were bad, and 2 may be"


def test_a_spike_does_not_move_the_median_that_the_next_is_measured_against() -> None:
    judge = LossJudge(Watch(on_bad_loss=OnBadLoss.SKIP, spike_factor=2.0, max_skipped_in_a_row=100))
    for _ in range(10):
        judge.judge(1.0)
    assert [judge.judge(5.0).verdict for _ in range(30)] == [Verdict.SKIP] * 30


def test_a_judge_goes_on_where_a_checkpoint_left_it() -> None:
    first = LossJudge(Watch(spike_factor=2.0))
    for loss in (3.0, 2.5, 2.0):
        first.judge(loss)
    second = LossJudge(Watch(spike_factor=2.0))
    second.restore(first.state())
    assert second.state() == first.state()


def test_early_stop_waits_for_so_many_evaluations_without_a_better_loss() -> None:
    early = EarlyStop(patience=2)
    told = [early.look(loss, step) for step, loss in enumerate((3.0, 2.0, 2.1, 1.9, 1.9, 2.5))]
    assert told == [False, False, False, False, False, True]
    assert (early.best, early.best_step) == (1.9, 3)


def test_without_patience_no_evaluation_ends_a_run() -> None:
    early = EarlyStop(patience=0)
    assert not any(early.look(loss, step) for step, loss in enumerate((1.0, 2.0, 3.0, 4.0)))


def test_early_stop_goes_on_where_a_checkpoint_left_it() -> None:
    first = EarlyStop(patience=3)
    second = EarlyStop(patience=3)
    second.restore(first.state())
    assert second == first
    first.look(2.0, 5)
    first.look(3.0, 6)
    second.restore(first.state())
    assert second == first
    assert not second.is_over
    impatient = EarlyStop(patience=1)
    impatient.restore(first.state())
    assert impatient.is_over
