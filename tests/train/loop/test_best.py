"""Which evaluations are better than the last step's, and what the report says of the model that was exported."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from ironloom.train.loop.best import Exported, better_than, losses_by_step, restored
from ironloom.train.loop.report import exported_line, make_report, report_lines
from ironloom.workload.training import Training


@pytest.mark.parametrize(
    ("evaluated", "step", "better"),
    [
        ([], 5, []),
        ([(2, 3.0), (4, 2.0)], 4, []),
        ([(2, 2.0), (4, 3.0)], 4, [2]),
        ([(2, 2.5), (4, 2.0), (6, 3.0)], 6, [4, 2]),
        ([(2, 2.0), (4, 2.0)], 4, [2]),
        ([(2, 2.0), (4, 2.0)], 2, []),
        ([(2, 2.0), (4, 1.0)], 5, [4, 2]),
        ([(0, 1.0), (2, 2.0)], 2, []),
        ([(2, math.nan), (4, 2.0), (6, math.nan)], 6, [4]),
    ],
)
def test_the_best_comes_first_and_of_equal_ones_the_earlier(
    evaluated: list[tuple[int, float]], step: int, better: list[int]
) -> None:
    assert better_than(losses_by_step(evaluated), step) == better


def test_evaluations_come_back_from_json_with_those_that_are_no_number() -> None:
    (first, second) = restored([(2, 1.5), (4, None)])
    assert first == (2, 1.5)
    assert second[0] == 4
    assert math.isnan(second[1])


def report_of(evaluated: list[tuple[int, float]], best_step: int, exported: Exported) -> dict[str, Any]:
    return make_report(
        Training(name="tuned", model="hf://a/b", output="/out"),
        num_ranks=1,
        device="CPU",
        num_steps=6,
        num_tokens=600,
        first_loss=3.0,
        last_loss=2.0,
        eval_losses=evaluated,
        best_eval_step=best_step,
        exported=exported,
        rank_s=1.0,
        tokens_per_s=10.0,
        peak_memory_bytes=5,
        parts_s={"forward": 1.0},
        num_stalls=0,
        stall_s=0.0,
        num_skipped=0,
        num_attempts=1,
        stopped_early=True,
        versions={},
    )


@pytest.mark.parametrize(
    ("evaluated", "best_step", "exported", "line"),
    [
        ([], 0, Exported(step=6, eval_loss=None), "the model of step 6"),
        ([(0, 1.0)], 0, Exported(step=6, eval_loss=None), "the model of step 6"),
        ([(4, 2.0), (6, 3.0)], 4, Exported(step=4, eval_loss=2.0),
         "the model of step 4, evaluation loss 2.0000, the best"),
        ([(4, 2.0), (6, 3.0)], 4, Exported(step=6, eval_loss=3.0),
         "the model of step 6, evaluation loss 3.0000; the best was 2.0000 at step 4"),
        ([(4, 2.0), (6, math.nan)], 4, Exported(step=6, eval_loss=None),
         "the model of step 6; the best was 2.0000 at step 4"),
    ],
)  # fmt: skip
def test_the_report_says_whose_model_was_exported(
    evaluated: list[tuple[int, float]], best_step: int, exported: Exported, line: str
) -> None:
    report = report_of(evaluated, best_step, exported)
    assert json.loads(json.dumps(report, allow_nan=False)) == report, "JSON, which knows no NaN"
    assert exported_line(report) == line
    assert f"exported: {line}" in report_lines(report)


def test_a_report_of_before_says_nothing_of_it() -> None:
    assert exported_line({}) == ""
    assert exported_line({"eval_loss": {"best_step": 3}}) == ""
