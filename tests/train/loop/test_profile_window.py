"""A profiler window: one trace of the steps asked for, and nothing else measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from ironloom.train.loop.profile import ProfileWindow  # noqa: E402


def walked(window: ProfileWindow, steps: range) -> dict[int, Path]:
    """The traces that were written, by the step at whose end they were."""
    written = {}
    for step in steps:
        window.begin_step(step)
        torch.ones(step, 7) @ torch.ones(7, 2)
        if (path := window.end_step(step)) is not None:
            written[step] = path
    return written


def shapes_of(path: Path) -> int:
    events = json.loads(path.read_text())["traceEvents"]
    return sum(event.get("name") == "aten::matmul" for event in events)


@pytest.mark.parametrize(
    ("steps", "num_steps_seen"), [(range(1, 7), 2), (range(4, 7), 1)], ids=["from the start", "a run that goes on"]
)
def test_a_window_is_written_at_its_last_step(tmp_path: Path, steps: range, num_steps_seen: int) -> None:
    path = tmp_path / "profile.json"
    written = walked(ProfileWindow((3, 4), path, is_gpu=False), steps)
    assert written == {4: path}
    assert shapes_of(path) == num_steps_seen


@pytest.mark.parametrize("window", [None, (9, 10)])
def test_outside_of_a_window_nothing_is_written(tmp_path: Path, window: tuple[int, int] | None) -> None:
    assert walked(ProfileWindow(window, tmp_path / "profile.json", is_gpu=False), range(1, 4)) == {}
    assert list(tmp_path.iterdir()) == []
