"""The training runs of the daemon: what was declared, what the backend reports, what is shown of both."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ironloom.account.database import Database
from ironloom.account.events import Event, EventKind
from ironloom.errors import RequestError
from ironloom.server.control import AppliedRun, AskedProfileView, LogLine, RankView, RunStateName, RunView
from ironloom.train.loop.profile_ask import Ask
from ironloom.train.run_state import RunBackend, RunReport, RunState
from ironloom.workload.manifests import parse_objects
from ironloom.workload.training_job import TrainingJob

Action = Literal["created", "configured", "unchanged", "resumed"]
_SHOWN = ("loss", "grad_norm", "learning_rate", "tokens_per_s", "mfu", "mfu_causal", "step_s", "parts_s",
          "num_stalls", "stall_s", "peak_memory_bytes", "steal_fraction", "remaining_s",
          "remaining_device_s")  # fmt: skip
"""Of the last step's record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRun:
    """One row of the table `runs`."""

    name: str
    generation: int
    manifest: dict[str, Any]
    created_s: float
    deleting: bool = False


@dataclass(slots=True)
class _Run:
    job: TrainingJob
    stored: StoredRun


class Runs:
    """Lives on the event loop. Its methods are `Control`'s, as far as they are about runs."""

    def __init__(self, database: Database, backend: RunBackend | None, record: Callable[[Event], None]) -> None:
        """Without a backend that trains, a TrainJob is refused."""
        self._database = database
        self._backend = backend
        self._record = record
        self._runs: dict[str, _Run] = {}

    async def open(self) -> None:
        """Take up the runs that were declared."""
        if self._backend is None:
            return
        await self._backend.open(on_change=lambda _: None)
        for stored in await self._database.read(_load):
            (job,) = parse_objects([stored.manifest]).trainings
            self._runs[stored.name] = _Run(job, stored)
            await self._backend.take_up(job)
            if stored.deleting:
                await self.delete(stored.name)

    @property
    def names(self) -> list[str]:
        return sorted(self._runs)

    def __contains__(self, name: str) -> bool:
        return name in self._runs

    async def check(self, job: TrainingJob, *, beside: Sequence[TrainingJob] = ()) -> None:
        """Raises IronloomError for what is known to be wrong before it is applied, with those that are applied at once
        with it."""
        if self._backend is None:
            raise RequestError(
                400,
                f"{job.kind} {job.name}: this daemon's backend trains nothing",
                code="no_training",
                hint="`ironloom apply -f FILE --context NAME` trains in a cluster",
            )
        if job.name in self._runs and self._runs[job.name].stored.deleting:
            raise RequestError(
                409,
                f"the run {job.name!r} is being deleted",
                code="run_deleting",
                source="gateway",
                retry_after_s=1.0,
                hint="apply it again once it is gone",
            )
        await self._backend.check(job, beside=beside)

    async def apply(self, job: TrainingJob) -> AppliedRun:
        """Declare a run. Returns once it is durable; it does not wait for the run."""
        assert self._backend is not None, "check comes first"
        known = self._runs.get(job.name)
        action: Action = "created"
        stored = StoredRun(name=job.name, generation=1, manifest=job.manifest, created_s=time.time())
        if known is not None:
            report = self._backend.report(job.name)
            ended = report is not None and report.state in (RunState.STOPPED, RunState.FAILED)
            same = known.stored.manifest == job.manifest
            action = ("resumed" if ended and not job.is_suspended else "unchanged") if same else "configured"
            stored = known.stored if same else replace(
                known.stored, generation=known.stored.generation + 1, manifest=job.manifest
            )  # fmt: skip
        if action in ("created", "configured"):
            await self._database.write(lambda connection: _save(connection, stored))
        self._runs[job.name] = _Run(job, stored)
        if action != "unchanged":
            self._record(
                Event(
                    kind=EventKind.RUN_APPLIED,
                    service=job.name,
                    reason=action.capitalize(),
                    message=f"{job.kind} of {job.training.model}, ranks: {job.num_ranks}",
                    data={"generation": stored.generation, "output": job.training.output},
                )
            )
            await self._backend.apply(job)
        notes = [note.message for note in job.not_honoured]
        return AppliedRun(
            name=job.name, action=action, generation=stored.generation, output=job.training.output, notes=notes
        )

    def views(self, *, with_manifests: bool = True) -> list[RunView]:
        """Every run, in order of name."""
        return [self.view(name, with_manifest=with_manifests) for name in self.names]

    def view(self, name: str, *, with_manifest: bool = True) -> RunView:
        run = self._known(name)
        report = self._backend.report(name) if self._backend is not None else None
        report = report or RunReport(name=name, state=RunState.QUEUED, num_ranks=run.job.num_ranks)
        return run_view(run.job, run.stored, report, with_manifest=with_manifest)

    async def profile(self, name: str, num_steps: int) -> AskedProfileView:
        """Ask a run that steps for a profile of its next steps. Raises the 409 of one that does not step."""
        self._known(name)
        report = self._backend.report(name) if self._backend is not None else None
        if self._backend is None or report is None or report.state is not RunState.RUNNING:
            state = report.state.value if report is not None else RunState.QUEUED.value
            raise RequestError(
                409,
                f"the run {name!r} is {state}: what is profiled are steps, and none goes on",
                code="run_not_running",
                param="name",
                hint="--set watch.profile_steps=1,3 has a run write a profile of its first steps",
            )
        ask = Ask(num_steps, secrets.token_hex(8))
        await self._backend.ask_profile(name, ask)
        return AskedProfileView(name=name, steps=num_steps, request=ask.id)

    async def delete(self, name: str) -> None:
        run = self._known(name)
        assert self._backend is not None
        run.stored = replace(run.stored, deleting=True)
        await self._database.write(lambda connection: _save(connection, run.stored))
        report = self._backend.report(name)
        device_s = round(report.device_s, 3) if report is not None else 0.0
        await self._backend.delete(name)
        await self._database.write(lambda connection: connection.execute("DELETE FROM runs WHERE name=?", (name,)))
        self._runs.pop(name, None)
        self._record(Event(kind=EventKind.RUN_DELETED, service=name, data={"device_s": device_s}))

    def logs(self, name: str, *, rank: str | None, follow: bool, tail: int) -> AsyncIterator[LogLine]:
        self._known(name)
        backend = self._backend
        assert backend is not None

        async def lines() -> AsyncIterator[LogLine]:
            async for source, line in backend.logs(name, rank, follow=follow, tail=tail):
                yield LogLine(replica=source, line=line)

        return lines()

    def reports(self) -> list[RunReport]:
        """For metrics."""
        if self._backend is None:
            return []
        found = (self._backend.report(name) for name in self.names)
        return [report for report in found if report is not None]

    def _known(self, name: str) -> _Run:
        run = self._runs.get(name)
        if run is None:
            raise run_not_found(name, self.names)
        return run


def run_view(job: TrainingJob, stored: StoredRun, report: RunReport, *, with_manifest: bool = True) -> RunView:
    """A run as the control API tells it."""
    progress = report.progress
    state: RunStateName = "deleting" if stored.deleting else report.state.value
    return RunView(
        name=job.name,
        namespace=job.namespace,
        kind=job.kind,
        state=state,
        reason="" if report.state is RunState.RUNNING else report.reason or progress.phase,
        hint=report.hint,
        phase=progress.phase,
        model=job.training.model,
        method=job.training.method.value,
        output=job.training.output,
        generation=stored.generation,
        created_s=stored.created_s,
        since_s=report.since_s,
        attempt=report.attempt,
        num_failures=report.num_failures,
        retry_at_s=report.retry_at_s,
        num_ranks=report.num_ranks,
        ranks=[RankView(rank=one.rank, pid=one.pid, device=one.device) for one in report.ranks],
        devices=list(report.devices),
        device_s=round(report.device_s, 1),
        step=progress.step,
        num_steps=progress.num_steps,
        checkpoint_step=progress.checkpoint_step,
        last={name: progress.last[name] for name in _SHOWN if name in progress.last},
        loss_curve=_points(progress.loss.shown()),
        eval_curve=_points(progress.eval_loss.shown()),
        samples=list(progress.samples),
        num_skipped=progress.num_skipped,
        profile=progress.profile,
        notes=[*report.notes, *progress.notes],
        report=progress.report,
        manifest=job.manifest if with_manifest else {},
    )


def run_not_found(name: str, known: Sequence[str] = ()) -> RequestError:
    """The 404 of a run that is not there."""
    return RequestError(
        404,
        f"there is no run {name!r}",
        code="run_not_found",
        param="name",
        hint=f"runs are: {', '.join(known)}" if known else "no run is applied; see `ironloom train --help`",
    )


def _points(points: Sequence[tuple[int, float]]) -> list[list[float]]:
    return [[step, round(value, 5)] for step, value in points]


def _save(connection: sqlite3.Connection, stored: StoredRun) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO runs (name, generation, manifest, created_s, deleting) VALUES (?,?,?,?,?)",
        (stored.name, stored.generation, json.dumps(stored.manifest), stored.created_s, int(stored.deleting)),
    )


def _load(connection: sqlite3.Connection) -> list[StoredRun]:
    return [
        StoredRun(
            name=row["name"],
            generation=row["generation"],
            manifest=json.loads(row["manifest"]),
            created_s=row["created_s"],
            deleting=bool(row["deleting"]),
        )
        for row in connection.execute("SELECT * FROM runs ORDER BY name")
    ]
