"""This machine as a Node: what this process may use of it, now."""

from __future__ import annotations

import functools
import math
import os
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from ironloom.fleet.cgroup import read_limits
from ironloom.fleet.gpus import gpus as find_gpus
from ironloom.fleet.node import Gpu, Node
from ironloom.units import KIB


def this_machine(*, root: Path = Path("/"), gpus: Callable[[], tuple[Gpu, ...]] = find_gpus) -> Node:
    """What this process may use: processors, memory and GPUs, with what is free of them now. Never raises.

    The memory is read at each call (microseconds); finding GPUs may take seconds, so call it off the event loop
    or give the `gpus` found before. `root` is for tests.
    """
    total, available = _memory(root)
    limits = read_limits(root)
    affinity = _affinity()
    num_cpus = len(affinity) if affinity else os.cpu_count() or 1
    if limits.num_cpus is not None:
        # Half a processor still runs one thread.
        num_cpus = min(num_cpus, max(1, math.floor(limits.num_cpus)))
    total = _least(total, limits.memory_bytes)
    return Node(
        name=platform.node() or "localhost",
        num_cpus=num_cpus,
        num_physical_cpus=min(num_cpus, _num_cores(root, affinity)),
        memory_bytes=total,
        available_memory_bytes=min(total, _least(available, limits.available_memory_bytes)),
        gpus=gpus(),
        architecture=platform.machine() or "unknown",
        cpu_features=_cpu_features(root),
    )


def _affinity() -> frozenset[int]:
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


@functools.cache  # neither changes while we run, and /proc/cpuinfo takes milliseconds on a machine of many processors
def _num_cores(root: Path, affinity: frozenset[int]) -> int:
    """Cores that the allowed processors belong to; 0 when the kernel does not say."""
    cores = set()
    for cpu in affinity:
        siblings = _text(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").strip()
        if not siblings:
            return _sysctl_number("hw.physicalcpu")
        cores.add(siblings)
    return len(cores) or _sysctl_number("hw.physicalcpu")


def _memory(root: Path) -> tuple[int, int]:
    """(total, available) bytes of the machine, whatever the cgroup says."""
    fields: dict[str, int] = {}
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            fields[name] = int(words[0]) * KIB
    if total := fields.get("MemTotal"):
        # MemAvailable stands there since Linux 3.14.
        return total, fields.get("MemAvailable", fields.get("MemFree", 0) + fields.get("Cached", 0))
    total = _sysctl_number("hw.memsize")
    return total, _macos_available() or total


@functools.cache
def _cpu_features(root: Path) -> frozenset[str]:
    """Instruction set extensions as Linux names them: avx2, avx512_bf16, amx_tile; asimd, bf16 on Arm."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, rest = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(rest.split())
    words = f"{_sysctl('machdep.cpu.features')} {_sysctl('machdep.cpu.leaf7_features')}".lower().split()
    return frozenset(word.replace(".", "_") for word in words)


def _macos_available() -> int:
    """Free, inactive and speculative pages of vm_stat: what macOS gives without swapping. 0 when it is not there."""
    text = _output("vm_stat")
    page = re.search(r"page size of (\d+) bytes", text)
    pages = re.findall(r"^Pages (?:free|inactive|speculative):\s+(\d+)", text, re.MULTILINE)
    return sum(map(int, pages)) * (int(page[1]) if page else 4 * KIB)


def _sysctl(name: str) -> str:
    return _output("sysctl", "-n", name) if platform.system() == "Darwin" else ""


def _sysctl_number(name: str) -> int:
    text = _sysctl(name)
    return int(text) if text.isdigit() else 0


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""


def _least(value: int, limit: int | None) -> int:
    return value if limit is None else min(value, limit)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
