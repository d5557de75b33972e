"""The launcher: a small process that has an engine's imports done and forks a replica when asked.

Started as `python -m ironloom.backends.local.launcher_program FD MODULE… PADDING` with one end of a socket pair. It
speaks JSON lines:

    daemon → launcher   {"start": ID, "module": M, "args": […], "env": {…}, "log": PATH}
                        {"go": PID}
    launcher → daemon   {"ready": {"import_s": S, "num_threads": N}}       the imports are done
                        {"started": ID, "pid": PID}                        forked; waits for its "go"
                        {"ended": PID, "status": WAITSTATUS}

A forked child does nothing before its "go": the daemon writes the pid down first, so no engine ever runs that no one
knows of. The launcher ends when the daemon's end of the socket closes; children that were let go live on, those that
were not end with it.

/proc shows a process's environment as it was at exec, which for a forked child is the launcher's. The child therefore
writes its mark (see procfs) over the launcher's, in place, as setproctitle programs do with their arguments.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import time
import warnings
from typing import Any

from ironloom.backends.local.procfs import REPLICA_VARIABLE

LAUNCHER_MARK = "launcher"
MARK_ROOM = 320
"""Bytes kept for a replica's id: a Kubernetes name has at most 253."""


class Launcher:
    """Reads orders, forks children, reports their ends. One thread, no event loop: both would not survive a fork."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self._waiting: dict[int, int] = {}
        """pid → our end of the pipe that its "go" goes through."""
        self._wakeup, wakeup_writer = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(wakeup_writer, False)
        signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._wakeup_writer = wakeup_writer

    def serve(self) -> dict[str, Any] | None:
        """Until the daemon is gone: None. In a forked child that was told to go: its order."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is not self._connection:
                    os.read(self._wakeup, 4096)
                    self._report_ends()
                    continue
                data = self._connection.recv(1 << 16)
                if not data:
                    return None
                *lines, self._buffer = (self._buffer + data).split(b"\n")
                for line in lines:
                    message = json.loads(line)
                    if "go" in message:
                        self._let_go(message["go"])
                    elif self._fork(message):
                        return dict(message)

    def tell(self, message: dict[str, Any]) -> None:
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            os._exit(0)  # the daemon is gone

    def _fork(self, order: dict[str, Any]) -> bool:
        """True in the child, once it may go."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid:
            os.close(reader)
            self._waiting[pid] = writer
            self.tell({"started": order["start"], "pid": pid})
            return False
        os.setsid()
        _mark(order["start"])
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Siblings' pipes too: one kept open would hide the launcher's death from them.
        for descriptor in (writer, self._wakeup, self._wakeup_writer, *self._waiting.values()):
            os.close(descriptor)
        self._selector.close()
        self._connection.close()
        if not os.read(reader, 1):
            os._exit(0)
        os.close(reader)
        return True

    def _let_go(self, pid: int) -> None:
        writer = self._waiting.pop(pid, None)
        if writer is not None:
            with contextlib.suppress(OSError):  # it died before; its end is reported apart
                os.write(writer, b"g")
            os.close(writer)

    def _report_ends(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            # While it is not reaped its group id is surely its own: what it leaked dies now.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(ended.si_pid, signal.SIGKILL)
            _, status = os.waitpid(ended.si_pid, 0)
            if (writer := self._waiting.pop(ended.si_pid, None)) is not None:
                os.close(writer)
            self.tell({"ended": ended.si_pid, "status": status})


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    begin_s = time.monotonic()
    for module in sys.argv[2:-1]:
        importlib.import_module(module)
    launcher = Launcher(connection)
    gc.collect()
    gc.freeze()  # what is there now is shared with every child; a collection in one would copy its pages
    num_threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1  # noqa: PTH112, PTH208
    launcher.tell({"ready": {"import_s": time.monotonic() - begin_s, "num_threads": num_threads}})
    order = launcher.serve()
    if order is None:
        os._exit(0)
    _become(order)


def _become(order: dict[str, Any]) -> None:
    """From here on this process is the engine."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for target in (1, 2):
        os.dup2(log, target)
    os.close(log)
    for name in set(os.environ) - set(order["env"]):
        del os.environ[name]
    os.environ.update(order["env"])
    sys.argv = [order["module"], *order["args"]]
    _title([sys.executable, "-m", *sys.argv])
    # The module may be one of those imported before: it runs anew as __main__, and that is meant.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


def _mark(replica: str) -> None:
    """Write the replica's id over the launcher's in the environment block that /proc shows."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    address = getenv(REPLICA_VARIABLE.encode())
    if address and len(ctypes.string_at(address)) == MARK_ROOM:
        ctypes.memmove(address, replica.encode().ljust(MARK_ROOM, b"\0"), MARK_ROOM)


def _title(words: list[str]) -> None:
    """What ps shows: the arguments as if the module had been started by itself. A convenience; failing is fine."""
    try:
        with open("/proc/self/stat") as file:  # noqa: PTH123
            fields = file.read().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, fields 48 and 49
    except (OSError, ValueError, IndexError):
        return
    text = "\0".join(words).encode()[: end - start - 1]
    if end > start > 0:
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    main()
