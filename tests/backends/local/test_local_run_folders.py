"""Runs and their output folders: whose records are whose, and what folder is refused before anything is started."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.backends.local.test_local_runs import fault, job, world
from tests.backends.local.world import run

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
