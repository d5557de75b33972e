"""This machine as a Node, from fake /proc and /sys trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ironloom.fleet import gpus as gpus_module
from ironloom.fleet import machine
from ironloom.fleet.cgroup import CgroupLimits, read_limits
from ironloom.fleet.gpus import gpus, parse_smi
from ironloom.fleet.machine import this_machine
from ironloom.fleet.node import Gpu
from ironloom.units import GIB, MIB

MEMINFO = "MemTotal:       33554432 kB\nMemFree:         1048576 kB\nMemAvailable:   16777216 kB\nCached: 5 kB\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def node(root: Path, num_cpus: int, monkeypatch: pytest.MonkeyPatch) -> machine.Node:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(num_cpus)), raising=False)
    return this_machine(root=root, gpus=lambda: ())


CASES: dict[str, tuple[dict[str, str], CgroupLimits]] = {
    "no cgroup at all binds nothing": ({}, CgroupLimits()),
    "v2 without limits binds nothing": (
        {
            "proc/self/cgroup": "0::/user.slice\n",
            "sys/fs/cgroup/user.slice/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user.slice/memory.max": "max\n",
        },
        CgroupLimits(),
    ),
    "v2 in a container, where the mount is the group itself": (
        {
            "proc/self/cgroup": "0::/kubepods/pod1/abc\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/memory.max": str(4 * GIB),
            "sys/fs/cgroup/memory.current": str(3 * GIB),
            "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {GIB}\n",
        },
        CgroupLimits(num_cpus=1.5, memory_bytes=4 * GIB, available_memory_bytes=2 * GIB),
    ),
    "v2: a parent's tighter limit binds, and the fuller level gives the room": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/cpu.max": "100000 100000\n",
            "sys/fs/cgroup/a/memory.max": str(8 * GIB),
            "sys/fs/cgroup/a/memory.current": str(7 * GIB),
            "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
            "sys/fs/cgroup/a/b/memory.max": str(6 * GIB),
            "sys/fs/cgroup/a/b/memory.current": str(1 * GIB),
        },
        CgroupLimits(num_cpus=1.0, memory_bytes=6 * GIB, available_memory_bytes=1 * GIB),
    ),
    "v1 with its own controllers": (
        {
            "proc/self/cgroup": "4:memory:/docker/x\n1:cpu,cpuacct:/docker/x\n0::/\n",
            "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": str(2 * GIB),
            "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/docker/x/memory.stat": f"inactive_file 1\ntotal_inactive_file {512 * MIB}\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000",
            "sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
        },
        CgroupLimits(num_cpus=2.5, memory_bytes=2 * GIB, available_memory_bytes=GIB + 512 * MIB),
    ),
    "v1 writes no limit as a huge number and minus one": (
        {
            "proc/self/cgroup": "4:memory:/\n1:cpu:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        CgroupLimits(),
    ),
    "a group over its limit has no room, not a negative one": (
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": str(GIB),
            "sys/fs/cgroup/memory.current": str(2 * GIB),
        },
        CgroupLimits(memory_bytes=GIB, available_memory_bytes=0),
    ),
    "garbage binds nothing": (
        {
            "proc/self/cgroup": "garbage\n0::\n::::\n",
            "sys/fs/cgroup/cpu.max": "a b\n",
            "sys/fs/cgroup/memory.max": "-5\n",
        },
        CgroupLimits(),
    ),
}


@pytest.mark.parametrize(("files", "expected"), CASES.values(), ids=CASES.keys())
def test_cgroup_limits(files: dict[str, str], expected: CgroupLimits, tmp_path: Path) -> None:
    assert read_limits(tree(tmp_path, files)) == expected


def test_the_cgroup_bounds_processors_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "250000 100000\n",
            "sys/fs/cgroup/memory.max": str(4 * GIB),
            "sys/fs/cgroup/memory.current": str(GIB),
        },
    )
    found = node(root, 8, monkeypatch)
    assert (found.num_cpus, found.memory_bytes, found.available_memory_bytes) == (2, 4 * GIB, 3 * GIB)


def test_affinity_bounds_processors_and_half_a_processor_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n"})
    assert node(root, 3, monkeypatch).num_cpus == 3
    tree(tmp_path, {"sys/fs/cgroup/cpu.max": "50000 100000\n"})
    assert node(root, 3, monkeypatch).num_cpus == 1


def test_without_a_cgroup_the_machine_is_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = node(tree(tmp_path, {"proc/meminfo": MEMINFO}), 4, monkeypatch)
    assert (found.memory_bytes, found.available_memory_bytes) == (32 * GIB, 16 * GIB)


def test_hyperthreads_of_one_core_are_one_physical_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    files = {f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": f"{s}\n" for n, s in siblings.items()}
    found = node(tree(tmp_path, {"proc/meminfo": MEMINFO, **files}), 4, monkeypatch)
    assert (found.num_cpus, found.num_physical_cpus) == (4, 2)


def test_cpu_features_come_from_x86_flags_and_arm_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, line in (("x86", "flags\t\t: fpu avx2 amx_tile\n"), ("arm", "Features\t: fp asimd bf16\n")):
        root = tree(tmp_path / place, {"proc/meminfo": MEMINFO, "proc/cpuinfo": f"processor\t: 0\n{line}"})
        assert node(root, 1, monkeypatch).cpu_features == frozenset(line.split(":")[1].split())


def test_this_very_machine_is_read_without_error() -> None:
    found = this_machine(gpus=lambda: ())
    assert found.num_cpus >= 1
    assert 0 < found.available_memory_bytes <= found.memory_bytes


SMI = """\
0, GPU-aaaa, NVIDIA H100 80GB HBM3, 81559, 81000
1, GPU-bbbb, NVIDIA GB10, [N/A], [N/A]
Unable to determine the device handle for GPU2
"""


def test_nvidia_smi_rows_are_read_and_other_lines_passed_over() -> None:
    first, second = parse_smi(SMI)
    assert first == Gpu(
        index=0,
        uuid="GPU-aaaa",
        name="NVIDIA H100 80GB HBM3",
        memory_bytes=81559 * MIB,
        free_memory_bytes=81000 * MIB,
    )
    assert (second.index, second.memory_bytes) == (1, 0)


@pytest.mark.parametrize(
    ("script", "num_gpus"),
    [("printf '0, GPU-a, NVIDIA T4, 15360, 15000\\n'", 1), ("echo no driver; exit 9", 0), ("printf '\\377\\376'", 0)],
    ids=["one that answers", "one that fails", "one that prints garbage"],
)
def test_nvidia_smi_is_asked_when_nvml_is_not_there(
    script: str, num_gpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus_module, "_from_nvml", lambda: None)
    assert len(gpus()) == num_gpus


def test_a_machine_without_a_driver_has_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpus_module, "_from_nvml", lambda: None)
    assert gpus() == ()
