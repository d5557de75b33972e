"""What ranks write down, and what that adds up to."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.train.loop.progress import MAX_POINTS, Curve, RunProgress
from ironloom.train.loop.records import Kind, Records, path_of, read_records


def test_records_come_back_from_where_one_left_off(tmp_path: Path) -> None:
    records = Records(tmp_path, 0, attempt=2, clock=lambda: 12.3456)
    records.write(Kind.STEP, step=1, loss=2.0)
    found, offset = read_records(path_of(tmp_path, 0))
    assert found == [{"kind": "step", "t": 12.346, "attempt": 2, "step": 1, "loss": 2.0}]
    records.write(Kind.STEP, step=2, loss=math.nan)
    found, offset = read_records(path_of(tmp_path, 0), offset)
    assert found == [{"kind": "step", "t": 12.346, "attempt": 2, "step": 2, "loss": None}]
    assert read_records(path_of(tmp_path, 0), offset) == ([], offset)


def test_a_record_that_a_kill_cut_is_passed_over_and_the_next_is_whole(tmp_path: Path) -> None:
    Records(tmp_path, 0).write(Kind.STEP, step=1)
    with path_of(tmp_path, 0).open("a") as file:
        file.write('{"kind": "step", "st')
    Records(tmp_path, 0, attempt=2).write(Kind.STEP, step=2)
    found, _ = read_records(path_of(tmp_path, 0))
    assert [record["step"] for record in found] == [1, 2]


def test_a_record_that_is_being_written_is_left_for_the_next_look(tmp_path: Path) -> None:
    path = path_of(tmp_path, 0)
    path.write_text('{"kind": "step", "step": 1}\n{"kind": "step"')
    found, offset = read_records(path)
    assert len(found) == 1
    with path.open("a") as file:
        file.write(', "step": 2}\n')
    assert [record["step"] for record in read_records(path, offset)[0]] == [2]


def test_where_there_is_no_file_there_is_no_record(tmp_path: Path) -> None:
    assert read_records(path_of(tmp_path, 3)) == ([], 0)


def told(*records: dict[str, Any]) -> RunProgress:
    progress = RunProgress()
    progress.add_all(records)
    return progress


def step(number: int, loss: float, **more: Any) -> dict[str, Any]:
    return {"kind": "step", "step": number, "num_steps": 9, "loss": loss} | more


def test_an_attempt_that_goes_back_replaces_what_came_after_its_checkpoint() -> None:
    progress = told(
        {"kind": "started", "attempt": 1, "step": 0, "num_ranks": 4, "num_steps": 9},
        *(step(number, 9.0 - number) for number in (1, 2, 3, 4, 5)),
        {"kind": "failed", "code": "internal", "message": "it broke"},
        {"kind": "started", "attempt": 2, "step": 2, "num_ranks": 2, "num_steps": 9},
        step(3, 0.5),
    )
    assert progress.loss.points == [(1, 8.0), (2, 7.0), (3, 0.5)]
    assert (progress.attempt, progress.num_ranks, progress.step, progress.failure) == (2, 2, 3, None)
    assert progress.num_steps_left == 6


def test_a_loss_that_was_not_finite_is_no_point_of_the_curve() -> None:
    assert told(step(1, 2.0), {"kind": "step", "step": 2, "loss": None}).loss.points == [(1, 2.0)]


def test_the_notes_of_an_attempt_s_data_take_the_place_of_an_earlier_one_s() -> None:
    def note(attempt: int, message: str, **more: Any) -> dict[str, Any]:
        return {"kind": "note", "attempt": attempt, "message": message} | more

    first = [note(1, "a: 40 rows.", about="data"), note(1, "b: 7 rows.", about="data"), note(1, "the disk is full")]
    assert told(*first).notes == ["a: 40 rows.", "b: 7 rows.", "the disk is full"]
    changed = told(*first, note(2, "a: 20 rows.", about="data"), note(2, "b: 7 rows.", about="data"))
    assert changed.notes == ["the disk is full", "a: 20 rows.", "b: 7 rows."]


def test_the_samples_are_those_of_the_last_evaluation() -> None:
    sample = {"kind": "sampled", "prompt": "a", "text": "b"}
    evaluated = {"kind": "evaluated", "loss": 1.0}
    progress = told(evaluated | {"step": 1}, sample | {"step": 1}, evaluated | {"step": 2}, sample | {"step": 2})
    assert progress.samples == [{"step": 2, "prompt": "a", "text": "b"}]
    assert progress.eval_loss.points == [(1, 1.0), (2, 1.0)]


@given(st.integers(0, 5000))
def test_a_curve_stays_short_keeps_its_order_and_shows_its_last_point(num: int) -> None:
    curve = Curve()
    for number in range(num):
        curve.add(number, float(number))
    shown = curve.shown()
    assert len(shown) <= MAX_POINTS + 1
    assert shown == sorted(shown)
    assert [point[0] for point in shown[-1:]] == ([num - 1] if num else [])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_names = st.sampled_from(["step", "loss", "attempt", "num_ranks", "num_steps", "message", "report", "tokens", "prompt"])


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), True, "4", None, [4]])
def test_a_step_that_is_no_finite_number_counts_as_none(number: object) -> None:
    assert told({"kind": "step", "step": number, "tokens": number}).step == 0


@given(st.lists(st.tuples(st.sampled_from([*map(str, Kind), "other"]), st.dictionaries(_names, _json, max_size=5))))
def test_whatever_stands_in_a_file_of_records_is_taken_in(records: list[tuple[str, dict[str, Any]]]) -> None:
    progress = told(*({"kind": kind, **facts} for kind, facts in records))
    json.dumps([progress.loss.shown(), progress.last, progress.notes])
