"""Whole runs whose best evaluation is not the last one: what is exported, what is kept, and what a run that goes on
knows of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.train.loop.test_whole_runs import alone, job, records_of, run, trained
from tests.train.loop.tiny import make_rows

from ironloom.train.checkpoint.folder import step_folder, steps
from ironloom.train.loop.folder import checkpoints_of
from ironloom.train.loop.records import Kind
from ironloom.train.run_state import RunState

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("own_cache")]

HELD_OUT = ("--data.eval_fraction=0.2", "--watch.eval_every_steps=1", "--optimizer.schedule=constant")
WORSE = (*HELD_OUT, "--optimizer.learning_rate=0.3", "--watch.is_best_exported", "--checkpoint.keep_last=1")
"""At this rate the loss falls in the first step and leaps up in the second."""


def report_of(output: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((output / "report.json").read_text())
    return report


def notes_of(output: Path) -> list[str]:
    return [record["message"] for record in records_of(output, Kind.NOTE)]


def evaluated(ground: Path, model: Path, scratch: Path, *args: str) -> float:
    """The evaluation loss of a folder's model, by a run that begins with it."""
    done = alone(ground, scratch, f"--model={model}", "--num_steps=1", *HELD_OUT, *args)
    assert done.returncode == 0, done.stderr
    first = records_of(scratch, Kind.EVALUATED)[0]
    assert first["step"] == 0
    return float(first["loss"])


def trained_alone(ground: Path, output: Path, *args: str) -> dict[str, Any]:
    """The report of a run in one process."""
    done = alone(ground, output, "--global_batch_size=6", "--checkpoint.every_steps=1", *WORSE, *args)
    assert done.returncode == 0, done.stderr
    report = report_of(output)
    assert done.stdout.rstrip().splitlines()[-1].startswith(f"exported: the model of step {report['exported']['step']}")
    return report


def harm_model(checkpoint: Path) -> None:
    """Flip a bit of each of its files' first tensors, the model's among them."""
    for file in checkpoint.glob("*.safetensors"):
        content = bytearray(file.read_bytes())
        for place in range(8 + int.from_bytes(content[:8], "little"), len(content), 64):
            content[place] ^= 1
        file.write_bytes(content)


def test_the_best_model_is_exported_from_two_ranks_and_known_to_a_run_that_goes_on_with_one(
    ground: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def goes_to(num_steps: int, num_ranks: int) -> dict[str, Any]:
        async def scenario() -> None:
            wanted = job(
                ground, out, *WORSE, "--checkpoint.every_steps=2", f"--num_steps={num_steps}", num_ranks=num_ranks
            )
            done = await trained(tmp_path / f"state-{num_ranks}", wanted)
            assert done.report.state is RunState.SUCCEEDED, done.report.reason

        run(scenario)
        return report_of(out)

    first = goes_to(4, 2)
    assert first["exported"] == {"step": 1, "eval_loss": first["eval_loss"]["best"]}
    assert first["eval_loss"]["last"] > first["eval_loss"]["best"] + 0.1
    assert steps(checkpoints_of(out)) == [1, 4], "the best one's stays beside the last"
    best = evaluated(ground, out, tmp_path / "again")
    assert best == pytest.approx(first["eval_loss"]["best"], rel=1e-5), "what is exported is the best one's model"
    second = goes_to(6, 1)
    assert second["exported"] == first["exported"]
    assert [step for step, _ in second["eval_loss"]["points"]] == [0, 1, 2, 3, 4, 5, 6]
    assert steps(checkpoints_of(out)) == [1, 6]
    assert evaluated(ground, out, tmp_path / "third") == pytest.approx(best, rel=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks Transformers by an old name
def test_adapters_of_the_best_evaluation_are_merged_and_left_on_two_ranks(ground: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    async def scenario() -> None:
        args = (*WORSE, "--method=lora", "--optimizer.learning_rate=0.1", "--num_steps=2")
        done = await trained(tmp_path / "state", job(ground, out, *args, num_ranks=2))
        assert done.report.state is RunState.SUCCEEDED, done.report.reason

    run(scenario)
    report = report_of(out)
    assert report["exported"] == {"step": 1, "eval_loss": report["eval_loss"]["best"]}
    assert report["eval_loss"]["last"] > report["eval_loss"]["best"] + 0.1
    best = pytest.approx(report["eval_loss"]["best"], rel=1e-3)  # the merged weights are rounded once more
    assert evaluated(ground, out, tmp_path / "merged") == best
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(ground / "model")
    with_adapter = peft.PeftModel.from_pretrained(base, out / "adapter").merge_and_unload()
    merged = AutoModelForCausalLM.from_pretrained(out).state_dict()
    for name, tensor in with_adapter.state_dict().items():
        assert (tensor - merged[name]).abs().max() < 1e-5, f"{name}: both forms are of the same step"


def test_where_the_last_model_is_wanted_it_is_exported_and_the_best_one_is_named(ground: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = trained_alone(ground, out, "--watch.is_best_exported=false", "--num_steps=3")
    assert report["exported"] == {"step": 3, "eval_loss": report["eval_loss"]["last"]}
    assert report["eval_loss"]["best_step"] == 1
    assert steps(checkpoints_of(out)) == [3]
    assert notes_of(out) == [note for note in notes_of(out) if "best" not in note]


def test_where_the_best_checkpoint_is_damaged_the_next_best_is_exported_and_it_is_said(
    ground: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = trained_alone(ground, out, "--num_steps=3")
    assert report["exported"]["step"] == 1
    harm_model(step_folder(checkpoints_of(out), 1))
    report = trained_alone(ground, out, "--num_steps=3")
    assert report["exported"] == {"step": 3, "eval_loss": report["eval_loss"]["last"]}
    told = notes_of(out)
    assert any(note.startswith("A checkpoint was set aside: ") for note in told)
    assert any("there is no checkpoint that can be read: the model of step 3 is exported" in note for note in told)
    last = evaluated(ground, out, tmp_path / "again")
    assert last == pytest.approx(report["eval_loss"]["last"], rel=1e-5), "nothing of the damaged one is in it"


def test_other_held_out_rows_have_the_best_evaluation_looked_for_anew(ground: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows = make_rows(tmp_path / "some.jsonl", 6)
    apart = ("--data.eval_fraction=0", f"--data.eval_sources={rows}")
    assert trained_alone(ground, out, *apart, "--num_steps=2")["exported"]["step"] == 1
    make_rows(rows, 9)
    report = trained_alone(ground, out, *apart, "--num_steps=4")
    assert [step for step, _ in report["eval_loss"]["points"]] == [3, 4]
    assert report["exported"]["step"] in (3, 4)
    assert "The held-out rows are others than up to step 2: the best evaluation is looked for anew." in notes_of(out)
