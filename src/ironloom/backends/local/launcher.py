"""The daemon's end of the launchers: one process for each set of preloaded modules, started when first needed.

See launcher_program.py for what is spoken. A launcher that cannot be started or dies is not needed: the caller falls
back to a plain start, which takes longer by the imports.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ironloom.backends.local.launcher_program import LAUNCHER_MARK, MARK_ROOM
from ironloom.backends.local.procfs import REPLICA_VARIABLE, STATE_VARIABLE
from ironloom.backends.local.spawn import Process, spawn

TITLE_ROOM = 1024
"""Bytes kept on the launcher's command line for the one that a child shows."""
MAX_FAILURES = 2
"""A launcher that failed this often in a row is not tried again."""
REPORT_PATIENCE_S = 2.0


class LauncherFailed(Exception):
    """It is not there any more; start the plain way."""


class Launcher:
    """One launcher process. Used from the event loop."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.process = process
        self.alive = True
        self._writer = writer
        self._ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        # A start that was cancelled asks no more: its failure is nobody's.
        self._ready.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._started: dict[str, asyncio.Future[int]] = {}
        self._ended: dict[int, asyncio.Future[int | None]] = {}
        self._task = asyncio.create_task(self._read(reader), name=f"launcher-{process.pid}")

    @classmethod
    async def start(
        cls, python: str, preload: tuple[str, ...], env: Mapping[str, str], *, state_id: str, log_path: Path
    ) -> Launcher:
        """Start one and wait until its imports are done. Raises LauncherFailed or OSError."""
        ours, theirs = socket.socketpair()
        program = ("-m", "ironloom.backends.local.launcher_program")
        marks = {REPLICA_VARIABLE: LAUNCHER_MARK.ljust(MARK_ROOM, "."), STATE_VARIABLE: state_id}
        with theirs:
            argv = (python, *program, str(theirs.fileno()), *preload, "." * TITLE_ROOM)
            process = spawn(argv, {**env, **marks}, log_path, inherit=theirs.fileno())
        reader, writer = await asyncio.open_connection(sock=ours)
        launcher = cls(process, reader, writer)
        try:
            await asyncio.shield(launcher._ready)
        except BaseException:
            await launcher.close()
            raise
        return launcher

    async def fork(
        self,
        *,
        replica: str,
        module: str,
        args: tuple[str, ...],
        env: Mapping[str, str],
        log_path: Path,
        record: Callable[[Process], Awaitable[None]],
    ) -> Process:
        """Fork a replica. It runs only once `record` has returned. Raises LauncherFailed when the launcher is gone.

        A caller that is cancelled leaves nothing behind: a child that was not told to go ends with the launcher, and
        is killed here while the launcher lives.
        """
        if not self.alive:
            raise LauncherFailed
        started = self._started[replica] = asyncio.get_running_loop().create_future()
        self._tell({"start": replica, "module": module, "args": args, "env": dict(env), "log": str(log_path)})
        try:
            pid = await started
        except asyncio.CancelledError:
            started.add_done_callback(_kill_started)
            raise
        process = Process(pid, reap=self._reap)
        try:
            await record(process)
        except BaseException:
            process.kill_group()
            raise
        self._tell({"go": pid})
        return process

    async def close(self) -> None:
        """Let it end. Its children live on."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        try:
            async with asyncio.timeout(REPORT_PATIENCE_S):
                await asyncio.shield(self.process.ended)
        except TimeoutError:
            self.process.kill_group()
            await self.process.ended
        await self._task

    async def _reap(self, pid: int) -> int | None:
        """The exit status that the launcher reports (after killing what the child leaked), or None without it."""
        ended = self._ended_of(pid)
        try:
            async with asyncio.timeout(REPORT_PATIENCE_S):
                return await asyncio.shield(ended)
        except TimeoutError:
            return None
        finally:
            self._ended.pop(pid, None)

    def _ended_of(self, pid: int) -> asyncio.Future[int | None]:
        if pid not in self._ended:
            self._ended[pid] = asyncio.get_running_loop().create_future()
            if not self.alive:
                self._ended[pid].set_result(None)
        return self._ended[pid]

    def _tell(self, message: dict[str, Any]) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._hear(json.loads(line))
        except (OSError, ValueError):
            pass
        finally:
            self.alive = False
            self._writer.close()
            for started in self._started.values():
                if not started.done():
                    started.set_exception(LauncherFailed())
            for ended in self._ended.values():
                if not ended.done():
                    ended.set_result(None)
            if not self._ready.done():
                self._ready.set_exception(LauncherFailed())

    def _hear(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self._ready.set_result(message["ready"])
        elif "started" in message:
            started = self._started.pop(message["started"])
            if not started.cancelled():
                started.set_result(message["pid"])
            else:
                _kill(message["pid"])
        elif "ended" in message:
            ended = self._ended_of(message["ended"])
            if not ended.done():
                ended.set_result(os.waitstatus_to_exitcode(message["status"]))


class Launchers:
    """All of them, by what they preload."""

    def __init__(self, *, python: str, env: Callable[[], Mapping[str, str]], state_id: str, log_path: Path) -> None:
        self._python = python
        self._env = env
        self._state_id = state_id
        self._log_path = log_path
        self._launchers: dict[tuple[str, ...], asyncio.Task[Launcher]] = {}
        self._num_failures: dict[tuple[str, ...], int] = {}

    async def get(self, preload: tuple[str, ...]) -> Launcher:
        """The launcher for this set, started when there is none. Raises LauncherFailed."""
        task = self._launchers.get(preload)
        if task is not None and task.done() and (task.exception() is not None or not task.result().alive):
            self._num_failures[preload] = self._num_failures.get(preload, 0) + 1
            del self._launchers[preload]
            task = None
        if task is None:
            if self._num_failures.get(preload, 0) >= MAX_FAILURES:
                raise LauncherFailed
            task = self._start(preload)
        try:
            return await asyncio.shield(task)
        except OSError as error:
            raise LauncherFailed from error

    def warm(self, preload: tuple[str, ...]) -> None:
        """Start it ahead of its first use; a failure shows at that use."""
        if preload and preload not in self._launchers:
            self._start(preload)

    def _start(self, preload: tuple[str, ...]) -> asyncio.Task[Launcher]:
        start = Launcher.start(self._python, preload, self._env(), state_id=self._state_id, log_path=self._log_path)
        task = self._launchers[preload] = asyncio.create_task(start, name=f"launcher-{preload}")
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # whoever uses it hears of it
        return task

    async def close_but(self, needed: Collection[tuple[str, ...]]) -> None:
        """Let all others end; what they forked lives on."""
        for preload in [preload for preload in self._launchers if preload not in needed]:
            task = self._launchers.pop(preload)
            if not task.done():
                task.cancel()
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await (await task).close()


def _kill_started(started: asyncio.Future[int]) -> None:
    if not started.cancelled() and started.exception() is None:
        _kill(started.result())


def _kill(pid: int) -> None:
    """A child that waits for its go and will not get it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)
