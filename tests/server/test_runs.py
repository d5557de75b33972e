"""The daemon's training runs: applied, taken up by the next daemon, told, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ironloom.account.database import Database
from ironloom.account.events import Event
from ironloom.errors import ManifestError, RequestError, UsageError
from ironloom.server.declare import declared_workloads
from ironloom.server.runs import Runs
from ironloom.train.loop.profile_ask import Ask
from ironloom.train.run_state import Rank, RunReport, RunState
from ironloom.workload.manifests import training_manifest
from ironloom.workload.training_job import TrainingJob
from ironloom.workload.training_settings import from_args


class FakeBackend:
    """Keeps what it was asked; a run is in the state that the test says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.states: dict[str, RunState] = {}
        self.refusal: Exception | None = None
        self.beside: list[str] = []

    async def open(self, *, on_change: Callable[[RunReport], None]) -> None:
        self.asked.append(("open", ""))

    async def check(self, job: TrainingJob, *, beside: Sequence[TrainingJob] = ()) -> None:
        self.beside = [one.name for one in beside]
        if self.refusal is not None:
            raise self.refusal

    async def apply(self, job: TrainingJob) -> None:
        self.asked.append(("apply", job.name))
        self.states.setdefault(job.name, RunState.RUNNING)

    async def take_up(self, job: TrainingJob) -> None:
        self.asked.append(("take_up", job.name))
        self.states[job.name] = RunState.RUNNING

    def report(self, name: str) -> RunReport | None:
        state = self.states.get(name)
        return RunReport(name=name, state=state, ranks=(Rank(rank=0, pid=7),), device_s=3.0) if state else None

    async def ask_profile(self, name: str, ask: Ask) -> None:
        self.asked.append(("profile", f"{name} {ask.num_steps} {ask.id}"))

    async def delete(self, name: str) -> None:
        self.asked.append(("delete", name))

    async def logs(self, name: str, rank: str | None, *, follow: bool, tail: int) -> AsyncIterator[tuple[str, str]]:
        yield "rank-0", "hello"

    async def close(self, *, stop: bool) -> None:
        self.asked.append(("close", ""))


def manifest(*args: str, name: str = "tuned") -> dict[str, Any]:
    base = {"name": name, "model": "hf://owner/name", "output": "/out"}
    return training_manifest(from_args(["--data.sources=/rows.jsonl", *args], base=base), num_ranks=2)


def job(*args: str) -> TrainingJob:
    (found,) = declared_workloads([manifest(*args)], {})[1]
    return found


def test_a_run_is_applied_changed_resumed_and_deleted(tmp_path: Path) -> None:
    async def scenario() -> None:
        database, backend, events = Database.open(tmp_path / "a.db"), FakeBackend(), list[Event]()
        runs = Runs(database, backend, events.append)
        await runs.open()
        first = await runs.apply(job())
        assert (first.action, first.generation, first.output) == ("created", 1, "/out")
        assert (await runs.apply(job())).action == "unchanged"
        changed = await runs.apply(job("--num_steps=7"))
        assert (changed.action, changed.generation) == ("configured", 2)
        backend.states["tuned"] = RunState.FAILED
        assert (await runs.apply(job("--num_steps=7"))).action == "resumed"
        view = runs.view("tuned")
        assert (view.state, view.num_ranks, view.ranks[0].pid, view.device_s) == ("failed", 0, 7, 3.0)
        assert runs.views(with_manifests=False)[0].manifest == {}
        assert [line.line async for line in runs.logs("tuned", rank=None, follow=False, tail=5)] == ["hello"]
        await runs.delete("tuned")
        assert "tuned" not in runs
        assert [event.kind.value for event in events] == ["run.applied"] * 3 + ["run.deleted"]
        assert events[-1].data == {"device_s": 3.0}
        assert [what for what, _ in backend.asked] == ["open", "apply", "apply", "apply", "delete"]
        database.close()

    asyncio.run(scenario())


def test_the_next_daemon_takes_up_what_was_declared(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database.open(tmp_path / "a.db")
        first = Runs(database, FakeBackend(), lambda _: None)
        await first.open()
        await first.apply(job("--num_steps=7"))
        backend = FakeBackend()
        second = Runs(database, backend, lambda _: None)
        await second.open()
        assert backend.asked == [("open", ""), ("take_up", "tuned")]
        assert second.view("tuned").manifest == manifest("--num_steps=7")
        database.close()

    asyncio.run(scenario())


def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        database, backend = Database.open(tmp_path / "a.db"), FakeBackend()
        with pytest.raises(RequestError, match="trains nothing") as nothing:
            await Runs(database, None, lambda _: None).check(job())
        assert (nothing.value.status, nothing.value.error_code) == (400, "no_training")
        runs = Runs(database, backend, lambda _: None)
        backend.refusal = UsageError("no")
        with pytest.raises(UsageError):
            await runs.check(job(), beside=[job()])
        assert backend.beside == ["tuned"], "the backend is told of what is applied at once"
        with pytest.raises(RequestError, match="there is no run 'other'"):
            runs.view("other")
        database.close()

    asyncio.run(scenario())


def test_a_service_and_a_run_do_not_share_a_name() -> None:
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "tuned"},
        "spec": {"predictor": {"model": {"modelFormat": {"name": "huggingface"}, "storageUri": "hf://a/b"}}},
    }
    with pytest.raises(ManifestError, match="'tuned'"):
        declared_workloads([service, manifest()], {})
    with pytest.raises(ManifestError, match="no service and no run among these objects"):
        declared_workloads([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}], {})


def test_a_run_that_is_being_deleted_takes_no_manifest_until_it_is_gone(tmp_path: Path) -> None:
    class Slow(FakeBackend):
        """Deletes once it may."""

        def __init__(self) -> None:
            super().__init__()
            self.began, self.may = asyncio.Event(), asyncio.Event()

        async def delete(self, name: str) -> None:
            self.began.set()
            await self.may.wait()

    async def scenario() -> None:
        database, backend = Database.open(tmp_path / "a.db"), Slow()
        runs = Runs(database, backend, lambda _: None)
        await runs.open()
        await runs.apply(job())
        deleting = asyncio.create_task(runs.delete("tuned"))
        await backend.began.wait()
        with pytest.raises(RequestError) as refused:
            await runs.check(job())
        assert (refused.value.status, refused.value.error_code, refused.value.retry_after_s) == (409, "run_deleting", 1)
        backend.may.set()
        await deleting
        await runs.check(job())
        database.close()

    asyncio.run(scenario())


def test_a_run_that_steps_is_asked_for_a_profile_and_no_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        database, backend = Database.open(tmp_path / "a.db"), FakeBackend()
        runs = Runs(database, backend, lambda _: None)
        await runs.open()
        with pytest.raises(RequestError, match="there is no run"):
            await runs.profile("tuned", 3)
        await runs.apply(job())
        asked = await runs.profile("tuned", 3)
        assert backend.asked[-1] == ("profile", f"tuned 3 {asked.request}")
        assert asked.request != (await runs.profile("tuned", 3)).request
        backend.states["tuned"] = RunState.WAITING
        with pytest.raises(RequestError, match="the run 'tuned' is waiting: what is profiled are steps") as told:
            await runs.profile("tuned", 3)
        assert (told.value.status, told.value.error_code) == (409, "run_not_running")
        database.close()

    asyncio.run(scenario())
