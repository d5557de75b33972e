"""Runs and their output folders: whose records are whose, and what folder is refused before anything is started."""

from __future__ import annotations

import fcntl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.backends.local.test_local_runs import fault, job, world
from tests.backends.local.world import run

from ironloom.backends.local.refusal import sentence_of
from ironloom.errors import UsageError
from ironloom.train.loop.records import Kind, Records
from ironloom.train.run_state import ENDED_STATES, RunReport, RunState
from ironloom.workload.training_job import TrainingJob


def named(wanted: TrainingJob, name: str, **changes: Any) -> TrainingJob:
    return replace(wanted, name=name, training=replace(wanted.training, name=name, **changes))


async def ended(here: Any, name: str) -> RunReport:
    await here.until(lambda: here.runs.report(name).state in ENDED_STATES)
    report: RunReport = here.runs.report(name)
    return report


REFUSED_AT_ONCE = [fault(1, 0, 0, "refuse")]


def test_a_run_that_is_refused_where_another_succeeded_has_failed_and_shows_nothing_of_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            await here.runs.apply(named(job(tmp_path), "first"))
            assert (await ended(here, "first")).state is RunState.SUCCEEDED
            await here.runs.apply(named(job(tmp_path, faults=REFUSED_AT_ONCE), "second"))
            report = await ended(here, "second")
            assert (report.state, report.attempt) == (RunState.FAILED, 1)
            assert report.reason == "rank 0 failed: the tokenizer is another model's"
            progress = report.progress
            assert (progress.step, progress.num_steps, progress.loss.points, progress.report) == (0, 0, [], None)
            assert here.runs.report("first").progress.step == 6

    run(scenario)


def test_a_run_made_anew_under_its_name_tells_nothing_of_the_deleted_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            await here.runs.apply(job(tmp_path, notes=["the first one's"]))
            assert (await here.ended()).progress.notes == ["the first one's"]
            await here.runs.delete("tuned")
            await here.runs.apply(job(tmp_path, steps=9, notes=["the second one's"]))
            report = await here.ended()
            assert (report.state, report.attempt) == (RunState.SUCCEEDED, 1)
            assert report.progress.notes == ["the second one's"]
            assert [step for step, _ in report.progress.loss.points] == [7, 8, 9], "it goes on from the checkpoint"
            await here.runs.delete("tuned")
            await here.runs.apply(job(tmp_path, faults=REFUSED_AT_ONCE))
            assert (await here.ended()).state is RunState.FAILED

    run(scenario)


def test_what_a_program_of_someone_else_wrote_into_the_folder_is_not_the_run_s(tmp_path: Path) -> None:
    alone = Records(tmp_path / "out" / "logs", 0)
    alone.write(Kind.STARTED, step=0, num_ranks=1, num_steps=70)
    alone.write(Kind.DONE, step=70, report={"num_steps": 70})
    alone.close()

    async def scenario() -> None:
        async with world(tmp_path) as here:
            await here.runs.apply(job(tmp_path, faults=REFUSED_AT_ONCE))
            report = await here.ended()
            assert (report.state, report.progress.num_steps) == (RunState.FAILED, 0)

    run(scenario)


def test_the_next_daemon_knows_a_run_s_records_from_another_s(tmp_path: Path) -> None:
    async def scenario() -> None:
        second = named(job(tmp_path, steps=8), "second")
        async with world(tmp_path) as here:
            await here.runs.apply(named(job(tmp_path), "first"))
            await ended(here, "first")
            await here.runs.apply(second)
            await ended(here, "second")
        async with world(tmp_path) as here:
            await here.runs.take_up(second)
            report = here.runs.report("second")
            assert (report.state, report.progress.step) == (RunState.SUCCEEDED, 8)
            assert [step for step, _ in report.progress.loss.points] == [7, 8]

    run(scenario)


def test_a_changed_run_that_is_refused_does_not_keep_its_earlier_success(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            await here.runs.apply(job(tmp_path))
            await here.ended()
            await here.runs.apply(job(tmp_path, faults=[fault(2, 0, 0, "refuse")]))
            report = await here.ended()
            assert (report.state, report.attempt, report.progress.report) == (RunState.FAILED, 2, None)

    run(scenario)


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("/proc/nowhere", "No such file or directory"),
        ("rows.jsonl", "Not a directory"),
        ("rows.jsonl/out", "Not a directory"),
        ("taken-by-a-file", "Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_it_is_applied(
    tmp_path: Path, output: str, why: str
) -> None:
    (tmp_path / "taken-by-a-file").mkdir()
    (tmp_path / "taken-by-a-file" / "logs").touch()
    wanted = named(job(tmp_path), "tuned", output=str(tmp_path / output))
    before = sorted(tmp_path.rglob("*"))

    async def scenario() -> None:
        async with world(tmp_path / "state") as here:
            with pytest.raises(UsageError) as told:
                await here.runs.check(wanted)
            assert told.value.message == f"output = {wanted.training.output!r} cannot be written: {why}"
            assert told.value.hint

    run(scenario)
    assert [one for one in sorted(tmp_path.rglob("*")) if tmp_path / "state" not in (one, *one.parents)] == before


def test_a_look_at_a_good_output_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            await here.runs.check(named(job(tmp_path), "tuned", output=str(tmp_path / "a" / "b" / "c")))
            assert not (tmp_path / "a").exists()

    run(scenario)


def test_an_output_that_another_run_trains_into_is_refused_until_that_has_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            first = named(job(tmp_path, steps=10_000), "first")
            await here.runs.apply(first)
            await here.until(lambda: here.runs.report("first").state is RunState.RUNNING)
            (tmp_path / "link").symlink_to(tmp_path / "out")
            second = named(job(tmp_path), "second", output=str(tmp_path / "link"))
            with pytest.raises(UsageError, match=r"link' is where the run 'first' trains, and one run at a time can"):
                await here.runs.check(second)
            await here.runs.check(replace(second, is_suspended=True))
            await here.runs.check(first)
            await here.runs.apply(replace(first, is_suspended=True))
            await ended(here, "first")
            await here.runs.check(second)

    run(scenario)


def test_two_runs_of_one_apply_that_would_train_into_one_output_are_refused_and_both_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            (tmp_path / "out").mkdir()
            (tmp_path / "link").symlink_to(tmp_path / "out")
            first = named(job(tmp_path), "first")
            second = named(job(tmp_path), "second", output=str(tmp_path / "link"))
            both = [first, second]
            with pytest.raises(UsageError) as told:
                await here.runs.check(first, beside=both)
            assert told.value.message == (
                f"output = {str(tmp_path / 'out')!r} is where the runs 'first' and 'second' would both train, "
                "and one run at a time can"
            )
            with pytest.raises(UsageError, match="the runs 'second' and 'first' would both train"):
                await here.runs.check(second, beside=both)
            elsewhere = named(second, "second", output=str(tmp_path / "other"))
            for beside in ([first], [first, elsewhere], [first, replace(second, is_suspended=True)]):
                await here.runs.check(first, beside=beside)
            await here.runs.apply(first)
            await ended(here, "first")
            await here.runs.check(first, beside=both)  # it is done, and is not started again
            await here.runs.check(second, beside=both)

    run(scenario)


def test_an_output_that_a_process_of_someone_else_holds_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            (tmp_path / "out").mkdir()
            with (tmp_path / "out" / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                with pytest.raises(UsageError, match="is where another process trains"):
                    await here.runs.check(job(tmp_path))
            await here.runs.check(job(tmp_path))

    run(scenario)


def test_a_rank_that_could_write_no_record_is_quoted_from_its_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            await here.runs.apply(job(tmp_path, faults=[fault(1, 0, 2, "say and refuse")]))
            report = await here.ended()
            assert report.reason == "rank 0 failed: Another process trains into the folder"
            assert report.hint == "wait for it to end"

    run(scenario)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "", ""),
        ("a warning\nIt is wrong.\n\nhint: mend it.\n", "It is wrong", "mend it"),
        ("step 1\n\nIt is wrong.\n", "It is wrong", ""),
        ("hint: alone\n", "", "alone"),
    ],
)
def test_the_sentence_at_a_log_s_end_is_found(text: str, message: str, hint: str) -> None:
    assert sentence_of(text) == (message, hint)
