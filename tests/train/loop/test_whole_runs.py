"""Whole runs of a tiny model, as ranks of the local backend: kills, other numbers of ranks, bad losses, bad input."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.backends.local.test_local_runs import RunWorld
from tests.train.loop.tiny import make_model

from ironloom.account.events import EventKind
from ironloom.train.loop.exits import PREEMPTED, REFUSED
from ironloom.train.loop.profile_ask import Ask
from ironloom.train.loop.records import Kind, path_of, read_records
from ironloom.train.run_state import ENDED_STATES, RunState
from ironloom.workload.training_job import TrainingJob
from ironloom.workload.training_settings import from_args

pytestmark = [pytest.mark.train, pytest.mark.usefixtures("own_cache")]
NUM_STEPS = 12
PATIENCE_S = 400.0
"""Ranks import torch and Transformers at each attempt; a busy machine takes its time for it."""


def job(ground: Path, output: Path, *args: str, num_ranks: int = 1) -> TrainingJob:
    base = {"name": "tuned", "model": str(ground / "model"), "output": str(output)}
    settings = [
        f"--data.sources={ground / 'rows.jsonl'}", "--data.seq_len=64", f"--num_steps={NUM_STEPS}",
        "--global_batch_size=6", "--watch.log_every_steps=1", "--optimizer.learning_rate=0.003",
        "--checkpoint.every_steps=3", "--compute.is_deterministic",
    ]  # fmt: skip
    training = from_args([*settings, *args], base=base)
    return TrainingJob(name="tuned", kind="TrainJob", training=training, num_ranks=num_ranks, min_ranks=num_ranks)


def records_of(output: Path, kind: Kind | None = None, rank: int = 0) -> list[dict[str, Any]]:
    found, _ = read_records(path_of(output / "logs", rank))
    return [record for record in found if kind in (None, record["kind"])]


def losses(output: Path) -> dict[int, float]:
    """By step; of one that was done twice, the last."""
    return {record["step"]: record["loss"] for record in records_of(output, Kind.STEP)}


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run it, on a loop of its own."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scenario()

    asyncio.run(bounded())


class RealWorld(RunWorld):
    """Runs that do train."""


async def trained(folder: Path, wanted: TrainingJob, *, meanwhile: Any = None) -> RealWorld:
    """A run that was applied and has ended; the world is closed."""
    here = RealWorld(folder)
    await here.open()
    try:
        await here.runs.check(wanted)
        await here.runs.apply(wanted)
        if meanwhile is not None:
            await meanwhile(here)
        await here.until(lambda: here.report.state in ENDED_STATES, PATIENCE_S)
    finally:
        await here.backend.close(stop_replicas=True)
        here.db.close()
    return here


def test_a_run_killed_at_a_random_step_on_a_random_rank_has_the_losses_of_one_that_was_not(
    ground: Path, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    step, rank = chance.randrange(2, NUM_STEPS), chance.randrange(2)

    async def kill(here: RealWorld) -> None:
        await here.until(
            lambda: here.report.progress.step >= step or here.report.state is RunState.SUCCEEDED, PATIENCE_S
        )
        pids = {one.rank: one.pid for one in here.report.ranks}
        os.kill(pids[rank] or 0, signal.SIGKILL)

    async def scenario() -> None:
        plain = await trained(tmp_path / "a", job(ground, tmp_path / "plain", num_ranks=2))
        assert plain.report.state is RunState.SUCCEEDED
        slowly = job(ground, tmp_path / "killed", "--watch.sample_prompts=What comes after 3?", num_ranks=2)
        killed = await trained(tmp_path / "b", slowly, meanwhile=kill)
        assert (killed.report.state, killed.report.attempt) == (RunState.SUCCEEDED, 2), f"seed {seed}"
        assert any(event.kind is EventKind.RUN_WAITING for event in killed.events)
        assert losses(tmp_path / "killed") == losses(tmp_path / "plain"), f"seed {seed}: bit for bit"

    run(scenario)


def test_a_run_goes_on_at_another_number_of_ranks_close_to_one_that_did_not_change(
    ground: Path, tmp_path: Path
) -> None:
    async def half(here: RealWorld) -> None:
        await here.until(lambda: here.report.progress.checkpoint_step >= 3, PATIENCE_S)
        await here.runs.apply(replace(job(ground, tmp_path / "out", num_ranks=2), is_suspended=True))

    async def scenario() -> None:
        await trained(tmp_path / "a", job(ground, tmp_path / "plain", num_ranks=1))
        first = await trained(tmp_path / "b", job(ground, tmp_path / "out", num_ranks=2), meanwhile=half)
        assert first.report.state in (RunState.STOPPED, RunState.SUCCEEDED)
        for ranks in (3, 1):
            more = job(ground, tmp_path / "out", f"--num_steps={NUM_STEPS}", num_ranks=ranks)
            done = await trained(tmp_path / f"c{ranks}", more)
            assert done.report.state is RunState.SUCCEEDED
        plain, changed = losses(tmp_path / "plain"), losses(tmp_path / "out")
        assert changed.keys() == plain.keys()
        assert max(abs(changed[step] - plain[step]) for step in plain) < 1e-3

    run(scenario)


def test_the_result_is_a_model_that_transformers_loads_and_the_report_says_how_it_went(
    ground: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    async def scenario() -> None:
        args = ("--data.eval_fraction=0.2", "--watch.eval_every_steps=4", "--watch.sample_prompts=What comes after 3?")
        done = await trained(tmp_path / "a", job(ground, tmp_path / "out", *args))
        assert done.report.state is RunState.SUCCEEDED
        assert done.report.device_s > 0
        told = json.loads((tmp_path / "out" / "report.json").read_text())["device_s"]
        assert done.report.device_s / 5 < told <= done.report.device_s + 1, "start-up and the export are in it"

    run(scenario)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [step for step, _ in report["eval_loss"]["points"]] == [0, 4, 8, NUM_STEPS]
    assert report["eval_loss"]["last"] < report["eval_loss"]["first"]
    assert report["num_tokens"] == NUM_STEPS * 6 * 64
    assert [record["step"] for record in records_of(tmp_path / "out", Kind.SAMPLED)] == [0, 4, 8, NUM_STEPS]
    assert any(one["parts_s"]["checkpoint"] > 0 for one in records_of(tmp_path / "out", Kind.STEP))
    parts = records_of(tmp_path / "out", Kind.STEP)[-1]["parts_s"]
    assert min(parts[name] for name in ("data", "forward", "backward", "update")) > 0
    assert parts["communication"] == 0, "there is no other rank"
    (events,) = (tmp_path / "out" / "tensorboard").iterdir()
    drawn = {value.tag for event in EventFileLoader(str(events)).Load() for value in event.summary.value}
    assert {"train/loss", "evaluation/loss", "step_parts_s/forward"} <= drawn
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")("After 3 comes 4.", return_tensors="pt")["input_ids"]
    assert float(model(tokens, labels=tokens).loss.detach()) < 5.9


def test_early_stop_ends_a_run_whose_evaluation_gets_no_better(ground: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        args = (
            "--data.eval_fraction=0.2", "--watch.eval_every_steps=1", "--watch.early_stop_patience=2",
            "--optimizer.learning_rate=0.1", "--num_steps=100", "--watch.log_every_steps=1000",
            "--watch.profile_steps=2,50",
        )  # fmt: skip
        done = await trained(tmp_path / "a", job(ground, tmp_path / "out", *args))
        assert done.report.state is RunState.SUCCEEDED
        report, progress = json.loads((tmp_path / "out" / "report.json").read_text()), done.report.progress
        assert report["stopped_early"]
        assert 1 < report["num_steps"] < 100
        best = report["eval_loss"]["best_step"]
        assert report["exported"] == {"step": best, "eval_loss": dict(report["eval_loss"]["points"])[best]}
        assert best == report["num_steps"] - 2
        trace = tmp_path / "out" / "logs" / f"profile-steps-2-{progress.step}-rank-0.json"
        assert trace.stat().st_size, "a window that is open as the run ends is written"
        assert progress.profile["paths"] == [str(trace)]
        assert (done.report.reason, progress.step) == (f"{report['num_steps']} steps", report["num_steps"])
        assert (progress.last["step"], progress.last["loss"]) == (progress.step, report["loss"]["last"])
        assert any(f"Ended early at step {progress.step}: the best" in note for note in progress.notes)
        again = await trained(tmp_path / "b", job(ground, tmp_path / "out", *args, "--num_steps=90"))
        assert again.report.progress.step == progress.step, "as after a kill before the export"
        assert any("the run ended early" in note for note in again.report.progress.notes)
        assert json.loads((tmp_path / "out" / "report.json").read_text())["exported"] == report["exported"]

    run(scenario)


def test_pre_training_needs_a_shape_and_a_tokenizer_and_no_weights(ground: Path, tmp_path: Path) -> None:
    shape = tmp_path / "shape"
    shutil.copytree(ground / "model", shape, ignore=shutil.ignore_patterns("*.safetensors"))

    async def scenario() -> None:
        wanted = job(ground, tmp_path / "out", f"--model={shape}", "--is_from_scratch", "--num_steps=2")
        done = await trained(tmp_path / "a", wanted)
        assert done.report.state is RunState.SUCCEEDED, done.report.reason

    run(scenario)
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert losses(tmp_path / "out")[1] == pytest.approx(math.log(259), abs=0.5), "new weights know nothing"
    told = alone(ground, tmp_path / "other", f"--model={shape}")
    assert (told.returncode, "holds no weights" in told.stderr) == (REFUSED, True), "fine-tuning does need them"


def test_a_loss_that_goes_bad_stops_the_run_and_keeps_the_evidence(ground: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        args = ("--optimizer.learning_rate=1e30", "--optimizer.max_grad_norm=0", "--num_steps=60")
        done = await trained(tmp_path / "a", job(ground, tmp_path / "out", *args))
        assert (done.report.state, done.report.attempt) == (RunState.FAILED, 1)
        assert "the loss is" in done.report.reason or "norm is" in done.report.reason
        assert str(tmp_path / "out" / "logs" / "bad-loss-step-") in done.report.reason

    run(scenario)
    (evidence,) = (tmp_path / "out" / "logs").glob("bad-loss-step-*.json")
    kept = json.loads(evidence.read_text())
    assert kept["num_sequences"] == 6, "on a CPU each step's loss is looked at"
    assert kept["first_sequence"] == 6 * kept["last_step_before"] == 6 * (kept["step"] - 1)


def test_bad_losses_are_skipped_by_rule_until_they_are_too_many(ground: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        args = (
            "--watch.on_bad_loss=skip", "--watch.max_skipped_in_a_row=3", "--optimizer.learning_rate=1e30",
            "--optimizer.max_grad_norm=0", "--num_steps=60",
        )  # fmt: skip
        done = await trained(tmp_path / "a", job(ground, tmp_path / "out", *args))
        assert done.report.state is RunState.FAILED
        assert "4 steps in a row were bad, and 3 may be" in done.report.reason
        assert done.report.progress.num_skipped == 3

    run(scenario)


def test_a_rank_that_is_stopped_is_named_by_the_others_and_the_run_goes_on(ground: Path, tmp_path: Path) -> None:
    async def stop(here: RealWorld) -> None:
        await here.until(lambda: here.report.progress.checkpoint_step >= 3, PATIENCE_S)
        pids = {one.rank: one.pid for one in here.report.ranks}
        os.kill(pids[1] or 0, signal.SIGSTOP)

    async def scenario() -> None:
        args = ("--watch.hang_timeout_s=6", "--num_steps=400")
        wanted = job(ground, tmp_path / "out", *args, num_ranks=2)

        async def stop_and_end(here: RealWorld) -> None:
            await stop(here)
            await here.until(lambda: here.report.attempt == 2 and here.report.state is RunState.RUNNING, PATIENCE_S)
            await here.runs.apply(replace(wanted, is_suspended=True))

        await trained(tmp_path / "a", wanted, meanwhile=stop_and_end)

    run(scenario)
    (hung,) = records_of(tmp_path / "out", Kind.HUNG)
    assert hung["slow_ranks"] == [1]
    assert "no sign of life from rank 1" in hung["message"]
    assert "File" in (tmp_path / "out" / "logs" / "stacks-rank-0.txt").read_text()


def test_a_run_of_two_ranks_is_measured_and_profiled_while_it_goes_on(ground: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    args = ("--data.eval_fraction=0.2", "--watch.eval_every_steps=5", "--num_steps=60", "--watch.log_every_steps=4")

    async def profile(here: RealWorld) -> None:
        await here.until(lambda: here.report.state is RunState.RUNNING, PATIENCE_S)
        await here.runs.ask_profile("tuned", Ask(2, "r1"))
        await here.until(lambda: here.report.progress.profile or here.report.state in ENDED_STATES, PATIENCE_S)

    async def scenario() -> None:
        done = await trained(tmp_path / "a", job(ground, output, *args, num_ranks=2), meanwhile=profile)
        assert done.report.state is RunState.SUCCEEDED, done.report.reason
        told = done.report.progress.profile
        first = told["first_step"]
        assert (told["last_step"], told["request"]) == (min(first + 1, 60), "r1")
        names = [f"profile-steps-{first}-{told['last_step']}-rank-{rank}.json" for rank in (0, 1)]
        assert told["paths"] == [str(output / "logs" / name) for name in names]
        for path in told["paths"]:
            assert json.loads(Path(path).read_text())["traceEvents"]

    run(scenario)
    steps = records_of(output, Kind.STEP)
    for record in steps:
        assert sum(record["parts_s"].values()) == pytest.approx(record["step_s"], abs=1e-6)
        assert record["parts_s"].keys() >= {"data", "forward", "backward", "update", "communication", "checkpoint"}
    report = json.loads((output / "report.json").read_text())
    whole = report["step_time"]
    assert sum(whole["parts_s"].values()) == pytest.approx(whole["total_s"], abs=0.01)
    counts = [later["step"] - sooner["step"] for sooner, later in itertools.pairwise([{"step": 0}, *steps])]
    told_s = sum(count * record["step_s"] for count, record in zip(counts, steps, strict=True))
    assert told_s == pytest.approx(whole["total_s"], rel=0.01), "no time is left out"
    assert whole["parts_s"]["communication"] > 0
    assert whole["parts_s"]["evaluation"] > 0
    assert report["stalls"]["number"] == steps[-1]["num_stalls"]


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_adapters_are_merged_and_left_in_peft_s_form(ground: Path, tmp_path: Path, method: str) -> None:
    async def scenario() -> None:
        done = await trained(
            tmp_path / "a",
            job(ground, tmp_path / "out", f"--method={method}", "--optimizer.learning_rate=0.01", num_ranks=2),
        )
        assert done.report.state is RunState.SUCCEEDED

    run(scenario)
    told = losses(tmp_path / "out")
    assert told[NUM_STEPS] < told[1]
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 16)
    assert (tmp_path / "out" / "model.safetensors").is_file()


def alone(
    ground: Path, output: Path, *args: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The program by itself, in one process."""
    said = [
        f"--model={ground / 'model'}", f"--data.sources={ground / 'rows.jsonl'}", f"--output={output}",
        "--data.seq_len=64", "--num_steps=2", "--global_batch_size=2",
    ]  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "ironloom.train.run", *said, *args],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def test_torchrun_runs_our_module(ground: Path, tmp_path: Path) -> None:
    args = [
        f"--model={ground / 'model'}", f"--data.sources={ground / 'rows.jsonl'}", f"--output={tmp_path / 'out'}",
        "--data.seq_len=64", "--num_steps=2", "--global_batch_size=4",
    ]  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "ironloom.train.run"]
    done = subprocess.run([*torchrun, *args], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "attempt 1 on 2 ranks" in done.stdout
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--data.sources=/nowhere.jsonl"], "There is no file or folder /nowhere.jsonl to train on"),
        (["--model=/nowhere/model"], "/nowhere/model"),
        (["--optimizer.learning_rate=fast"], "optimizer.learning_rate = 'fast', must be a number above 0"),
        (["--method=qlora", "--compute.is_float8=true"], "the base of method = qlora has 4 bits"),
        (["--output=/proc/out"], "/proc/out cannot be written"),
    ],
)
def test_bad_input_is_a_sentence_before_the_first_step(
    ground: Path, tmp_path: Path, args: list[str], said: str
) -> None:
    done = alone(ground, tmp_path / "out", *args)
    assert done.returncode == REFUSED
    assert said.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_a_checkpoint_of_another_model_is_refused_with_the_first_difference(ground: Path, tmp_path: Path) -> None:
    assert alone(ground, tmp_path / "out").returncode == 0
    written = (tmp_path / "out" / "run.json").read_text()
    other = make_model(tmp_path / "other", num_hidden_layers=3)
    done = alone(ground, tmp_path / "out", f"--model={other}")
    assert done.returncode == REFUSED
    assert "num_hidden_layers" in done.stderr
    told = [one["message"] for one in records_of(tmp_path / "out", Kind.PHASE)]
    assert told.count("reading the data") == 1, "the second was refused before it read any"
    assert (tmp_path / "out" / "run.json").read_text() == written, "nor did it write its configuration"


def test_adapters_of_other_weights_are_refused_on_resume(ground: Path, tmp_path: Path) -> None:
    assert alone(ground, tmp_path / "out", "--method=lora").returncode == 0
    other = make_model(tmp_path / "other", seed=2)
    done = alone(ground, tmp_path / "out", "--method=lora", f"--model={other}")
    assert done.returncode == REFUSED
    assert "another model's checkpoint: digest of the first weights is" in done.stderr


def test_a_run_with_fewer_steps_than_are_done_says_that_nothing_is_left(ground: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"

    def told() -> list[str]:
        return [one["message"] for one in records_of(output, Kind.NOTE) if "num_steps" in one["message"]]

    assert alone(ground, output, "--num_steps=4").returncode == 0
    assert told() == []
    assert alone(ground, output, "--num_steps=3").returncode == 0
    assert told() == ["Nothing is left to train: the checkpoint is of step 4, and num_steps is 3."]
    assert json.loads((output / "report.json").read_text())["num_steps"] == 4


def test_a_changed_batch_is_said(ground: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert alone(ground, output, "--num_steps=4").returncode == 0
    done = alone(ground, output, "--num_steps=5", "--global_batch_size=4")
    assert done.returncode == 0, done.stderr
    (told,) = [one["message"] for one in records_of(output, Kind.NOTE) if "global_batch_size" in one["message"]]
    assert told.startswith("global_batch_size was 2 up to step 4 and is 4 from there on")
    assert losses(output).keys() >= {4, 5}


def test_the_steps_that_are_left_are_counted_in_batches_of_now() -> None:
    from ironloom.train.loop.setup import steps_of

    def steps(*, batch: int, epochs: float = 1.0, step: int = 0, consumed: int = 0) -> int:
        args = [f"--global_batch_size={batch}", f"--num_epochs={epochs}"]
        training = from_args(args, base={"name": "a", "model": "b", "output": "c"})
        return steps_of(training, 100, step=step, num_consumed=consumed)

    assert steps(batch=4) == 25
    assert steps(batch=4, step=10, consumed=40) == 25, "as at its start"
    assert steps(batch=10, step=10, consumed=40) == 16, "60 sequences are left"
    assert steps(batch=10, step=30, consumed=120) == 30, "nothing is left"
    assert steps(batch=200, epochs=0.1) == 1


def test_a_second_process_does_not_train_into_the_same_folder(ground: Path, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = alone(ground, tmp_path / "out")
    assert done.returncode == REFUSED
    assert f"another process trains into {tmp_path / 'out'}" in done.stderr.lower()


def test_sigterm_takes_a_checkpoint_within_the_grace_period(ground: Path, tmp_path: Path) -> None:
    args = [
        f"--model={ground / 'model'}", f"--data.sources={ground / 'rows.jsonl'}", f"--output={tmp_path / 'out'}",
        "--data.seq_len=64", "--num_steps=100000", "--global_batch_size=2", "--watch.log_every_steps=1",
    ]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "ironloom.train.run", *args], stdout=subprocess.PIPE, text=True
    ) as one:
        assert one.stdout is not None
        for line in one.stdout:
            if line.startswith("step 3/"):
                break
        one.send_signal(signal.SIGTERM)
        one.stdout.read()
        assert one.wait(120) == PREEMPTED
    (preempted,) = records_of(tmp_path / "out", Kind.PREEMPTED)
    assert (tmp_path / "out" / "checkpoints" / f"step-{preempted['step']:08d}").is_dir()
