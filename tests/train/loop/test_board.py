"""TensorBoard's scalars: the numbers of steps and evaluations, and nothing where the package is not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ironloom.train.loop import board as module
from ironloom.train.loop.records import Kind

STEP = {"kind": Kind.STEP, "step": 3, "loss": 2.5, "grad_norm": 0.5, "mfu": None, "tokens_per_s": 100, "device": "CPU",
        "parts_s": {"forward": 0.5, "communication": 0.25}, "num_stalls": 2}  # fmt: skip


class Writer:
    """Stands for torch.utils.tensorboard's."""

    made: list[Any]

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder = folder
        self.scalars: list[tuple[str, float, int]] = []
        self.is_open = True
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.is_open = False


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    Writer.made = []
    stand_in = ModuleType("torch.utils.tensorboard")
    stand_in.SummaryWriter = Writer  # type: ignore[attr-defined]
    for name in ("torch", "torch.utils"):
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name) or ModuleType(name))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    monkeypatch.setattr(module, "find_spec", lambda _: SimpleNamespace())
    return Writer.made


def test_steps_and_evaluations_become_scalars_in_the_output_s_folder(writers: list[Any], tmp_path: Path) -> None:
    board = module.Board(tmp_path)
    board.show(STEP)
    board.show({"kind": Kind.EVALUATED, "step": 3, "loss": 2.25})
    board.show({"kind": Kind.NOTE, "message": "nothing to draw"})
    board.close()
    (writer,) = writers
    assert writer.folder == str(tmp_path / "tensorboard")
    assert writer.scalars == [
        ("train/loss", 2.5, 3), ("train/grad_norm", 0.5, 3), ("train/tokens_per_s", 100, 3), ("train/num_stalls", 2, 3),
        ("step_parts_s/forward", 0.5, 3), ("step_parts_s/communication", 0.25, 3),
        ("evaluation/loss", 2.25, 3),
    ]  # fmt: skip
    assert not writer.is_open


def numbers_in(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads there: steps and values by name."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                (number,) = value.tensor.float_val
                found.setdefault(value.tag, []).append((event.step, pytest.approx(number)))
    return found


@pytest.mark.train
def test_tensorboard_itself_reads_what_is_written(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    board = module.Board(tmp_path)
    board.show(STEP)
    board.show(STEP | {"step": 4, "loss": 2.25, "learning_rate": 1e-5})
    board.show({"kind": Kind.EVALUATED, "step": 4, "loss": 2})
    board.show({"kind": Kind.EVALUATED, "step": 4, "loss": 2.125})
    board.close()
    found = numbers_in(tmp_path / "tensorboard")
    assert found["train/loss"] == [(3, 2.5), (4, 2.25)]
    assert found["train/learning_rate"] == [(4, 1e-5)]
    assert found["step_parts_s/forward"] == [(3, 0.5), (4, 0.5)]
    assert found["evaluation/loss"] == [(4, 2), (4, 2.125)]
    assert "train/mfu" not in found, "a CPU has none"


@pytest.mark.train
def test_steps_that_are_done_again_are_drawn_once(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps, loss in (((1, 2, 3, 4), 2.5), ((3, 4, 5), 2.25)):
        board = module.Board(tmp_path)
        for step in steps:
            board.show(STEP | {"step": step, "loss": loss})
        board.close()
    drawn = EventAccumulator(str(tmp_path / "tensorboard"))
    drawn.Reload()
    points = [(event.step, event.value) for event in drawn.Scalars("train/loss")]
    assert points == [(1, 2.5), (2, 2.5), (3, 2.25), (4, 2.25), (5, 2.25)]


def test_without_the_package_nothing_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    board = module.Board(tmp_path)
    board.show(STEP)
    board.close()
    assert list(tmp_path.iterdir()) == []
