"""One training run on this machine: the task that owns its ranks.

It is the only one that starts ranks, ends them and changes the run's state; others ask. Ranks are processes of their
own sessions with the run's mark, so that they go on without the daemon and the next one finds them. When one rank of an
attempt ends before the run does, the others cannot go on: they are killed, and the next attempt starts from the last
checkpoint. What an attempt's end means is decided in attempts.py.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import sqlite3
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

from ironloom.account.events import Event, EventKind
from ironloom.backends.local import procfs
from ironloom.backends.local.adopt import RUN_MARK
from ironloom.backends.local.attempts import Again, RankEnd, after_failure, fitting_ranks
from ironloom.backends.local.devices import Need, missing_gpus
from ironloom.backends.local.logfile import rotate
from ironloom.backends.local.rank_start import RunGround, environment, log_path, write_config
from ironloom.backends.local.refusal import said_since
from ironloom.backends.local.run_records import RunRecords
from ironloom.backends.local.run_store import AttemptRow
from ironloom.backends.local.spawn import Process, adopt, spawn
from ironloom.errors import IronloomError
from ironloom.train.loop import exits
from ironloom.train.loop.folder import logs_of
from ironloom.train.loop.records import Kind
from ironloom.train.run_state import ENDED_STATES, LIVE_STATES, TRANSITIONS, Rank, RunReport
from ironloom.train.run_state import RunState as State
from ironloom.workload.training_job import TrainingJob

logger = logging.getLogger(__name__)

LOOK_S = 0.5
"""How often the records of a run are read."""
GATHER_S = 0.5
"""After the first rank's end: how long the others have to tell of theirs before they are killed."""
GATHER_UNSEEN_S = 5.0
"""The same after the end of a rank whose status went to an earlier daemon: ranks that are done wait for each other, and
what rank 0 then writes down takes less."""
_UNSEEN = "it ended while no daemon ran"
_EVENTS = {
    State.QUEUED: EventKind.RUN_QUEUED,
    State.STARTING: EventKind.RUN_STARTING,
    State.RUNNING: EventKind.RUN_RUNNING,
    State.WAITING: EventKind.RUN_WAITING,
    State.STOPPING: EventKind.RUN_STOPPING,
    State.STOPPED: EventKind.RUN_STOPPED,
    State.SUCCEEDED: EventKind.RUN_SUCCEEDED,
    State.FAILED: EventKind.RUN_FAILED,
}


class RunOwner:
    """See the module. `task` is done when the run has ended, and never raises."""

    def __init__(self, base: RunGround, job: TrainingJob, row: AttemptRow | None) -> None:
        """`row`: what is known of an earlier attempt."""
        self.job = job
        self.task: asyncio.Task[None] | None = None
        self._base = base
        self._ground = base.ground
        self._row = row or AttemptRow(
            run=job.name, mark="", attempt=0, state=State.QUEUED, changed_s=0.0, run_id=secrets.token_hex(6)
        )
        self._records = RunRecords(logs_of(Path(job.training.output)), self._row.run_id)
        self._state = State(self._row.state)
        self._reason, self._hint = self._row.reason, self._row.hint
        self._since_s = self._row.changed_s or self._ground.wall_s()
        self._devices: tuple[str, ...] = ()
        self._held_since_s: float | None = None
        """Monotonic: since when devices are held."""
        self._processes: list[Process] = []
        self._stop_reason = ""
        self._stop_asked = asyncio.Event()
        self._retry_at_s: float | None = None
        of_all = replace(job.resources, num_gpus=job.resources.num_gpus * job.num_ranks)
        lacking = missing_gpus(of_all, self._ground.num_gpus_here())
        told = [*(note.message for note in job.not_honoured), lacking]
        self._notes = tuple(note for note in told if note is not None)
        self._killed: set[int] = set()
        self._log_begins: dict[int, int] = {}
        """By rank: the length of its log before the present attempt."""

    # What others may ask for. None of these waits.

    @property
    def state(self) -> State:
        return self._state

    @property
    def row(self) -> AttemptRow:
        """As it is written down."""
        return replace(
            self._row,
            state=self._state.value,
            reason=self._reason,
            hint=self._hint,
            changed_s=self._since_s,
            device_s=self._device_s(),
        )

    @property
    def is_at_work(self) -> bool:
        return self.task is not None and not self.task.done()

    def restart(self) -> None:
        """Forget what went wrong; one that had ended is queued again. Call before `begin`."""
        self._row = replace(self._row, num_failures=0, goes_on=False)
        if self._state in ENDED_STATES:
            self._move(State.QUEUED, "applied again")

    def begin(self) -> None:
        """Start owning, from the queue. Call once."""
        self._start(self._run())

    async def take_up(self) -> None:
        """Go on with what an earlier daemon had: adopt ranks that all still run, else end what is left of them."""
        row = self._row
        if self._state in ENDED_STATES:
            self.restart()
        if self._state is State.QUEUED:
            self.begin()
        elif self._state is State.WAITING:
            self._move(State.QUEUED, self._reason)
            self.begin()
        elif row.pids and len(row.pids) == row.num_ranks and all(self._is_ours(one) for one in row.identities):
            self._adopt([one.pid for one in row.identities])
            self._start(self._go_on(self._attend()))
        else:
            await asyncio.to_thread(procfs.kill_all_ours, self._ground.state_id, row.mark)
            was_stopped = self._state is State.STOPPING
            self._stop_reason = self._reason
            ends = [await self._end_of(rank, None) for rank in range(max(1, row.num_ranks))]
            told = [end if end.message else replace(end, message=_UNSEEN) for end in ends]
            self._start(self._go_on(self._judge(told, was_stopped=was_stopped)))

    def _start(self, work: Awaitable[None]) -> None:
        self.task = asyncio.create_task(self._guarded(work), name=f"run-{self.job.name}")

    def _is_ours(self, one: procfs.Identity) -> bool:
        is_same = self._row.boot_id == self._ground.boot_id and procfs.identity(one.pid) == one
        return is_same and procfs.marks(one.pid) == (self._row.mark, self._ground.state_id)

    def request_stop(self, reason: str, *, goes_on: bool = False) -> None:
        """Have it take a checkpoint and end; with `goes_on` the next daemon goes on with it. Nothing where it has
        ended, or is about to."""
        if self._state in LIVE_STATES and not self._stop_asked.is_set():
            self._row = replace(self._row, goes_on=goes_on)
            self._stop_reason = reason
            self._stop_asked.set()

    def report(self) -> RunReport:
        """As it is now."""
        row = self._row
        ranks = tuple(
            Rank(rank=number, pid=process.pid, device=self._device_of(number))
            for number, process in enumerate(self._processes)
        )
        return RunReport(
            name=self.job.name,
            state=self._state,
            reason=self._reason,
            hint=self._hint,
            since_s=self._since_s,
            attempt=row.attempt,
            num_failures=row.num_failures,
            retry_at_s=self._retry_at_s,
            ranks=ranks,
            num_ranks=row.num_ranks or self.job.num_ranks,
            devices=self._devices,
            device_s=self._device_s(),
            progress=self._records.progress,
            notes=self._notes,
        )

    async def read_records(self) -> None:
        """Take in what its ranks wrote, so that the report is of now."""
        if await asyncio.to_thread(self._records.read):
            if self._state is State.STARTING and self._records.progress.last.get("attempt") == self._row.attempt:
                self._move(State.RUNNING, f"step {self._records.progress.step}")
            self._base.changed(self.job.name)

    # The life of it.

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            for process in self._processes:  # the daemon lets go: the ranks run on, for the next daemon to find
                await process.let_go()
            raise
        except IronloomError as error:
            await self._end(State.FAILED, error.message)
        except sqlite3.Error as error:
            await self._end(State.FAILED, f"its start cannot be written down: {error}")
        except Exception as error:  # a bug of ours must not leave ranks without an owner
            logger.exception("the owner of the run %s failed", self.job.name)
            await self._end(State.FAILED, f"internal error: {error!r}")

    async def _run(self, num_ranks: int = 0) -> None:
        num_ranks = num_ranks or self.job.num_ranks
        await self.read_records()
        while True:
            if self._stop_asked.is_set():
                await self._end(State.STOPPED, self._stop_reason)
                return
            await self._attempt(num_ranks)
            again = await self._attend()
            if again is None:
                return
            num_ranks = again.num_ranks
            if not await self._wait(again):
                await self._end(State.STOPPED, self._stop_reason)
                return
            self._move(State.QUEUED, again.reason)

    async def _go_on(self, attending: Awaitable[Again | None]) -> None:
        """What follows an attempt that another daemon began."""
        again = await attending
        if again is None:
            return
        if not await self._wait(again):
            await self._end(State.STOPPED, self._stop_reason)
            return
        self._move(State.QUEUED, again.reason)
        await self._run(again.num_ranks)

    async def _attempt(self, num_ranks: int) -> None:
        """Devices, then the ranks. Raises CapacityError where the devices are never there."""
        ground, job = self._ground, self.job
        mark = f"{RUN_MARK}{job.name}/{self._row.attempt + 1}"
        gpus_each = 0 if missing_gpus(job.resources, ground.num_gpus_here()) else job.resources.num_gpus
        num_ranks = self._ranks_that_fit(num_ranks, gpus_each)
        need = Need(num_gpus=gpus_each * num_ranks)
        gpus = await ground.holdings.acquire(mark, need, self._say_queued)
        self._hold(gpus or (), num_ranks)
        progress = self._records.progress
        self._row = replace(
            self._row,
            mark=mark,
            attempt=self._row.attempt + 1,
            pids=(),
            num_ranks=num_ranks,
            gpu_indexes=tuple(gpus),
            port=ground.ports.take() if num_ranks > 1 else 0,
            boot_id=ground.boot_id,
            resumed_step=progress.checkpoint_step,
        )
        progress.failure = progress.report = None
        self._killed = set()
        self._move(State.STARTING, f"attempt {self._row.attempt} on {_ranks(num_ranks)}")
        await self._base.store.put(self.row)
        config = write_config(self._base, self.job)
        for rank in range(num_ranks):
            env, log = environment(ground, job, self._row, rank), log_path(ground, job, rank)
            self._log_begins[rank] = log.stat().st_size if log.exists() else 0
            process = spawn((*self._base.program, str(config)), env, log)
            self._processes.append(process)
            started = process.identity.started_ticks if process.identity else 0
            self._row = replace(self._row, pids=(*self._row.pids, (process.pid, started)))
        await self._base.store.put(self.row)
        self._base.changed(job.name)

    def _ranks_that_fit(self, wanted: int, gpus_each: int) -> int:
        """As many as asked for; of an elastic run as many as there are GPUs for now, where that is fewer."""
        if not self.job.training.is_elastic or not gpus_each:
            return wanted
        free = self._ground.holdings.capacity(Need(num_gpus=gpus_each), 0)
        if free is None or free >= wanted:
            return wanted
        return fitting_ranks(self.job, free) or wanted

    async def _attend(self) -> Again | None:
        """Until the attempt has ended; what comes next, None where the run has ended."""
        ends = [process.ended for process in self._processes]
        stopping = asyncio.create_task(self._stop_asked.wait())
        signalled = False
        deadline_s = float("inf")
        loop = asyncio.get_running_loop()
        try:
            while not all(end.done() for end in ends):
                bad = [end for end in ends if end.done() and end.result() != exits.DONE]
                if bad and not signalled:
                    gather_s = GATHER_S if any(end.result() is not None for end in bad) else GATHER_UNSEEN_S
                    await asyncio.wait([end for end in ends if not end.done()] or ends, timeout=gather_s)
                    break
                if stopping.done() and not signalled:
                    signalled = True
                    self._move(State.STOPPING, self._stop_reason)
                    deadline_s = loop.time() + self._base.grace_s
                    for process in self._processes:
                        process.signal(signal.SIGTERM)
                if loop.time() > deadline_s:
                    break
                waits = [end for end in ends if not end.done()] + ([stopping] if not signalled else [])
                await asyncio.wait(waits, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                await self.read_records()
                for rank in range(len(self._processes)):
                    await asyncio.to_thread(rotate, log_path(self._ground, self.job, rank))
        finally:
            stopping.cancel()
        results = await self._collect()
        await self.read_records()
        return await self._judge(results, was_stopped=signalled)

    async def _collect(self) -> list[RankEnd]:
        """End what is left of the attempt, exactly its own processes, and read how each rank ended."""
        early = [number for number, process in enumerate(self._processes) if process.ended.done()]
        for number, process in enumerate(self._processes):
            if not process.ended.done():
                self._killed.add(number)
                process.kill_group()
        await asyncio.gather(*(process.ended for process in self._processes))
        await asyncio.to_thread(procfs.kill_all_ours, self._ground.state_id, self._row.mark)
        order = early + [number for number in range(len(self._processes)) if number not in early]
        found = [await self._end_of(rank, self._processes[rank].ended.result()) for rank in order]
        self._processes = []
        return found

    async def _end_of(self, rank: int, status: int | None) -> RankEnd:
        """What a rank's exit status and its own last words say."""
        words = await asyncio.to_thread(self._records.last_words, rank, self._row.attempt)
        if status is None:  # another daemon's child
            known = {Kind.DONE.value: exits.DONE, Kind.PREEMPTED.value: exits.PREEMPTED}
            status = known.get(str(words.get("kind")))
        failure = words if words.get("kind") in (Kind.FAILED, Kind.HUNG) else {}
        if not failure and status == exits.REFUSED:
            log = log_path(self._ground, self.job, rank)
            message, hint = await asyncio.to_thread(said_since, log, self._log_begins.get(rank, 0))
            failure = {"message": message, "hint": hint}
        return RankEnd(
            rank=rank,
            status=status,
            code=str(failure.get("code", "")),
            message=str(failure.get("message", "")),
            hint=str(failure.get("hint", "")),
            is_final=bool(failure.get("is_final")),
            was_killed_by_us=rank in self._killed,
        )

    async def _judge(self, ends: list[RankEnd], *, was_stopped: bool) -> Again | None:
        progress = self._records.progress
        is_done = progress.report is not None and progress.attempt == self._row.attempt
        if is_done or all(end.status == exits.DONE for end in ends):
            await self._end(State.SUCCEEDED, f"{progress.step} steps")
            return None
        if was_stopped:
            killed = "; it did not end in time and was killed" if any(end.was_killed_by_us for end in ends) else ""
            at = f", checkpoint at step {progress.checkpoint_step}" if progress.checkpoint_step else ""
            await self._end(State.STOPPED, f"{self._stop_reason}{at}{killed}")
            return None
        decided = after_failure(
            self.job,
            ends,
            num_ranks=self._row.num_ranks,
            num_failures=self._row.num_failures,
            made_checkpoint=progress.checkpoint_step > max(self._row.resumed_step, progress.started_step),
            limits=self._ground.timing.backoff,
        )
        self._row = replace(self._row, num_failures=decided.num_failures)
        if isinstance(decided, Again):
            self._release()
            return decided
        await self._end(State.FAILED, decided.reason, decided.hint)
        return None

    async def _wait(self, again: Again) -> bool:
        """The back-off; False where a stop was asked for meanwhile."""
        self._retry_at_s = self._ground.wall_s() + again.delay_s
        fewer = f" on {_ranks(again.num_ranks)}" if again.num_ranks != self._row.num_ranks else ""
        self._move(State.WAITING, f"{again.reason}; attempt {self._row.attempt + 1}{fewer} follows")
        try:
            async with asyncio.timeout(again.delay_s):
                await self._stop_asked.wait()
            return False
        except TimeoutError:
            return True
        finally:
            self._retry_at_s = None

    async def _end(self, state: State, reason: str, hint: str = "") -> None:
        """Nothing of it runs, everything is given back, and that is said."""
        if self._processes:
            for process in self._processes:
                process.kill_group()
            await asyncio.gather(*(process.ended for process in self._processes))
            self._processes = []
        if self._row.mark:
            await asyncio.to_thread(procfs.kill_all_ours, self._ground.state_id, self._row.mark)
        self._release()
        if state in TRANSITIONS[self._state]:
            self._move(state, reason, hint)
        elif state is State.STOPPED and self._state in LIVE_STATES:
            self._move(State.STOPPING, reason)
            self._move(state, reason)

    def _adopt(self, pids: list[int]) -> None:
        """Take over the ranks that an earlier daemon started."""
        self._processes = [adopt(pid) for pid in pids]
        ground, row = self._ground, self._row
        need = Need(num_gpus=len(row.gpu_indexes), gpu_indexes=row.gpu_indexes or None)
        ground.holdings.adopt(row.mark, need, row.gpu_indexes, settled=True)
        if row.port:
            ground.ports.adopt(row.port)
        self._hold(row.gpu_indexes, row.num_ranks)
        ground.log.event(
            Event(
                kind=EventKind.RUN_ADOPTED,
                service=self.job.name,
                reason="Adopted",
                message=f"{self._state.value}, taken up from an earlier daemon",
                devices=self._devices,
                data={"attempt": row.attempt, "pids": pids},
            )
        )

    # Small parts.

    def _move(self, state: State, reason: str, hint: str = "") -> None:
        """Into another state: written soon, logged and reported now."""
        assert state in TRANSITIONS[self._state], f"{self.job.name}: {self._state} → {state}"
        if state in ENDED_STATES or state is State.WAITING:
            self._devices = ()
        self._state, self._reason, self._hint, self._since_s = state, reason, hint, self._ground.wall_s()
        self._base.store.put_soon(self.row)
        progress = self._records.progress
        self._ground.log.event(
            Event(
                kind=_EVENTS[state],
                service=self.job.name,
                reason=state.value.capitalize(),
                message=reason,
                devices=self._devices,
                data={
                    "attempt": self._row.attempt,
                    "num_ranks": self._row.num_ranks,
                    "step": progress.step,
                    "device_s": round(self._device_s(), 3),
                },
            )
        )
        self._base.changed(self.job.name)

    def _hold(self, gpus: tuple[int, ...], num_ranks: int) -> None:
        self._devices = tuple(f"gpu:{index}" for index in gpus) or ("cpu",) * num_ranks
        self._held_since_s = asyncio.get_running_loop().time()

    def _release(self) -> None:
        device_s = self._device_s()
        self._held_since_s = None
        self._row = replace(self._row, device_s=device_s)
        self._devices = ()
        self._ground.holdings.release(self._row.mark)
        if self._row.port:
            self._ground.ports.give_back(self._row.port)
            self._row = replace(self._row, port=0)

    def _device_s(self) -> float:
        if self._held_since_s is None:
            return self._row.device_s
        held_s = asyncio.get_running_loop().time() - self._held_since_s
        return self._row.device_s + held_s * len(self._devices)

    def _say_queued(self, reason: str) -> None:
        self._reason = reason
        self._base.changed(self.job.name)

    def _device_of(self, rank: int) -> str:
        return self._devices[rank] if rank < len(self._devices) else "cpu"


def _ranks(number: int) -> str:
    return f"{number} rank{'s' if number != 1 else ''}"
