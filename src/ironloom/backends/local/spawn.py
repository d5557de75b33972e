"""A process that was started (or found): its pid, its end, and the signals it gets.

Every engine leads a session of its own, so that a Ctrl-C at the daemon's terminal does not reach it and everything it
starts can be signalled as one group. Its output goes straight to its log file: it goes on when the daemon is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from ironloom.backends.local.procfs import Identity, identity

POLL_S = 0.2
"""Where there are no pidfds (macOS) a process is looked at this often."""
_RESTORED_SIGNALS = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGQUIT)
"""Dispositions that a daemon may have changed and an engine must not inherit."""


class Process:
    """One process, watched from the event loop it was made in.

    `ended` gets the exit status once it is over: as in subprocess, negative is the signal; None is not known
    (it was not our child). By then its process group has been killed too, if we were its parent.
    """

    def __init__(self, pid: int, *, reap: Callable[[int], Awaitable[int | None]]) -> None:
        self.pid = pid
        self.identity: Identity | None = identity(pid)
        self.ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._reap = reap
        self._pidfd = _open_pidfd(pid)
        self._task = asyncio.create_task(self._watch(), name=f"watch-{pid}")

    def signal(self, number: int) -> None:
        """Signal the process itself; nothing when it is over."""
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif not self.ended.done():
                os.kill(self.pid, number)

    def kill_group(self) -> None:
        """SIGKILL to the process and all of its group, while its pid is surely its own."""
        if self.ended.done() or (self.identity is not None and identity(self.pid) != self.identity):
            return
        self.signal(signal.SIGKILL)  # itself first: one that was forked just now may not lead its group yet
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def let_go(self) -> None:
        """Stop watching and leave it running."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _watch(self) -> None:
        try:
            if self._pidfd is not None:
                await _readable(self._pidfd)
            else:
                while _exists(self.pid):  # noqa: ASYNC110 (nothing tells us)
                    await asyncio.sleep(POLL_S)
            status = await self._reap(self.pid)
            if not self.ended.done():
                self.ended.set_result(status)
        finally:
            if self._pidfd is not None:
                os.close(self._pidfd)
                self._pidfd = None


def spawn(argv: tuple[str, ...], env: Mapping[str, str], log_path: Path, *, inherit: int | None = None) -> Process:
    """Start a program in a session of its own, output to `log_path`. Raises OSError when it cannot be started.

    It gets no descriptor but `inherit`, once `keep_descriptors` was called.
    """
    if inherit is not None:
        os.set_inheritable(inherit, True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log_path), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    pid = os.posix_spawnp(
        argv[0], argv, env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_RESTORED_SIGNALS
    )
    return Process(pid, reap=_reap_child)


def keep_descriptors() -> None:
    """No child gets a descriptor that this process itself was given by its parent.

    Python's own are closed at exec anyway. But a shell or a CI runner often leaves one open in what it starts, and an
    engine that outlives the daemon would hold it for ever: a pipe whose reader waits for its end, a lock's file.
    """
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 (numbers, not paths)
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the listing's own is closed again
                os.set_inheritable(int(name), False)


def adopt(pid: int) -> Process:
    """A process that another daemon started."""
    return Process(pid, reap=_reap_stranger)


def describe_exit(status: int | None) -> str:
    """How it ended, as the end of a sentence: "exited with status 1", "was killed by SIGKILL"."""
    if status is None:
        return "ended"
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}"


async def _reap_child(pid: int) -> int | None:
    """Our own child, a zombie now: as long as it is not reaped its pid and group id cannot be anyone else's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222 (a zombie: returns at once)
    except ChildProcessError:
        return None


async def _reap_stranger(_pid: int) -> int | None:
    return None


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(descriptor, wake)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _exists(pid: int) -> bool:
    """False once it is over. A child of ours that is a zombie is over, and stays reapable."""
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
