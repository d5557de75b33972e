"""What this process's control groups allow it: processors and memory, under cgroup v1 and v2.

A limit anywhere on the way from the process's group to the root binds, so every level is read and the least counts.
In a container the path that /proc/self/cgroup names is often not mounted, and the mount's root is the group itself:
levels that are not there are passed over.

Sources: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max, memory.max, memory.current, memory.stat) and
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html. Reclaimable page cache (inactive_file) is not counted as
used, as in the kubelet's working set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNLIMITED_V1_BYTES = 1 << 60
"""cgroup v1 writes "no limit" as a huge number just below 2**63."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CgroupLimits:
    """The tightest limits on the way up. None is no limit."""

    num_cpus: float | None = None
    """Processors' worth of time a second (quota / period)."""
    memory_bytes: int | None = None
    available_memory_bytes: int | None = None
    """The least room left under any limit, in bytes; never negative."""


def read_limits(root: Path = Path("/")) -> CgroupLimits:
    """The limits of this process. Never raises: what cannot be read does not bind. `root` is for tests."""
    cpus: list[float] = []
    limits: list[int] = []
    rooms: list[int] = []
    for controller, folder in _levels(root):
        if controller in ("", "cpu"):
            cpu = _cpu_v2(folder) if controller == "" else _cpu_v1(folder)
            if cpu is not None:
                cpus.append(cpu)
        if controller in ("", "memory"):
            names = ("memory.max", "memory.current", "inactive_file")
            if controller == "memory":
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            limit = _number(folder / names[0])
            if limit is None or limit >= UNLIMITED_V1_BYTES:
                continue
            limits.append(limit)
            used = (_number(folder / names[1]) or 0) - _stat(folder / "memory.stat", names[2])
            rooms.append(max(0, limit - max(0, used)))
    return CgroupLimits(
        num_cpus=min(cpus, default=None),
        memory_bytes=min(limits, default=None),
        available_memory_bytes=min(rooms, default=None),
    )


def _levels(root: Path) -> Iterator[tuple[str, Path]]:
    """(controller, folder) of every level that exists; the controller is "" for v2."""
    mounts = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and controllers == "":
            bases = [("", mounts), ("", mounts / "unified")]
        else:
            names = controllers.split(",")
            bases = [
                (name, mounts / place) for name in names if name in ("cpu", "memory") for place in (name, controllers)
            ]
        parts = [part for part in path.split("/") if part not in ("", "..")]
        seen: set[Path] = set()
        for controller, base in bases:
            if base in seen or not base.is_dir():
                continue
            seen.add(base)
            for depth in range(len(parts), -1, -1):
                folder = base.joinpath(*parts[:depth])
                if folder.is_dir():
                    yield controller, folder


def _cpu_v2(folder: Path) -> float | None:
    words = _text(folder / "cpu.max").split()
    if len(words) != 2 or not (words[0].isdigit() and words[1].isdigit()) or int(words[1]) == 0:
        return None  # "max 100000" is no limit
    return int(words[0]) / int(words[1])


def _cpu_v1(folder: Path) -> float | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period else None  # a quota of -1 is no limit and no number here


def _stat(path: Path, name: str) -> int:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
