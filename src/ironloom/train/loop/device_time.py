"""Device time of a run by its own records: what earlier attempts took, lost work and start-up among it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ironloom.train.loop.records import read_records


def process_age_s() -> float:
    """Seconds since this process was started: imports take a while before anything can be written down. 0 where that
    is not known (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, starttime)."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def rank_seconds(records: Iterable[Mapping[str, Any]]) -> float:
    """Of all attempts that rank 0 wrote down: each from its process's start to its last record, times its ranks.

    An attempt begins with a record that has `process_s`, its process's age, and `num_ranks`; what comes before the
    first of those counts as nothing.
    """
    total_s, ranks, begun_s, last_s = 0.0, 0, 0.0, 0.0
    for record in records:
        now_s = float(record.get("t") or last_s)
        if "process_s" in record:
            total_s += (last_s - begun_s) * ranks
            ranks, begun_s = int(record.get("num_ranks") or 1), now_s - float(record["process_s"])
        last_s = now_s
    return total_s + (last_s - begun_s) * ranks


def seconds_before(path: Path) -> float:
    """Rank-seconds that a rank's file tells of; 0 where there is none."""
    found: list[dict[str, Any]] = []
    offset = -1
    while True:
        records, reached = read_records(path, max(0, offset))
        if reached == max(0, offset):
            return rank_seconds(found)
        found += [{name: one[name] for name in ("t", "process_s", "num_ranks") if name in one} for one in records]
        offset = reached
