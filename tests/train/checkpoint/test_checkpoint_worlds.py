"""A run that goes on with another number of ranks, and another way of sharding, has every number that it had."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from worlds_program import PHASES, STEPS  # noqa: E402

from ironloom.train.checkpoint.folder import steps  # noqa: E402
from ironloom.train.checkpoint.index import read_index  # noqa: E402

PROGRAM = Path(__file__).with_name("worlds_program.py")


def test_4_ranks_then_2_then_3_then_hybrid_then_one_then_replicated(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM, tmp_path], check=False, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for number in range(1, len(PHASES)):
        before = json.loads((tmp_path / f"phase-{number - 1}.json").read_text())
        loaded = json.loads((tmp_path / f"loaded-{number}.json").read_text())
        assert loaded["extra"] == {"step": STEPS * number}
        assert loaded["rate"] == 0.1
        assert loaded["state"] == before  # to the last bit
    last = STEPS * len(PHASES)
    assert steps(tmp_path / "checkpoints") == [last - 1, last]
    assert not list((tmp_path / "checkpoints").glob("*.*"))
    index = read_index(tmp_path / "checkpoints" / f"step-{last:08d}")
    volume = {name: sum(len(tensor.chunks) for tensor in [tensor]) for name, tensor in index.tensors.items()}
    assert set(volume.values()) == {1}, "what each rank holds whole is written once"
    assert index.world == 2
