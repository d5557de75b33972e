"""Training runs as processes: attempts, back-off, fewer ranks, stops, a daemon that dies, no process left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.backends.local.world import World, run

from ironloom.account.events import EventKind
from ironloom.backends.local import run_owner
from ironloom.backends.local.devices import Inventory
from ironloom.errors import EngineUnavailable, ModelNotFound, UsageError
from ironloom.fleet.node import Gpu
from ironloom.train.run_state import ENDED_STATES, RunReport, RunState
from ironloom.units import GIB
from ironloom.workload.serving import Resources
from ironloom.workload.training import Data, Source, Training
from ironloom.workload.training_job import TrainingJob

PROGRAM = (sys.executable, str(Path(__file__).parents[2] / "fakes" / "fake_rank.py"))


def job(folder: Path, *, num_ranks: int = 1, settings: dict[str, Any] | None = None, **how: Any) -> TrainingJob:
    data = folder / "rows.jsonl"
    data.touch()
    values: dict[str, Any] = {"global_batch_size": 12, "max_restarts": 2} | (settings or {})
    training = Training(
        name="tuned",
        model="hf://owner/model",
        output=str(folder / "out"),
        data=Data(sources=(Source(uri=str(data)),)),
        **values,
    )
    return TrainingJob(
        name="tuned",
        kind="TrainJob",
        training=training,
        num_ranks=num_ranks,
        min_ranks=1 if training.is_elastic else num_ranks,
        env={"FAKE_RANK": json.dumps(how)},
    )


def fault(attempt: int, rank: int, step: int, how: str) -> dict[str, Any]:
    return {"attempt": attempt, "rank": rank, "step": step, "how": how}


class RunWorld(World):
    """A world whose runs train nothing."""

    @property
    def runs(self) -> Any:
        return self.backend.runs

    @property
    def report(self) -> RunReport:
        found = self.runs.report("tuned")
        assert found is not None
        return found

    async def open(self) -> None:
        await super().open()
        await self.runs.open(on_change=lambda _: None)

    async def ended(self) -> RunReport:
        await self.until(lambda: self.report.state in ENDED_STATES)
        return self.report

    def states(self) -> list[str]:
        return [event.kind.value.removeprefix("run.") for event in self.events if event.kind.value.startswith("run.")]


@asynccontextmanager
async def world(folder: Path, *, stop: bool = True, **options: Any) -> Any:
    made = RunWorld(folder, train_program=PROGRAM, **options)
    await made.open()
    try:
        yield made
    finally:
        await made.backend.close(stop_replicas=stop)
        made.db.close()


def test_a_run_goes_through_its_states_and_succeeds(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            await here.runs.apply(job(tmp_path, num_ranks=2))
            report = await here.ended()
            assert report.state is RunState.SUCCEEDED
            assert (report.attempt, report.num_failures, report.num_ranks) == (1, 0, 2)
            assert report.progress.step == 6
            assert [step for step, _ in report.progress.loss.points] == [1, 2, 3, 4, 5, 6]
            assert here.states() == ["starting", "running", "succeeded"]
            assert report.device_s > 0
            assert here.events[-1].data["device_s"] == pytest.approx(report.device_s, abs=0.01)
            assert here.events[-1].devices == ()
            assert here.events[-2].devices == ("cpu", "cpu")
            lines = [line async for line in here.runs.logs("tuned", None, follow=False, tail=10)]
            assert ("rank-1", "rank 1 of 2, attempt 1, from step 0") in lines
            assert here.processes() == []

    run(scenario)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_by_kill_9_is_followed_by_an_attempt_from_the_last_checkpoint(tmp_path: Path, rank: int) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            await here.runs.apply(job(tmp_path, num_ranks=2, faults=[fault(1, rank, 5, "kill")], step_s=0.05))
            report = await here.ended()
            assert report.state is RunState.SUCCEEDED
            assert report.attempt == 2
            waiting = next(event for event in here.events if event.kind is EventKind.RUN_WAITING)
            assert waiting.message.startswith(f"rank {rank} was killed by SIGKILL; attempt 2 follows")
            lines = [line for _, line in [one async for one in here.runs.logs("tuned", "rank-0", follow=False, tail=9)]]
            assert lines[-1] == "rank 0 of 2, attempt 2, from step 4"
            assert [step for step, _ in report.progress.loss.points] == [1, 2, 3, 4, 5, 6]

    run(scenario)


def test_what_the_same_again_would_not_mend_is_not_tried_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            await here.runs.apply(job(tmp_path, num_ranks=2, faults=[fault(1, 1, 1, "refuse")]))
            report = await here.ended()
            assert (report.state, report.attempt) == (RunState.FAILED, 1)
            assert report.reason == "rank 1 failed: the tokenizer is another model's"
            assert report.hint == "the model's own"

    run(scenario)


def test_attempts_without_a_new_checkpoint_are_counted_and_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            faults = [fault(attempt, 0, 1, "fail") for attempt in (1, 2, 3)]
            await here.runs.apply(job(tmp_path, faults=faults))
            report = await here.ended()
            assert (report.state, report.attempt) == (RunState.FAILED, 3)
            last = "rank 0 failed: a fault that was asked for"
            assert report.reason == f"3 attempts in a row failed without a new checkpoint; the last: {last}"

    run(scenario)


def test_a_checkpoint_between_failures_starts_the_count_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            faults = [fault(1, 0, 3, "fail"), fault(2, 0, 5, "fail"), fault(3, 0, 7, "fail"), fault(4, 0, 9, "fail")]
            await here.runs.apply(job(tmp_path, faults=faults, steps=10))
            report = await here.ended()
            assert (report.state, report.attempt) == (RunState.SUCCEEDED, 5)

    run(scenario)


def test_an_elastic_run_goes_on_with_fewer_ranks_after_two_failures(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            faults = [fault(1, 3, 1, "kill"), fault(2, 3, 1, "kill")]
            settings = {"is_elastic": True, "max_restarts": 5}
            await here.runs.apply(job(tmp_path, num_ranks=4, settings=settings, faults=faults))
            report = await here.ended()
            assert (report.state, report.attempt, report.num_ranks) == (RunState.SUCCEEDED, 3, 3)

    run(scenario)


def test_a_suspended_run_takes_a_checkpoint_and_goes_on_from_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            wanted = job(tmp_path, num_ranks=2, steps=60, save_every=1000)
            await here.runs.apply(wanted)
            await here.until(lambda: here.report.progress.step >= 3)
            await here.runs.apply(replace(wanted, is_suspended=True))
            report = await here.ended()
            assert report.state is RunState.STOPPED
            assert report.reason.startswith("suspended, checkpoint at step ")
            assert here.processes() == []
            await asyncio.gather(*here.runs._replacing.values())
            assert here.report.progress.checkpoint_step >= 3
            assert here.report.progress.num_steps == 60
            assert here.report.progress.step == here.report.progress.checkpoint_step
            assert here.report.progress.loss.points
            await here.runs.apply(wanted)
            report = await here.ended()
            assert (report.state, report.attempt) == (RunState.SUCCEEDED, 2)

    run(scenario)


def test_a_log_is_followed_to_the_end_of_its_run_through_attempts_and_other_configurations(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            wanted = job(tmp_path, num_ranks=2, faults=[fault(1, 1, 3, "kill")], step_s=0.05, steps=20)
            await here.runs.apply(wanted)

            async def followed() -> list[str]:
                return [line async for _, line in here.runs.logs("tuned", "rank-0", follow=True, tail=10)]

            reading = asyncio.create_task(followed())
            await here.until(lambda: here.report.attempt == 2 and here.report.state is RunState.RUNNING)
            await here.runs.apply(replace(wanted, training=replace(wanted.training, global_batch_size=24)))
            await here.until(lambda: here.report.state is RunState.SUCCEEDED)
            await here.until(reading.done)
            starts = [line.split(", from")[0] for line in reading.result() if line.startswith("rank 0 of 2")]
            assert starts == [f"rank 0 of 2, attempt {number}" for number in (1, 2, 3)]
            assert await followed() == reading.result()

    run(scenario)


def test_delete_ends_exactly_its_own_processes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            faults = [fault(1, 1, 2, "leak")]
            await here.runs.apply(job(tmp_path, num_ranks=2, steps=1000, faults=faults))
            await here.until(lambda: here.report.attempt == 2 and here.report.state is RunState.RUNNING)
            assert len(here.processes()) == 2, "what the first attempt leaked is gone"
            other = await asyncio.create_subprocess_exec("sleep", "60")
            await here.runs.delete("tuned")
            assert here.processes() == []
            assert here.runs.report("tuned") is None
            assert (tmp_path / "out" / "saved").exists(), "its output stays"
            assert other.returncode is None
            other.kill()
            await other.wait()

    run(scenario)


def test_the_ranks_of_a_daemon_that_died_are_adopted(tmp_path: Path) -> None:
    async def scenario() -> None:
        wanted = job(tmp_path, num_ranks=2, steps=80)
        async with world(tmp_path, stop=False) as here:
            await here.runs.apply(wanted)
            await here.until(lambda: here.report.progress.step >= 2)
            pids = {one.pid for one in here.report.ranks}
        async with world(tmp_path) as here:
            await here.runs.take_up(wanted)
            assert {one.pid for one in here.report.ranks} == pids
            assert here.states() == ["adopted"]
            report = await here.ended()
            assert (report.state, report.attempt) == (RunState.SUCCEEDED, 1)

    run(scenario)


def test_a_rank_that_dies_after_another_daemon_took_it_up_is_followed_by_another_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its status is nobody's to read, and the other rank waits for it for ever."""
    monkeypatch.setattr(run_owner, "GATHER_UNSEEN_S", 0.5)

    async def scenario() -> None:
        wanted = job(tmp_path, num_ranks=2, steps=400)
        async with world(tmp_path, stop=False) as here:
            await here.runs.apply(wanted)
            await here.until(lambda: here.report.progress.checkpoint_step >= 2)
            pids = [one.pid for one in here.report.ranks]
        async with world(tmp_path) as here:
            await here.runs.take_up(wanted)
            assert here.states() == ["adopted"]
            os.kill(pids[1] or 0, signal.SIGKILL)
            await here.until(lambda: here.report.attempt == 2 and here.report.state is RunState.RUNNING)

    run(scenario)


def test_a_run_whose_ranks_died_with_the_daemon_goes_on_by_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        wanted = job(tmp_path, num_ranks=2, steps=30)
        async with world(tmp_path, stop=False) as here:
            await here.runs.apply(wanted)
            await here.until(lambda: here.report.progress.checkpoint_step >= 2)
            pids = [one.pid for one in here.report.ranks]
        os.kill(pids[1] or 0, signal.SIGKILL)
        os.waitid(os.P_PID, pids[1] or 0, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 (killed: at once)
        async with world(tmp_path) as here:
            await here.runs.take_up(wanted)
            report = await here.ended()
            assert (report.state, report.attempt) == (RunState.SUCCEEDED, 2)

    run(scenario)


def test_a_daemon_that_ends_has_its_runs_take_checkpoints_and_the_next_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        wanted = job(tmp_path, num_ranks=2, steps=60, save_every=1000)
        async with world(tmp_path) as here:
            await here.runs.apply(wanted)
            await here.until(lambda: here.report.progress.step >= 3)
        assert int((tmp_path / "out" / "saved").read_text()) >= 3
        async with world(tmp_path) as here:
            await here.runs.take_up(wanted)
            report = await here.ended()
            assert (report.state, report.attempt) == (RunState.SUCCEEDED, 2)

    run(scenario)


def test_a_run_that_had_ended_is_left_as_it_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        wanted = job(tmp_path)
        async with world(tmp_path) as here:
            await here.runs.apply(wanted)
            before = await here.ended()
        async with world(tmp_path) as here:
            await here.runs.take_up(wanted)
            assert here.report.state is RunState.SUCCEEDED
            assert here.report.device_s == pytest.approx(before.device_s)
            assert here.report.progress.step == 6
            await here.runs.apply(wanted)
            assert here.report.attempt == 1

    run(scenario)


def with_gpus(number: int) -> Inventory:
    gpus = [
        Gpu(index=index, uuid=f"GPU-{index}", name="simulated", memory_bytes=80 * GIB, free_memory_bytes=80 * GIB)
        for index in range(number)
    ]
    return Inventory(gpus=tuple(gpus), memory_bytes=32 * GIB)


def test_an_elastic_run_takes_as_many_ranks_as_there_are_gpus(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, inventory=with_gpus(3)) as here:
            wanted = job(tmp_path, num_ranks=4, settings={"is_elastic": True})
            await here.runs.apply(replace(wanted, resources=Resources(num_gpus=1)))
            report = await here.ended()
            assert (report.state, report.num_ranks) == (RunState.SUCCEEDED, 3)
            running = next(event for event in here.events if event.kind is EventKind.RUN_RUNNING)
            assert running.devices == ("gpu:0", "gpu:1", "gpu:2")

    run(scenario)


def test_a_run_waits_for_gpus_that_others_have_and_fails_where_they_never_are(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path, inventory=with_gpus(2)) as here:
            first = replace(job(tmp_path, num_ranks=2, steps=60), resources=Resources(num_gpus=1))
            await here.runs.apply(first)
            await here.until(lambda: here.report.state is RunState.RUNNING)
            other = replace(first.training, name="other", output=str(tmp_path / "other"))
            await here.runs.apply(replace(first, name="other", training=other))
            await here.until(lambda: "0 of 2 free" in here.runs.report("other").reason)
            assert here.runs.report("other").state is RunState.QUEUED
            await here.runs.delete("tuned")
            await here.until(lambda: here.runs.report("other").state is RunState.RUNNING)
            huge = replace(first.training, name="huge", output=str(tmp_path / "huge"))
            await here.runs.apply(replace(first, name="huge", training=huge, num_ranks=3))
            await here.until(lambda: here.runs.report("huge").state is RunState.FAILED)
            assert "needs 3 GPUs; this machine has 2" in here.runs.report("huge").reason

    run(scenario)


def test_gpus_that_are_not_there_are_a_note_and_the_run_is_on_the_cpu(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            await here.runs.apply(replace(job(tmp_path, num_ranks=2), resources=Resources(num_gpus=1)))
            report = await here.ended()
            assert report.state is RunState.SUCCEEDED
            assert report.notes == ("2 GPUs (nvidia.com/gpu) asked for; this machine has none, so it runs on the CPU",)

    run(scenario)


def test_without_the_extra_that_trains_it_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ironloom.backends.local.runs.NEEDS", ("no_such_module",))

    async def scenario() -> None:
        async with world(tmp_path) as here:
            monkeypatch.setattr(here.runs, "_program", None)
            with pytest.raises(EngineUnavailable, match="training needs no_such_module") as told:
                await here.runs.check(job(tmp_path))
            assert told.value.hint == "`pip install 'ironloom[train]'` brings it"

    run(scenario)


def test_what_is_known_to_be_wrong_is_told_before_it_is_applied(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as here:
            good = job(tmp_path)

            def of(**changes: Any) -> TrainingJob:
                return replace(good, training=replace(good.training, **changes))

            with pytest.raises(UsageError, match="there is nothing to train on"):
                await here.runs.check(of(data=Data()))
            with pytest.raises(UsageError, match=r"'rows\.jsonl' is a relative path"):
                await here.runs.check(of(data=Data(sources=(Source(uri="rows.jsonl"),))))
            with pytest.raises(UsageError, match=r"there is no file or folder /nowhere/rows\.jsonl"):
                await here.runs.check(of(data=Data(sources=(Source(uri="/nowhere/rows.jsonl"),))))
            with pytest.raises(ModelNotFound):
                await here.runs.check(of(model="/nowhere/model"))
            await here.runs.check(good)

    run(scenario)
