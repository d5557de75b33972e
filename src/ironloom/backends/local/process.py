"""One replica on this machine: the task that owns its process.

The owner is the only one that changes the replica's state, starts its process or ends it. Others ask (`request_…`):
a request changes the state at once, if the state allows it, and the task then does what the state says. So whoever
decides on what to do next sees at once what is already on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from ironloom.backends.local import procfs
from ironloom.backends.local.devices import Need, missing_gpus
from ironloom.backends.local.ground import Ground
from ironloom.backends.local.launcher import LauncherFailed
from ironloom.backends.local.logfile import last_lines, rotate
from ironloom.backends.local.ports import is_free
from ironloom.backends.local.prepare import Prepared, Say
from ironloom.backends.local.probe import ask, poll_interval_s
from ironloom.backends.local.spawn import Process, describe_exit, spawn
from ironloom.backends.local.status import Status
from ironloom.backends.local.store import Row
from ironloom.errors import EngineError, EngineExited, EngineStartTimeout, IronloomError, UsageError
from ironloom.serve.engines.base import Launch, LaunchOrder
from ironloom.serve.reason import with_last_lines
from ironloom.serve.replica import LIVE_STATES, Replica
from ironloom.serve.replica import ReplicaState as State
from ironloom.units import format_duration
from ironloom.workload.serving import Serving

logger = logging.getLogger(__name__)
T = TypeVar("T")

NUM_LAST_LINES = 20
PORT_TRIES = 3
DYING_S = 0.5
"""How much later than the end of its connections a process's own end may come to be known."""
LATE_S = 0.1
"""A refused connection is known at once: a question that is open for this long was taken, and is not answered."""


_FULL = "the state folder's disk may be full"


class _StopAsked(Exception):
    """Somebody asked for the replica to stop: leave what you do."""


class _Died(Exception):
    """The process ended by itself."""

    def __init__(self, status: int | None) -> None:
        self.status = status


class _PortTaken(Exception):
    """Another program has the port."""


class ReplicaOwner:
    """See the module. `task` is done when the replica is, and never raises."""

    def __init__(
        self,
        ground: Ground,
        replica: Replica,
        *,
        serving: Serving | None = None,
        prepare: Callable[[Say], Awaitable[Prepared]] | None = None,
        start_deadline_s: float = 600.0,
    ) -> None:
        """A new replica needs `serving` and `prepare`; one that was found running neither (see `adopted`)."""
        self.status = Status(ground, replica, start_deadline_s=start_deadline_s)
        self.launch = Launch(argv=())
        """How it was started; empty before, and for one that was found running."""
        self.gpu_note = ""
        self.park_note = ""
        """That it cannot be parked, where the manifest asks for it."""
        self.is_final = False
        """It failed in a way in which another would fail too."""
        self.counted = False
        """Its failure was counted by the service."""
        self.ready_since_s: float | None = None
        """Wall clock of when it got ready for the first time."""
        self._ground = ground
        self._serving = serving
        self._prepare = prepare
        self._start_deadline_s = start_deadline_s
        self._process: Process | None = None
        self._must_drain = False
        self._stop_asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked = asyncio.Event()
        """Set when the state was changed from outside: the state itself says what is asked for."""
        self.task: asyncio.Task[None] | None = None

    @classmethod
    def adopted(cls, ground: Ground, replica: Replica, row: Row, process: Process) -> ReplicaOwner:
        """One that an earlier daemon started, in the state that it was found in."""
        known = row.launch or {}
        owner = cls(ground, replica, start_deadline_s=float(known.get("start_deadline_s", 600.0)))
        owner._process = process
        owner.status.adopt(row, process.identity)
        if replica.state is not State.PARKED:
            gpus, settled = owner.status.need.gpu_indexes or (), replica.state is not State.STARTING
            ground.holdings.adopt(replica.id, owner.status.need, gpus, settled=settled)
        if replica.state in (State.READY, State.PARKED):
            owner.ready_since_s = replica.since_s
        ground.ports.adopt(replica.port)
        return owner

    @property
    def replica(self) -> Replica:
        """As it is now."""
        return self.status.replica

    def begin(self) -> None:
        """Start owning. Call once."""
        self.task = asyncio.create_task(self._run(), name=f"replica-{self.replica.id}")

    # What others may ask for. None of these waits.

    def request_stop(self, reason: str) -> None:
        """Drain it if it serves, then end it. Nothing when that is under way already."""
        if self.replica.state in LIVE_STATES:
            self._must_drain = self.replica.state in (State.READY, State.PARKING)
            self.status.move(State.STOPPING, reason=reason)
            self._stop_asked.set_result(None)

    def request_park(self, reason: str) -> None:
        """Drain a ready one, then have its engine give up the device; one that cannot do that is stopped."""
        if self.replica.state is not State.READY:
            return
        if self.status.cannot_park is not None:
            self.request_stop(f"{reason}; {self.status.cannot_park}")
        else:
            self.status.move(State.PARKING, reason=reason)
            self._asked.set()

    def request_wake(self, reason: str) -> None:
        if self.replica.state is State.PARKED:
            self.status.move(State.WAKING, reason=reason)
            self._asked.set()

    # The life of it.

    async def _run(self) -> None:
        try:
            try:
                if self._process is None:
                    await self._start()
                elif self.replica.state is State.STARTING:
                    await self._resume_start(self._process)
                await self._live()
            except _StopAsked:
                await self._stop()
            except _Died as died:
                await self._fail(self._why_died(died), died)
            except IronloomError as error:
                await self._fail(error)
            except _PortTaken:
                await self._fail(EngineError(f"another program listens on its port {self.replica.port}"))
            except sqlite3.Error as error:  # nothing runs that is not written down: it could not be found again
                await self._fail(EngineError(f"its start cannot be written down: {error}", hint=_FULL))
            except Exception as error:  # a bug of ours must not leave a process without an owner
                logger.exception("the owner of %s failed", self.replica.id)
                await self._fail(EngineError(f"internal error: {error!r}"))
        except asyncio.CancelledError:
            # The daemon lets go: the process runs on, for the next daemon to find.
            if self._process is not None:
                await self._process.let_go()
            raise

    async def _start(self) -> None:
        """From nothing to ready. Raises _StopAsked, _Died, IronloomError."""
        assert self._serving is not None
        assert self._prepare is not None
        prepared = await self._unless_over(self._prepare(self.status.say))
        self.status.update(engine=prepared.engine.name)
        need = self.status.need = self._needs(prepared, self._serving)
        gpus = await self._unless_over(self._ground.holdings.acquire(self.replica.id, need, self._queued))
        self.status.need = replace(need, gpu_indexes=gpus or None)
        for attempt in range(1, PORT_TRIES + 1):
            try:
                await self._start_on_a_port(prepared, self._serving, gpus)
                return
            except _PortTaken:
                if attempt == PORT_TRIES:
                    raise EngineError(
                        self._with_last_lines(f"other programs took {PORT_TRIES} ports in a row before the engine did")
                    ) from None
                self._ground.ports.give_back(self.replica.port)

    async def _start_on_a_port(self, prepared: Prepared, serving: Serving, gpus: tuple[int, ...]) -> None:
        ground = self._ground
        port = ground.ports.take()
        self.status.update(port=port, pid=None)
        launch = self.launch = prepared.engine.launch(self._launch_order(prepared, serving, port, gpus))
        devices = tuple(f"gpu:{index}" for index in gpus) or ("cpu",)
        self.status.update(devices=devices, max_concurrency=launch.max_concurrency, phase="loading")
        self.status.cannot_park, self.status.park_extra_s = launch.cannot_park, launch.park_extra_s
        if launch.cannot_park is None and not prepared.engine.parks:
            self.status.cannot_park = f"the engine {prepared.engine.name} cannot park"
        if self.status.cannot_park is not None and serving.scaling.park_for_s:
            self.park_note = f"At zero it is stopped at once, not parked: {self.status.cannot_park}."
        # Logged before anything waits: a stop that comes meanwhile must come after it in the log.
        self.status.log(State.STARTING, message=f"engine {self.replica.engine} on {', '.join(devices)}, port {port}")
        await self._unless_over(self.status.record())
        begin_s = asyncio.get_running_loop().time()
        self._process = await self._unless_over(self._launch(launch, gpus))
        self.status.report()
        pid = self._process.pid
        ground.holdings.measure(self.replica.id, lambda: procfs.anonymous_bytes(pid))
        try:
            await self._until_ready(self._process, self._start_deadline_s)
        except _Died:
            if is_free(port):
                raise
            await self._end_process()
            raise _PortTaken from None
        took_s = asyncio.get_running_loop().time() - begin_s
        self._ready(f"ready after {format_duration(took_s)}", {"start_s": round(took_s, 3)})

    async def _resume_start(self, process: Process) -> None:
        """Goes on waiting for one that an earlier daemon started; its deadline counts from its own start."""
        age_s = procfs.age_s(process.identity) if process.identity else 0.0
        await self._until_ready(process, max(1.0, self._start_deadline_s - age_s))
        self._ready("ready", {})

    async def _launch(self, launch: Launch, gpus: tuple[int, ...]) -> Process:
        """Fork it from a launcher, or spawn it. Raises EngineError when there is no such program."""
        ground, replica = self._ground, self.replica
        extra = dict(launch.env)
        if ground.num_gpus_here():
            # By index in the order of the bus, as NVML and nvidia-smi count; CUDA's own default is the fastest first.
            extra |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
        env = ground.environment(replica.id, extra)
        log_path = ground.log_path(replica.service, replica.id)
        if launch.module is not None and launch.preload:
            try:
                launcher = await ground.launchers.get(launch.preload)
                return await launcher.fork(
                    replica=replica.id,
                    module=launch.module,
                    args=launch.args,
                    env=env,
                    log_path=log_path,
                    record=self._record,
                )
            except LauncherFailed:
                logger.warning("the launcher failed; %s is started without it", replica.id)
        try:
            process = spawn(launch.argv, env, log_path)
        except OSError as error:
            raise EngineError(f"{launch.argv[0]} cannot be started: {error.strerror}") from error
        await self._record(process)
        return process

    async def _record(self, process: Process) -> None:
        """Write its pid down. A launcher's child does nothing before that; a spawned one can be told by its marks."""
        self._process = process
        self.status.update(pid=process.pid)
        await self.status.record(process.identity)

    async def _until_ready(self, process: Process, deadline_s: float) -> None:
        """Until /health answers 200. Raises EngineStartTimeout, _PortTaken, _Died, _StopAsked."""
        heard, asked_s = "nothing listens on its port", float("inf")
        loop = asyncio.get_running_loop()
        begin_s = loop.time()

        async def poll() -> None:
            nonlocal heard, asked_s
            while True:
                asked_s = loop.time()
                try:
                    status, _ = await ask(
                        self.replica.port, "GET", "/health", timeout_s=self._ground.timing.probe_timeout_s
                    )
                    if status == 200:
                        return
                    heard = f"/health answers {status}"
                except TimeoutError:
                    heard = "/health does not answer"
                except ValueError as error:
                    heard = str(error)
                except OSError:
                    pass
                asked_s = float("inf")
                await asyncio.sleep(poll_interval_s(loop.time() - begin_s))

        try:
            async with asyncio.timeout(deadline_s):
                await self._unless_over(poll())
        except TimeoutError:
            if loop.time() - asked_s > LATE_S:
                heard = "/health does not answer"
            text = f"the engine was not ready after {format_duration(deadline_s)}: {heard}"
            raise EngineStartTimeout(self._with_last_lines(text)) from None
        marks = (self.replica.id, self._ground.state_id)
        looking = asyncio.to_thread(procfs.listens, process.pid, self.replica.port, *marks)
        if await self._unless_over(looking) is False:
            await self._raise_if_dying(process)
            await self._end_process()
            raise _PortTaken

    async def _live(self) -> None:
        """Ready or parked, until something ends it. Raises _StopAsked, _Died, IronloomError."""
        loop = asyncio.get_running_loop()
        healthy_s = loop.time()
        while True:
            if self.replica.state is State.PARKING:
                await self._park()
                healthy_s = loop.time()
            elif self.replica.state is State.WAKING:
                await self._wake()
                healthy_s = loop.time()
            else:
                self._asked.clear()
                try:
                    async with asyncio.timeout(self._ground.timing.tick_s):
                        await self._unless_over(self._asked.wait())
                except TimeoutError:
                    healthy_s = await self._tick(healthy_s)

    async def _tick(self, healthy_s: float) -> float:
        """The regular look; the time of the last good answer. Raises EngineError when that is too long ago."""
        log_path = self._ground.log_path(self.replica.service, self.replica.id)
        await asyncio.to_thread(rotate, log_path)
        now_s = asyncio.get_running_loop().time()
        if self.replica.state is not State.READY:
            return now_s
        try:
            patience_s = self._ground.timing.tick_s
            status, _ = await self._unless_over(ask(self.replica.port, "GET", "/health", timeout_s=patience_s))
            heard = f"/health answers {status}"
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            status, heard = 0, f"/health does not answer ({type(error).__name__})"
        if status == 200:
            return now_s
        if now_s - healthy_s > self._ground.timing.hung_after_s:
            raise EngineError(self._with_last_lines(f"the engine hangs: {heard}"))
        return healthy_s

    async def _park(self) -> None:
        await self._unless_over(self._ground.drain(self.replica))
        patience_s = self._ground.timing.park_timeout_s + self.status.park_extra_s
        problem = await self._tell("/sleep?level=1", patience_s)
        if problem is not None:
            self._must_drain = False
            self.status.move(State.STOPPING, reason=f"it could not be parked: {problem}")
            raise _StopAsked
        self._ground.holdings.release(self.replica.id)
        self.status.update(devices=())
        self.status.move(State.PARKED, reason=self.replica.reason)

    async def _wake(self) -> None:
        assert self._process is not None
        begin_s = asyncio.get_running_loop().time()
        gpus = await self._unless_over(self._ground.holdings.acquire(self.replica.id, self.status.need, self._queued))
        devices = tuple(f"gpu:{index}" for index in gpus) or ("cpu",)
        self.status.update(devices=devices, phase="")
        self.status.log(State.WAKING, message=f"on {', '.join(devices)}")
        problem = await self._tell("/wake_up", self._start_deadline_s)
        if problem is not None:
            raise EngineError(self._with_last_lines(f"the engine could not be woken: {problem}"))
        await self._until_ready(self._process, self._start_deadline_s)
        took_s = asyncio.get_running_loop().time() - begin_s
        self._ready(f"awake after {format_duration(took_s)}", {"wake_s": round(took_s, 3)})

    async def _raise_if_dying(self, process: Process) -> None:
        """A connection ends before the kernel tells that its process did: wait a moment for that. Raises _Died."""
        await asyncio.wait([process.ended], timeout=DYING_S)
        if process.ended.done():
            raise _Died(process.ended.result())

    async def _tell(self, path: str, timeout_s: float) -> str | None:
        """POST to the engine; None when it did as told, else what came instead. Raises _Died, _StopAsked."""
        try:
            status, body = await self._unless_over(ask(self.replica.port, "POST", path, timeout_s=timeout_s))
        except TimeoutError:
            return f"POST {path} took longer than {format_duration(timeout_s)}"
        except (OSError, ValueError) as error:
            assert self._process is not None
            await self._raise_if_dying(self._process)
            return f"POST {path}: {error}"
        return (
            None if status == 200 else f"POST {path} answered {status} {body[:200].decode(errors='replace')}".rstrip()
        )

    async def _stop(self) -> None:
        """Asked to stop; the state says so already."""
        if self._must_drain and self._process is not None:
            drained: asyncio.Future[Any] = asyncio.ensure_future(self._ground.drain(self.replica))
            ended: asyncio.Future[Any] = self._process.ended
            await asyncio.wait([drained, ended], return_when=asyncio.FIRST_COMPLETED)
            await _cancel(drained)
        reason = self.replica.reason
        if self._process is not None:
            self._process.signal(signal.SIGTERM)
            await asyncio.wait([self._process.ended], timeout=self._ground.timing.stop_grace_s)
            if not self._process.ended.done():
                reason += f"; it did not end within {format_duration(self._ground.timing.stop_grace_s)} and was killed"
        await self._end(State.STOPPED, reason, {})

    def _why_died(self, died: _Died) -> IronloomError:
        if died.status is not None and died.status == self.launch.usage_status and self.ready_since_s is None:
            return UsageError(self._with_last_lines("the engine refused its arguments"))
        return EngineExited(self._with_last_lines(f"the engine {describe_exit(died.status)}"))

    async def _fail(self, error: IronloomError, died: _Died | None = None) -> None:
        self.is_final = error.is_final and self.ready_since_s is None
        text = error.message if error.hint is None else f"{error.message} ({error.hint})"
        data: dict[str, object] = {"code": error.code}
        if died is not None:
            data["exit_status"] = died.status
        await self._end(State.FAILED, text, data)

    async def _end(self, state: State, reason: str, data: dict[str, object]) -> None:
        """Make sure that nothing of it runs, give everything back, and say so."""
        await self._end_process()
        pid, devices = self.replica.pid, self.replica.devices
        self._ground.holdings.release(self.replica.id)
        self._ground.ports.give_back(self.replica.port)
        self.status.update(devices=(), pid=None)
        if pid is not None:
            data = {**data, "pid": pid, "gave_back": list(devices)}
        self.status.move(state, reason=reason, data=data)
        if self.status.recorded:
            await self._ground.store.remove(self.replica.id)

    async def _end_process(self) -> None:
        """Kill whatever is left of it: its group, and what left the group."""
        if self._process is None:
            return
        self._process.kill_group()
        await self._process.ended
        await asyncio.to_thread(procfs.kill_all_ours, self._ground.state_id, self.replica.id)
        self._process = None

    # Small parts.

    async def _unless_over(self, work: Awaitable[T]) -> T:
        """Do `work`, unless a stop is asked for or the process ends first: it is cancelled then.

        Raises _StopAsked or _Died, and what `work` raises.
        """
        task = asyncio.ensure_future(work)
        ended = self._process.ended if self._process is not None else None
        over: list[asyncio.Future[Any]] = [self._stop_asked] + ([ended] if ended is not None else [])
        try:
            await asyncio.wait([task, *over], return_when=asyncio.FIRST_COMPLETED)
            if self._stop_asked.done():
                raise _StopAsked
            if ended is not None and ended.done():
                raise _Died(ended.result())
            return task.result()
        finally:
            await _cancel(task)

    def _needs(self, prepared: Prepared, serving: Serving) -> Need:
        """What it asks of the allocator. A memory request of the manifest counts only where the engine cannot tell:
        it was written for a fleet's nodes, and the engine knows this model on this machine."""
        num_gpus = serving.resources.num_gpus
        self.gpu_note = missing_gpus(serving.resources, self._ground.num_gpus_here()) or ""
        if self.gpu_note:
            num_gpus = 0
        estimate = prepared.engine.launch(self._launch_order(prepared, serving, 1, tuple(range(num_gpus))))
        return Need(num_gpus=num_gpus, memory_bytes=estimate.memory_bytes or serving.resources.memory_bytes)

    def _launch_order(self, prepared: Prepared, serving: Serving, port: int, gpus: tuple[int, ...]) -> LaunchOrder:
        return LaunchOrder(
            model=prepared.model,
            serving=serving,
            port=port,
            gpu_indexes=gpus,
            num_threads=0 if gpus else self._ground.num_threads(),
            cache_dir=self._ground.cache_dir,
        )

    def _ready(self, message: str, data: dict[str, object]) -> None:
        self._ground.holdings.settle(self.replica.id)
        if self.ready_since_s is None:
            self.ready_since_s = self._ground.wall_s()
        self.status.move(State.READY, reason=message, data=data)

    def _queued(self, reason: str) -> None:
        self.status.say(f"queued: {reason}")

    def _with_last_lines(self, text: str) -> str:
        lines = last_lines(self._ground.log_path(self.replica.service, self.replica.id), NUM_LAST_LINES)
        return with_last_lines(text, lines) if lines else f"{text}; it printed nothing"


async def _cancel(task: asyncio.Future[Any]) -> None:
    """Cancel it and wait until it has tidied up; what it raises while doing so is of no use to anyone."""
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
    elif not task.cancelled():
        task.exception()  # looked at, so that asyncio does not report it
