"""Who a process is, from /proc. Where there is no /proc (macOS) the answers are None or empty, and callers fall back.

An engine carries two variables in its environment: IRONLOOM_REPLICA, the replica's id, and IRONLOOM_STATE, the id of
the state folder. What it starts inherits them. Only processes with both are ever killed, whatever else we recorded.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPLICA_VARIABLE = "IRONLOOM_REPLICA"
STATE_VARIABLE = "IRONLOOM_STATE"
PROC = Path("/proc")
_EXEC_PATIENCE_S = 1.0
"""How long a program may take from its exec to its environment; microseconds, unless the machine is very busy."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, told apart from a later one with the same pid."""

    pid: int
    started_ticks: int
    """Field 22 of /proc/PID/stat: clock ticks from boot to its start."""


def identity(pid: int) -> Identity | None:
    """Of a process that lives; None for a zombie, for none at all, and without /proc."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else Identity(pid, int(fields[19]))


def age_s(process: Identity) -> float:
    """Seconds since it started; suspended time counts."""
    return read_uptime_s() - process.started_ticks / os.sysconf("SC_CLK_TCK")


def read_uptime_s() -> float:
    return float((PROC / "uptime").read_text().split()[0])


def marks(pid: int) -> tuple[str, str] | None:
    """(replica id, state id) that a process carries, or None. Waits for one that is in the middle of its exec."""
    replica = state = None
    for entry in _environment(pid):
        name, _, value = entry.partition(b"=")
        if name == REPLICA_VARIABLE.encode():
            replica = value.decode(errors="replace")
        elif name == STATE_VARIABLE.encode():
            state = value.decode(errors="replace")
    return None if replica is None or state is None else (replica, state)


def ours(state_id: str) -> Iterator[tuple[int, str]]:
    """(pid, replica id) of every living process that carries this state folder's mark."""
    for pid in _pids():
        if (mark := marks(pid)) is not None and mark[1] == state_id:
            yield pid, mark[0]


def kill_ours(state_id: str, replica: str, number: int = signal.SIGKILL) -> int:
    """Signal every process of this replica, wherever it hid (its own session or group). Returns how many.

    Each is held by a pidfd while its mark is read again, so a pid that changed hands meanwhile is never hit.
    """
    num_hit = 0
    for pid, owner in ours(state_id):
        if owner != replica or pid == os.getpid():
            continue
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(pid)
            try:
                if marks(pid) == (replica, state_id):
                    signal.pidfd_send_signal(descriptor, number)
                    num_hit += 1
            finally:
                os.close(descriptor)
    return num_hit


def kill_all_ours(state_id: str, replica: str, patience_s: float = 2.0) -> None:
    """SIGKILL to every process of this replica, until none is left. Blocks: call it off the event loop.

    A process may fork while it is killed, and takes a moment to die. One that does not die within the patience hangs
    in the kernel (a driver, a file server), and nothing more can be done about it.
    """
    deadline_s = time.monotonic() + patience_s
    while kill_ours(state_id, replica) and time.monotonic() < deadline_s:
        time.sleep(0.002)


def kill_carriers(name: str, value: str, patience_s: float = 2.0) -> None:
    """SIGKILL to every process with this variable in its environment, until none is left; not to this one. Blocks.

    What a process starts has its environment from the fork on, so a child that is between fork and exec is met too.
    """
    entry, deadline_s = f"{name}={value}".encode(), time.monotonic() + patience_s
    while time.monotonic() < deadline_s:
        num_hit = 0
        for pid in _pids():
            if pid == os.getpid() or entry not in _environment(pid):
                continue
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(pid)
                try:
                    if entry in _environment(pid):  # still the same process
                        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                        num_hit += 1
                finally:
                    os.close(descriptor)
        if not num_hit:
            return
        time.sleep(0.002)


def anonymous_bytes(pid: int) -> int:
    """Memory that a process has taken and the kernel cannot take back: anonymous and shared, not mapped files."""
    total = 0
    with contextlib.suppress(OSError, ValueError):
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


def listens(pid: int, port: int, replica: str, state_id: str) -> bool | None:
    """Whether the socket that listens on this port is held by that process, one of its session or one with its marks.

    None is not known: without /proc, or when the socket's holder is not ours to look into.
    """
    inodes, fields = _listening_inodes(port), _stat(pid)
    if not inodes or fields is None:
        return None
    if inodes & _socket_inodes(pid):
        return True
    for other in _pids():
        found = _stat(other)
        is_kin = found is not None and found[3] == fields[3]
        if (is_kin or marks(other) == (replica, state_id)) and inodes & _socket_inodes(other):
            return True
    return False


def _pids() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir(PROC) if name.isdigit()]  # noqa: PTH208 (names are all we need)
    return []


def _environment(pid: int) -> list[bytes]:
    """NAME=VALUE entries that a process was started with; empty where they cannot be read. Waits for its exec's end."""
    try:
        block = (PROC / str(pid) / "environ").read_bytes()
        if not block and _exec_ends(pid):
            block = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return []
    return block.split(b"\0")


def _listening_inodes(port: int) -> set[str] | None:
    found: set[str] | None = None
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            found = found or set()
            for line in (PROC / "net" / table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:  # 0A is LISTEN
                    found.add(words[9])
    return found


def _socket_inodes(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(descriptor.readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def _exec_ends(pid: int) -> bool:
    """Wait while a process is in its exec; False where it has no memory of its own (a kernel's thread, a zombie).

    Whoever started it is told when the new program's memory is there, which is before its environment is: until then
    the kernel shows the environment empty, and its end in /proc/PID/stat (field 51) as 0.
    Source: begin_new_exec and create_elf_tables, https://github.com/torvalds/linux/blob/master/fs/binfmt_elf.c
    """
    deadline_s = time.monotonic() + _EXEC_PATIENCE_S
    while (fields := _stat(pid)) is not None and fields[20] != "0":
        if fields[48] != "0" or time.monotonic() > deadline_s:
            return True
        time.sleep(0.0005)
    return False


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on (field 3 is index 0); the name before them may hold any character."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()
