"""What this machine's Python does at the moment, so that a number taken beside it can be held against another day's.

Machines that share their cores differ by two and three times from hour to hour; what a race measures and this, taken
in the same rounds, differ together.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import Any

LOOP = "total = 0\nfor number in range(3_000_000):\n    total += number % 7\n"


class Yardstick:
    """A start of Python that does nothing, and a loop of three million additions, once a round."""

    def __init__(self) -> None:
        self.starts_s: list[float] = []
        self.loops_cpu_s: list[float] = []

    def round(self) -> None:
        """Measure both once, in processes of their own."""
        self.starts_s.append(_run("pass")[0])
        self.loops_cpu_s.append(_run(LOOP)[1])

    def summary(self) -> dict[str, Any]:
        """Medians and lowest values, in seconds."""
        return {
            "python_start_s": round(statistics.median(self.starts_s), 3),
            "python_start_lowest_s": round(min(self.starts_s), 3),
            "loop_cpu_s": round(statistics.median(self.loops_cpu_s), 3),
            "loop_lowest_cpu_s": round(min(self.loops_cpu_s), 3),
        }


def _run(program: str) -> tuple[float, float]:
    """(seconds, seconds of the processor) of a program from start to end."""
    start_s = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", program])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"the yardstick ended with {status}")
    return time.monotonic() - start_s, usage.ru_utime + usage.ru_stime
