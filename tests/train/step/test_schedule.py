"""The learning rate over a run's steps."""

from __future__ import annotations

import pytest

from ironloom.train.step.schedule import rate_at
from ironloom.workload.training import OptimizerSettings, Schedule


def rates(num_steps: int = 10, **settings: object) -> list[float]:
    made = OptimizerSettings(learning_rate=1.0, **settings)  # type: ignore[arg-type]
    return [rate_at(step, num_steps, made) for step in range(num_steps)]


@pytest.mark.parametrize("schedule", Schedule)
def test_it_rises_over_the_warm_up_and_never_is_zero_there(schedule: Schedule) -> None:
    found = rates(schedule=schedule, warmup_steps=3)
    assert found[:3] == [0.25, 0.5, 0.75]
    assert found[3] == 1.0


def test_constant_stays() -> None:
    assert set(rates(schedule=Schedule.CONSTANT)) == {1.0}


def test_linear_falls_by_equal_steps_to_the_lowest() -> None:
    found = rates(schedule=Schedule.LINEAR, min_lr_fraction=0.5)
    assert found[5] == pytest.approx(0.75)
    assert rate_at(10, 10, OptimizerSettings(learning_rate=1.0, schedule=Schedule.LINEAR, min_lr_fraction=0.5)) == 0.5


def test_cosine_is_half_way_in_the_middle() -> None:
    found = rates(schedule=Schedule.COSINE)
    assert found[5] == pytest.approx(0.5)
    assert found == sorted(found, reverse=True)


def test_wsd_stays_and_falls_at_the_end_alone() -> None:
    found = rates(schedule=Schedule.WSD, decay_fraction=0.4)
    assert found[:7] == [1.0] * 7
    assert found[7:] == pytest.approx([0.75, 0.5, 0.25])


def test_past_the_end_it_stays_at_the_lowest() -> None:
    assert rate_at(99, 10, OptimizerSettings(learning_rate=1.0, min_lr_fraction=0.1)) == pytest.approx(0.1)
