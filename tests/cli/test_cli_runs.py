"""Training runs on the command line: train, and kubectl's verbs on runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest
import yaml
from fake_control import FakeControl, Run, event, run_of, service

from ironloom.cli.run_views import ending
from ironloom.server.control import RunView

SCRIPT = """\
import torch
from torch.distributed.fsdp import CPUOffload, FullyShardedDataParallel, MixedPrecision, ShardingStrategy

bf16 = MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float16, buffer_dtype=torch.bfloat16)
model = FullyShardedDataParallel(
    build(),
    sharding_strategy=ShardingStrategy.HYBRID_SHARD,
    mixed_precision=bf16,
    cpu_offload=CPUOffload(offload_params=True),
    use_orig_params=True,
)
model.clip_grad_norm_(1.0)
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n')
    return path


def test_train_writes_a_train_job(run: Run, rows: Path) -> None:
    result = run(
        "train", "owner/name", "--data", str(rows), "--steps", "20", "--lora", "--ranks", "2", "--output", "/out",
        "--set", "optimizer.warmup_steps=5", "--dry-run",
    )  # fmt: skip
    assert result.status == 0
    made = yaml.safe_load(result.out)
    assert (made["kind"], made["metadata"]["name"]) == ("TrainJob", "name-tuned")
    assert made["spec"]["trainer"] == {
        "command": ["torchrun", "-m", "ironloom.train.run"],
        "args": [
            "--model=hf://owner/name", "--output=/out", "--method=lora", f"--data.sources={rows}",
            "--optimizer.warmup_steps=5", "--num_steps=20",
        ],
        "numNodes": 1,
        "numProcPerNode": 2,
    }  # fmt: skip
    assert json.loads(run("train", "a/b", "--data", str(rows), "--dry-run", "-o", "json").out)["kind"] == "TrainJob"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "train needs a MODEL and --data."),
        (["a/b"], "train needs a MODEL and --data."),
        (["a/b", "--data", "/nowhere/rows.jsonl"], "There is no file or folder /nowhere/rows.jsonl to train on."),
        (["a/b", "--data", "ROWS", "--lora", "--qlora"], "--lora and --qlora are two ways; take one of them."),
        (["a/b", "--data", "ROWS", "--steps", "5", "--epochs", "3"], ("--steps and --epochs are two ways to say how "
         "long it trains; take one of them.")),
        (["a/b", "--data", "ROWS", "--set", "learning-rat=1"], ("There is no setting 'learning-rat' of a training run; "
         "did you mean 'optimizer.learning_rate'?")),
        (["a/b", "--data", "ROWS", "--ranks", "3"], ("global_batch_size = 8 does not divide by 3 ranks × "
         "micro_batch_size 1.")),
        (["a/b", "--data", "ROWS", "--ranks", "2", "--gpus", "3"], "--gpus 3 does not divide by --ranks 2."),
        (["./nowhere", "--data", "ROWS"], "There is no file or folder "),
        (["a/b", "--data", "ROWS", "--name", "No_Name"], "Metadata.name = 'No_Name'"),
    ],
)  # fmt: skip
def test_bad_use_is_a_sentence(run: Run, rows: Path, args: list[str], said: str) -> None:
    result = run("train", *(str(rows) if word == "ROWS" else word for word in args), "--dry-run")
    assert result.status in (1, 2)
    assert said.lower() in result.err.lower()
    assert result.out == ""


def test_a_script_s_settings_are_read_without_running_it(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    result = run("train", "--from-script", str(path))
    assert result.status == 0
    lines = [line.split() for line in result.out.splitlines()]
    told = {words[1]: words[2] for words in lines if len(words) > 2}
    assert told["sharding_strategy=ShardingStrategy.HYBRID_SHARD"] == "compute.sharding=HYBRID_SHARD"
    assert told["MixedPrecision(param_dtype=torch.bfloat16)"] == "compute.compute_dtype=bfloat16"
    assert told["MixedPrecision(reduce_dtype=torch.float16)"] == "-"
    assert told["cpu_offload=CPUOffload(offload_params=True)"] == "compute.is_cpu_offload=true"
    assert told["use_orig_params=True"] == "-"
    assert told["clip_grad_norm_(1)"] == "optimizer.max_grad_norm=1"
    assert lines[-1][:5] == ["ironloom", "train", "MODEL", "--data", "DATA"]


def test_a_script_without_fsdp1_is_told(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text("import torch\n")
    assert "makes no FSDP1 wrap" in run("train", "--from-script", str(path)).err


def test_runs_are_listed_beside_services_and_by_their_own_kind(fake: FakeControl, run: Run) -> None:
    fake.services["chat"] = service()
    fake.runs["tuned"] = run_of()
    table = run("get").out.split("\n\n")
    assert table[0].split()[0] == table[1].split()[0] == "NAME"
    assert table[1].splitlines()[1].split() == ["tuned", "running", "20/100", "2.5000", "1,234", "5m", "2", "10m"]
    assert json.loads(run("get", "-o", "json").out) == [fake.services["chat"]], "a list of services, as ever"
    assert json.loads(run("get", "runs", "-o", "json").out) == [fake.runs["tuned"]]
    assert run("get", "tuned").out.splitlines()[1].split()[0] == "tuned"
    assert run("get", "runs", "-o", "name").out == "run/tuned\n"


def test_a_failed_run_s_reason_is_told_beside_the_table(fake: FakeControl, run: Run) -> None:
    fake.runs["tuned"] = run_of(state="failed", reason="rank 1 failed: the tokenizer is another model's")
    assert "tuned failed: rank 1 failed: the tokenizer is another model's" in run("get", "runs").err


def test_of_many_failed_runs_the_reasons_of_the_last_three_are_told(fake: FakeControl, run: Run) -> None:
    for number in range(5):
        fake.runs[f"r{number}"] = run_of(name=f"r{number}", state="failed", reason="no room", since_s=100.0 - number)
    told = [line for line in run("get", "runs").err.splitlines() if line]
    assert told == [
        "r0 failed: no room",
        "r1 failed: no room",
        "r2 failed: no room",
        "2 more runs failed before.",
        "hint: `ironloom describe r0` says all of it.",
    ]
    assert run("get", "r4").err.splitlines()[1] == "r4 failed: no room"


def test_of_a_run_that_found_all_steps_done_no_figures_of_the_earlier_one_are_told(fake: FakeControl, run: Run) -> None:
    report = {"num_tokens": 768, "loss": {"first": 5.8, "last": 5.1}, "exported": {"step": 3, "eval_loss": None}}
    done = run_of(state="succeeded", step=3, num_steps=2, checkpoint_step=3, last={}, report=report, eval_curve=[])
    fake.runs["tuned"] = done
    told = ending(msgspec.convert(done, RunView)).splitlines()
    assert told[0].startswith("tuned succeeded: nothing was left to train after the 3 steps that were done in ")
    assert told[1:] == ["Exported is the model of step 3."]
    assert run("get", "tuned").out.splitlines()[1].split()[2] == "3"
    assert "3, more than num_steps=2, newest checkpoint of step 3\n" in run("describe", "tuned").out


def test_an_ended_run_is_told_in_the_singular_and_with_its_whole_device_time(fake: FakeControl, run: Run) -> None:
    fake.runs["tuned"] = run_of(state="succeeded", step=1, num_steps=1, report={"num_tokens": 768})
    said = ending(msgspec.convert(fake.runs["tuned"], RunView))
    assert said.startswith("tuned succeeded: 1 step, 768 tokens, ")
    assert "so far" not in run("describe", "tuned").out


def test_what_would_mend_a_failed_run_is_told_by_describe_and_by_train(fake: FakeControl, run: Run) -> None:
    reason = "rank 0 failed: it needs 120 GiB"
    fake.runs["tuned"] = run_of(state="failed", reason=reason, hint="a smaller one would fit")
    assert "Hint:         a smaller one would fit" in run("describe", "tuned").out
    assert ending(msgspec.convert(fake.runs["tuned"], RunView)).splitlines() == [
        "tuned failed: rank 0 failed: it needs 120 GiB",
        "",
        "hint: a smaller one would fit",
    ]


def test_describe_shows_a_run_with_its_ranks_and_events(fake: FakeControl, run: Run) -> None:
    fake.runs["tuned"] = run_of(samples=[{"prompt": "Hi", "text": "Hello."}])
    fake.events = [event(1, kind="run.running", service="tuned", replica="", reason="Running", message="step 1")]
    page = run("describe", "tuned").out
    for part in ("20 of 100, newest checkpoint of step 10", "2.7000 at step 10", "4801", "'Hi' → 'Hello.'", "Running",
                 "16m so far, 10m more to the end", "2.0s (forward 1.0s, backward 900ms)"):  # fmt: skip
        assert part in page
    assert json.loads(run("describe", "tuned", "-o", "json").out)["events"][0]["kind"] == "run.running"
    assert run("describe", "run/tuned").status == 0


def test_describe_says_which_step_s_model_was_exported(fake: FakeControl, run: Run) -> None:
    report = {"exported": {"step": 40, "eval_loss": 2.1}, "eval_loss": {"best": 2.1, "best_step": 40}}
    fake.runs["tuned"] = run_of(state="succeeded", report=report)
    assert "Exported:     the model of step 40, evaluation loss 2.1000, the best\n" in run("describe", "tuned").out
    fake.runs["tuned"] = run_of()
    assert "Exported" not in run("describe", "tuned").out


def test_a_run_that_came_to_no_step_is_described_without_one(fake: FakeControl, run: Run) -> None:
    fake.runs["tuned"] = run_of(state="failed", step=0, num_steps=0, checkpoint_step=0, last={}, eval_curve=[])
    page = run("describe", "tuned").out
    assert "Step:" not in page
    assert "Loss:" not in page
    fake.runs["tuned"] = run_of(step=4, checkpoint_step=0)
    assert "4 of 100\n" in run("describe", "tuned").out


def test_logs_and_delete_know_a_run_by_its_name(fake: FakeControl, run: Run) -> None:
    fake.runs["tuned"] = run_of()
    fake.log_lines = [("rank-0", "step 1"), ("rank-1", "hello")]
    assert run("logs", "tuned").out == "[rank-0] step 1\n[rank-1] hello\n"
    assert run("delete", "tuned").out == "run/tuned deleted\n"
    assert fake.runs == {}


def test_a_name_that_is_neither_is_told_as_before(fake: FakeControl, run: Run) -> None:
    for verb in ("describe", "logs", "delete"):
        assert "there is no service 'other'" in run(verb, "other").err.lower()


def test_a_run_that_goes_on_is_asked_for_a_profile_and_its_traces_are_named(fake: FakeControl, run: Run) -> None:
    fake.runs["tuned"] = run_of()
    result = run("profile", "tuned", "--steps", "3")
    assert (result.status, result.out) == (0, "/out/logs/a.json\n/out/logs/b.json\n")
    assert "Steps 21 to 23 of tuned." in result.err
    assert ("POST", "/api/v1/runs/tuned/profile", {"steps": 3}) in fake.calls
    assert json.loads(run("profile", "run/tuned", "-o", "json").out)["last_step"] == 23
    assert "Profile of steps 21 to 23:\n  /out/logs/a.json" in run("describe", "tuned").out


@pytest.mark.parametrize(
    ("answer", "said"),
    [({"state": "failed"}, "tuned failed before its profile was written."),
     ({"attempt": 2}, "tuned began another attempt before its profile was written.")],
)  # fmt: skip
def test_a_run_that_ends_before_its_profile_is_told(
    fake: FakeControl, run: Run, answer: dict[str, object], said: str
) -> None:
    fake.runs["tuned"] = run_of()
    fake.answers["POST", "/api/v1/runs/tuned/profile"] = (200, {"name": "tuned", "steps": 3, "request": "other"})
    looks = 0

    def look(method: str, _path: str) -> None:
        nonlocal looks
        looks += method == "GET"
        if looks == 2:
            fake.runs["tuned"] |= answer

    fake.on_call = look
    result = run("profile", "tuned")
    assert (result.status, said in result.err) == (1, True)


@pytest.mark.parametrize(
    ("args", "said"),
    [(["tuned", "--steps", "0"], "0 is not in the range 1<=x<=100."),
     (["other"], "there is no run 'other'"),
     (["tuned", "--context", "prod", "-n", "ml"], "exec POD -- sh -c 'echo 3 > OUTPUT/logs/profile-ask'")],
)  # fmt: skip
def test_what_cannot_be_profiled_is_a_sentence(fake: FakeControl, run: Run, args: list[str], said: str) -> None:
    fake.runs["tuned"] = run_of()
    result = run("profile", *args)
    assert result.status != 0
    assert said.lower() in result.err.lower()
    assert result.out == ""


def test_where_the_step_s_time_goes_and_its_stalls_are_described(fake: FakeControl, run: Run) -> None:
    last = {"step_s": 2.0, "parts_s": {"forward": 1.0, "communication": 0.9, "data": 0.0001, "checkpoint": 0.0},
            "num_stalls": 3, "stall_s": 12.5}  # fmt: skip
    fake.runs["tuned"] = run_of(last=last, num_skipped=1)
    out = run("describe", "tuned").out
    assert "Skipped:      1 step of a bad loss" in out
    assert "Step time:    2.0s (forward 1.0s, communication 900ms)" in out
    assert "Stalls:       3 steps of more than twice the median, 12s lost" in out


@pytest.mark.parametrize(
    ("events", "said"),
    [([("run.running", "step 1"), ("run.stopped", "the run was deleted, checkpoint at step 42"), ("run.deleted", "")],
      "tuned stopped: the run was deleted, checkpoint at step 42\n"),
     ([], "tuned stopped: the run was deleted\n")],
)  # fmt: skip
def test_a_run_that_is_deleted_while_it_is_waited_for_is_told_with_its_checkpoint(
    fake: FakeControl, run: Run, rows: Path, events: list[tuple[str, str]], said: str
) -> None:
    fake.runs["tuned"] = run_of()
    fake.events = [event(n, kind=kind, service="tuned", message=text) for n, (kind, text) in enumerate(events, 1)]
    applied = {"name": "tuned", "action": "created", "generation": 1, "output": "/out", "notes": []}
    fake.answers["POST", "/api/v1/apply"] = (200, {"services": [], "runs": [applied]})
    looks = 0

    def delete_after_the_first(method: str, path: str) -> None:
        nonlocal looks
        looks += (method, path) == ("GET", "/api/v1/runs/tuned")
        if looks == 2:
            fake.runs.clear()

    fake.on_call = delete_after_the_first
    result = run("train", "owner/name", "--data", str(rows), "--name", "tuned", "--output", "/out")
    assert (result.status, result.out) == (1, said)
    assert "hint: runs are" not in result.err


@pytest.mark.parametrize(("changed_s", "is_told"), [(2000.0, True), (500.0, False)])
def test_of_a_run_that_is_done_the_data_that_changed_since_are_told(
    fake: FakeControl, run: Run, rows: Path, changed_s: float, is_told: bool
) -> None:
    os.utime(rows, (changed_s, changed_s))
    fake.runs["tuned"] = run_of(state="succeeded", since_s=1000.0)
    applied = {"name": "tuned", "action": "unchanged", "generation": 1, "output": "/out", "notes": []}
    fake.answers["POST", "/api/v1/apply"] = (200, {"services": [], "runs": [applied]})
    for data in (rows, rows.parent):
        os.utime(rows.parent, (changed_s, changed_s))
        result = run("train", "owner/name", "--data", str(data), "--name", "tuned", "--output", "/out")
        assert result.status == 0
        assert (f"note: {data} was changed after that, and nothing is trained on it" in result.err) is is_told
