"""Training runs as processes on this machine: the RunBackend called `local`. It shares devices, ports and the log with
the replicas of services, and each run has its owner (run_owner.py)."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from ironloom.account.database import Database
from ironloom.backends.local import procfs
from ironloom.backends.local.adopt import RUN_MARK
from ironloom.backends.local.ground import Ground
from ironloom.backends.local.logfile import read_logs
from ironloom.backends.local.rank_start import PREEMPT_GRACE_S, RunGround
from ironloom.backends.local.run_output import both_into, is_same, is_taken, require_writable, taken_by
from ironloom.backends.local.run_owner import RunOwner
from ironloom.backends.local.run_store import AttemptRow, RunStore
from ironloom.errors import EngineUnavailable, UsageError
from ironloom.serve.models.pull import locate
from ironloom.serve.models.source import SourceKind, parse_model
from ironloom.train.loop import profile_ask
from ironloom.train.loop.folder import logs_of
from ironloom.train.loop.profile_ask import Ask
from ironloom.train.run_state import ENDED_STATES, RunReport, RunState
from ironloom.workload.training_job import TrainingJob

MODULE = "ironloom.train.run"
NEEDS = ("torch", "transformers", "safetensors", "numpy")


class LocalRuns:
    """See RunBackend for what the methods promise."""

    def __init__(
        self,
        *,
        database: Database,
        folder: Path,
        cache_dir: Path,
        python: str = sys.executable,
        program: tuple[str, ...] | None = None,
        grace_s: float = PREEMPT_GRACE_S,
    ) -> None:
        """`folder` holds configurations, and outputs that are named by a relative path. `program` replaces a rank's
        command."""
        self._store = RunStore(database)
        self._folder = folder
        self._cache_dir = cache_dir
        self._program = program
        self._argv = program or (python, "-m", MODULE)
        self._grace_s = grace_s
        self._owners: dict[str, RunOwner] = {}
        self._rows: dict[str, AttemptRow] = {}
        self._replacing: dict[str, asyncio.Task[None]] = {}
        self._dirty: set[str] = set()
        self._on_change: Callable[[RunReport], None] = lambda _: None
        self._ground: Ground | None = None

    def stand_on(self, ground: Ground) -> None:
        """What the replicas stand on; before `open`."""
        self._ground = ground

    async def open(self, *, on_change: Callable[[RunReport], None]) -> None:
        self._on_change = on_change
        self._rows = await self._store.rows()
        ground = self._need_ground()
        # Ranks of attempts that are no longer the present one, or of a run that was forgotten.
        known = {row.mark for row in self._rows.values()}
        marked = await asyncio.to_thread(lambda: {mark for _, mark in procfs.ours(ground.state_id)})
        for mark in sorted(marked):
            if mark.startswith(RUN_MARK) and mark not in known:
                await asyncio.to_thread(procfs.kill_all_ours, ground.state_id, mark)

    async def check(self, job: TrainingJob, *, beside: Sequence[TrainingJob] = ()) -> None:
        if self._program is None:
            missing = [name for name in NEEDS if find_spec(name) is None]
            if missing:
                raise EngineUnavailable(
                    f"training needs {', '.join(missing)}, not installed where the daemon runs",
                    hint="`pip install 'ironloom[train]'` brings it",
                )
        source = parse_model(job.training.model, shorthands=True)
        needs_weights = not (job.training.is_from_scratch and (Path(source.path) / "config.json").is_file())
        if source.kind in (SourceKind.FILE, SourceKind.CLAIM) and needs_weights:
            await asyncio.to_thread(locate, source.uri, cache_dir=self._cache_dir)
        data = job.training.data
        if not data.sources:
            raise UsageError("data.sources is not said: there is nothing to train on", hint="--data FILE names it")
        for one in (*data.sources, *data.eval_sources):
            if "://" in one.uri:
                continue
            path = Path(one.uri).expanduser()
            if not path.is_absolute():
                raise UsageError(
                    f"data.sources = {one.uri!r} is a relative path, and the daemon has another current folder",
                    hint="write it from the root on; `ironloom train` does so by itself",
                )
            if not path.exists():
                raise UsageError(f"there is no file or folder {path} to train on")
        others = [self._settled(one) for one in beside if one.name != job.name]
        await asyncio.to_thread(self._check_output, self._settled(job), others, dict(self._owners))

    def _check_output(self, job: TrainingJob, beside: Sequence[TrainingJob], owners: dict[str, RunOwner]) -> None:
        if not _starts(job, owners.get(job.name)):
            return
        output = Path(job.training.output)
        for one in beside:
            if _starts(one, owners.get(one.name)) and is_same(one.training.output, str(output)):
                raise both_into(output, job.name, one.name)
        own = owners.pop(job.name, None)
        for name, other in owners.items():
            if other.is_at_work and is_same(other.job.training.output, str(output)):
                raise taken_by(output, f"the run {name!r}")
        is_own = own is not None and own.is_at_work and is_same(own.job.training.output, str(output))
        if not is_own and is_taken(output):
            raise taken_by(output, "another process")
        require_writable(output)

    async def apply(self, job: TrainingJob) -> None:
        job = self._settled(job)
        owner = self._owners.get(job.name)
        if owner is None:
            await self._begin(job, self._rows.pop(job.name, None))
            return
        if owner.is_at_work:
            if owner.job != job:
                owner.request_stop("suspended" if job.is_suspended else "its configuration changed")
                self._replacing[job.name] = asyncio.create_task(self._replace(owner, job), name=f"replace-{job.name}")
            return
        if owner.state is RunState.SUCCEEDED and owner.job == job:
            return
        await self._begin(job, owner.row)

    async def take_up(self, job: TrainingJob) -> None:
        job = self._settled(job)
        row = self._rows.pop(job.name, None)
        owner = self._owners[job.name] = RunOwner(self._of_runs(), job, row)
        await owner.read_records()
        if row is None:
            if not job.is_suspended:
                owner.begin()
            return
        if owner.state in ENDED_STATES and not row.goes_on:
            return
        await owner.take_up()

    async def _replace(self, owner: RunOwner, job: TrainingJob) -> None:
        """The run with another configuration, once the ranks of the last one have ended."""
        if owner.task is not None:
            await asyncio.wait([owner.task])
        if self._owners.get(job.name) is owner:
            await self._begin(job, owner.row)

    async def _begin(self, job: TrainingJob, row: AttemptRow | None) -> None:
        owner = self._owners[job.name] = RunOwner(self._of_runs(), job, row)
        if job.is_suspended:
            await owner.read_records()  # nothing else would: what it did before stands in its report
            self._changed(job.name)
        else:
            owner.restart()
            owner.begin()

    def report(self, name: str) -> RunReport | None:
        owner = self._owners.get(name)
        return owner.report() if owner is not None else None

    async def ask_profile(self, name: str, ask: Ask) -> None:
        output = Path(self._owners[name].job.training.output)
        await asyncio.to_thread(profile_ask.ask, logs_of(output), ask)

    async def delete(self, name: str) -> None:
        replacing = self._replacing.pop(name, None)
        if replacing is not None:
            replacing.cancel()
        owner = self._owners.get(name)
        if owner is not None:
            owner.request_stop("the run was deleted")
            if owner.task is not None:
                await asyncio.wait([owner.task])
        self._owners.pop(name, None)
        self._rows.pop(name, None)
        await self._store.remove(name)
        await asyncio.to_thread(shutil.rmtree, self._need_ground().log_dir / name, ignore_errors=True)
        (self._folder / name / "config.json").unlink(missing_ok=True)

    async def logs(self, name: str, rank: str | None, *, follow: bool, tail: int) -> AsyncIterator[tuple[str, str]]:
        def is_over() -> bool:
            return self._is_over(name)

        folder = self._need_ground().log_dir / name
        async for line in read_logs(folder, rank, follow=follow, tail=tail, is_over=is_over):
            yield line

    def _is_over(self, name: str) -> bool:
        """Whether its ranks write no more, unless it is applied again."""
        owner, replacing = self._owners.get(name), self._replacing.get(name)
        if owner is None:
            return True
        return owner.state in ENDED_STATES and not owner.is_at_work and (replacing is None or replacing.done())

    async def close(self, *, stop: bool) -> None:
        for replacing in self._replacing.values():
            replacing.cancel()
        tasks = [owner.task for owner in self._owners.values() if owner.task is not None and not owner.task.done()]
        if stop:
            for owner in self._owners.values():
                owner.request_stop("the daemon ends", goes_on=True)
            if tasks:
                await asyncio.wait(tasks)
            return
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _settled(self, job: TrainingJob) -> TrainingJob:
        """With an output folder from the root on: a relative one is below the state folder."""
        output = Path(job.training.output).expanduser()
        absolute = output if output.is_absolute() else self._folder / job.name / output
        return replace(job, training=replace(job.training, output=str(absolute)))

    def _changed(self, name: str) -> None:
        """Report a run once the present callback is through."""
        if name not in self._dirty:
            self._dirty.add(name)
            asyncio.get_running_loop().call_soon(self._tell, name)

    def _tell(self, name: str) -> None:
        self._dirty.discard(name)
        owner = self._owners.get(name)
        if owner is not None:
            self._on_change(owner.report())

    def _of_runs(self) -> RunGround:
        return RunGround(
            ground=self._need_ground(),
            store=self._store,
            program=self._argv,
            folder=self._folder,
            changed=self._changed,
            grace_s=self._grace_s,
        )

    def _need_ground(self) -> Ground:
        assert self._ground is not None, "stand_on comes before open"
        return self._ground


def _starts(job: TrainingJob, owner: RunOwner | None) -> bool:
    """Whether an apply would have its ranks train: not where it is suspended, nor where it is done as it is."""
    is_done = owner is not None and owner.job == job and owner.state is RunState.SUCCEEDED
    return not (job.is_suspended or is_done)
