"""The pieces in a loop of one's own: the guide's block as it stands there, on several ranks; what a meter measures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from ironloom.errors import UsageError  # noqa: E402
from ironloom.train import Meter  # noqa: E402
from ironloom.train.loop.records import Kind, path_of, read_records  # noqa: E402

pytestmark = pytest.mark.train
GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "training.md"


def guide_s_loop() -> str:
    """The program of the section on a loop of one's own."""
    section = GUIDE.read_text().partition("## A loop of your own\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("    ") or not line]
    blocks = re.split(r"\n(?=\n*from pathlib)", "\n".join(line[4:] for line in lines))
    (found,) = [block for block in blocks if "import Path" in block]
    return found


def trained(folder: Path, num_ranks: int, num_steps: int) -> subprocess.CompletedProcess[str]:
    program = guide_s_loop()
    assert "num_steps = 40" in program
    (folder / "loop.py").write_text(program.replace("num_steps = 40", f"num_steps = {num_steps}"))
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}", "loop.py"],
        cwd=folder, capture_output=True, text=True, timeout=500, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_the_guide_s_loop_runs_on_two_ranks_and_goes_on_on_three(tmp_path: Path) -> None:
    first = trained(tmp_path, 2, 20)
    assert first.returncode == 0, first.stderr
    assert "in 4 blocks (0 …)" in first.stdout
    assert not re.search("Warning|triton", first.stderr), "a loop that is as it should be is not warned"
    again = trained(tmp_path, 3, 40)
    assert again.returncode == 0, again.stderr
    steps, _ = read_records(path_of(tmp_path / "out" / "logs", 0))
    steps = [record for record in steps if record["kind"] == Kind.STEP]
    assert [record["step"] for record in steps] == [1, 10, 20, 21, 30, 40]
    assert steps[-1]["samples"] == 40 * 48
    assert steps[-1]["remaining_s"] == 0
    assert steps[-1]["loss"] < steps[0]["loss"]
    seconds = [record["device_s"] for record in steps]
    assert seconds == sorted(seconds), "those of the first start are among them"
    for record in steps:
        assert sum(record["parts_s"].values()) == pytest.approx(record["step_s"], abs=1e-6)
        assert record["parts_s"]["communication"] > 0, "gathers and reductions are waited for"
        assert min(record["parts_s"][part] for part in ("data", "forward", "backward", "update")) > 0
    assert sum(record["parts_s"]["checkpoint"] for record in steps) > 0
    text = (tmp_path / "out" / "logs" / "metrics.prom").read_text()
    assert 'ironloom_run_samples_total{run="run"} 1920\n' in text
    assert 'ironloom_run_step_part_seconds{run="run",part="communication"} ' in text
    assert (tmp_path / "out" / "checkpoints" / "step-00000040").is_dir()


def test_the_loss_that_is_told_is_of_every_rank_s_rows(tmp_path: Path) -> None:
    told = []
    for num_ranks in (1, 3):
        folder = tmp_path / str(num_ranks)
        folder.mkdir()
        done = trained(folder, num_ranks, 1)
        assert done.returncode == 0, done.stderr
        steps, _ = read_records(path_of(folder / "out" / "logs", 0))
        told.append(next(record["loss"] for record in steps if record["kind"] == Kind.STEP))
    assert told[0] == pytest.approx(told[1], rel=1e-5)


def test_a_loss_that_gradients_go_through_is_observed_without_a_warning() -> None:
    meter = Meter(tell_every=1, flops_per_step="counted")
    for rows in meter.steps(batches(1), size=len):
        loss = nn.Linear(8, 1)(rows).mean()
        meter.observe(loss=loss, rate=0.5)
    assert (meter.last["loss"], meter.last["rate"]) == (loss.item(), 0.5)


def batches(num: int) -> list[Any]:
    return [torch.ones(4, 8) for _ in range(num)]


def test_the_operations_of_the_first_step_are_counted_and_mfu_is_theirs_by_the_peak(tmp_path: Path) -> None:
    model = nn.Linear(8, 16, bias=False)
    with_counts = Meter(flops_per_step="counted", peak_flops=1e9, tell_every=1, num_steps=3)
    for rows in with_counts.steps(batches(3), size=len):
        model(rows.requires_grad_()).sum().backward()
    assert with_counts.flops_per_step == 3 * 2 * 4 * 8 * 16, "forward, and the gradients of weights and of rows"
    by_hand = with_counts.flops_per_step / 1e9 * with_counts.last["tokens_per_s"] / 4
    assert with_counts.last["mfu"] == pytest.approx(by_hand, rel=0.1, abs=1e-4)
    said = Meter(flops_per_step=5e8, peak_flops=1e9)
    list(said.steps(batches(1), size=len))
    assert said.last["mfu"] > 0
    unknown = Meter(flops_per_step=5e8)
    list(unknown.steps(batches(1), size=len))
    assert ("mfu" in unknown.last) == (torch.cuda.is_available()), "a CPU's peak is not known"


def test_a_step_that_is_left_is_not_counted_and_the_next_loop_goes_on() -> None:
    meter = Meter(unit="samples", tell_every=1)
    for number, _ in enumerate(meter.steps(batches(9), size=len), start=1):
        assert meter.step == number
        if number == 3:
            break
    assert (meter.step, meter.last["samples"]) == (2, 8)
    for _ in meter.steps(batches(1), size=len):
        assert meter.state()["step"] == 3, "a checkpoint within a step counts it"
    assert (meter.step, meter.last["samples"]) == (3, 12)
    other = Meter(unit="samples")
    other.restore(json.loads(json.dumps(meter.state())))
    list(other.steps(batches(1), size=len))
    assert (other.step, other.last["samples"]) == (4, 16)


def test_what_is_observed_is_read_where_the_step_is_told_and_nothing_is_written_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    meter = Meter(name='a"b', tell_every=2)
    for number, _ in enumerate(meter.steps(batches(4), size=len)):
        meter.observe(loss=torch.tensor(float(number)))
        with meter.part("evaluation"):
            pass
    assert (meter.last["step"], meter.last["loss"], "num_steps" in meter.last) == (4, 3.0, False)
    assert 'ironloom_run_loss{run="a\\"b"} 3\n' in meter.prometheus()
    assert "evaluation" in meter.last["parts_s"]
    meter.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"num_steps": -1}, {"tell_every": 0}, {"unit": "rows"}])
def test_a_wrong_setting_of_a_meter_is_a_sentence(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="one of them cannot be"):
        Meter(**wrong)


def test_the_package_is_light_and_says_what_it_has() -> None:
    program = (
        "import sys, ironloom.train as t; assert 'torch' not in sys.modules; print(*t.__all__); t.CheckpointPolicy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["CheckpointPolicy", "Checkpointer", "Meter", "NotSaved", "Saved", "shard", "share"]
