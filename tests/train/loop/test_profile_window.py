"""A profiler window: one trace of the steps asked for, and nothing else measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from ironloom.train.loop.profile import ProfileWindow, Trace  # noqa: E402
from ironloom.train.loop.profile_ask import LOOK_S, Ask, Asked, ask  # noqa: E402


def walked(window: ProfileWindow, steps: range, *, last_step: int = 0) -> dict[int, Trace]:
    """The traces that were written, by the step at whose end they were."""
    written = {}
    for step in steps:
        window.begin_step(step)
        torch.ones(step, 7) @ torch.ones(7, 2)
        if (trace := window.end_step(step, is_last=step == last_step)) is not None:
            written[step] = trace
    return written


def shapes_of(path: Path) -> int:
    events = json.loads(path.read_text())["traceEvents"]
    return sum(event.get("name") == "aten::matmul" for event in events)


@pytest.mark.parametrize(
    ("steps", "first"), [(range(1, 7), 3), (range(4, 7), 4)], ids=["from the start", "a run that goes on"]
)
def test_a_window_is_written_at_its_last_step(tmp_path: Path, steps: range, first: int) -> None:
    written = walked(ProfileWindow((3, 4), tmp_path, rank=1, is_gpu=False), steps)
    path = tmp_path / f"profile-steps-{first}-4-rank-1.json"
    assert written == {4: Trace(first, 4, path)}
    assert shapes_of(path) == 5 - first
    assert written[4].of_rank(0) == tmp_path / f"profile-steps-{first}-4-rank-0.json"


@pytest.mark.parametrize("window", [None, (9, 10)])
def test_outside_of_a_window_nothing_is_written(tmp_path: Path, window: tuple[int, int] | None) -> None:
    assert walked(ProfileWindow(window, tmp_path, rank=0, is_gpu=False), range(1, 4)) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_window_that_is_asked_for_begins_at_once_and_ends_with_the_run_at_the_latest(tmp_path: Path) -> None:
    window = ProfileWindow(None, tmp_path, rank=0, is_gpu=False)
    assert walked(window, range(1, 4)) == {}
    window.ask(4, 5)
    window.begin_step(4)
    window.ask(5, 1)
    assert window.end_step(4) is None, "the one that is open goes on"
    assert walked(window, range(5, 7), last_step=6).keys() == {6}
    assert [path.name for path in tmp_path.iterdir()] == ["profile-steps-4-6-rank-0.json"]


def test_what_is_asked_for_in_the_logs_is_taken_once(tmp_path: Path) -> None:
    ask(tmp_path, Ask(9, "old"))
    now_s = 0.0
    asked = Asked(tmp_path, clock=lambda: now_s)
    assert asked.take() is None, "an earlier attempt was asked for it"
    ask(tmp_path, Ask(3, "abc"))
    assert asked.take() is None, "it looks twice a second"
    now_s += LOOK_S
    assert asked.take() == Ask(3, "abc")
    now_s += LOOK_S
    assert asked.take() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("2", Ask(2)), ("100 x y", Ask(100, "x")), ("0", None), ("101", None), ("three", None), ("", None), ("-1", None)],
)
def test_a_person_can_write_it_too_and_is_told_what_is_no_number_of_steps(
    tmp_path: Path, text: str, wanted: Ask | None
) -> None:
    asked = Asked(tmp_path)
    (tmp_path / "profile-ask").write_text(text + "\n")
    found = asked.take()
    assert found == wanted if wanted else "a number of steps from 1 to 100 is meant" in str(found)


def test_what_is_being_written_is_waited_for_and_what_is_no_text_is_told(tmp_path: Path) -> None:
    now_s = 0.0
    asked = Asked(tmp_path, clock=lambda: now_s)
    with (tmp_path / "profile-ask").open("w") as file:
        assert asked.take() is None
        file.write("3\n")
    now_s += LOOK_S
    assert asked.take() == Ask(3)
    (tmp_path / "profile-ask").write_bytes(b"\xff\n")
    now_s += LOOK_S
    assert "a number of steps from 1 to 100 is meant" in str(asked.take())
    assert list(tmp_path.iterdir()) == []
