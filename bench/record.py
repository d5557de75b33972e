"""What every race writes beside its numbers: the command, the machine, the versions, the date."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, Any]:
    """The machine as far as it bears on a number: processor, cores, memory, kernel; no names."""
    model, memory_kib = platform.processor() or platform.machine(), 0
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
        memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    except OSError:
        pass
    return {
        "processor": model,
        "num_cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kib / 1024**2, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "shared": "a virtual machine that may share its cores with others: compare ratios, not absolute times",
    }


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Installed versions; a distribution that is not there is left out."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def revision() -> str:
    """The commit that was measured, with + when the tree was changed."""
    here = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, check=False, capture_output=True, text=True
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=here, check=False, capture_output=True, text=True
        )
    except OSError:
        return ""
    return commit.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def write(
    name: str,
    results: Any,
    *,
    distributions: Sequence[str] = (),
    notes: Sequence[str] = (),
    folder: Path = RESULTS,
) -> Path:
    """Write NAME.json into `folder`, bench/results by default, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    record = {
        "command": " ".join(["python", *(_relative(word) for word in sys.argv)]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": revision(),
        "machine": machine(),
        "versions": versions(["ironloom", *distributions]),
        "notes": list(notes),
        "results": results,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def quantile(values: Sequence[float], fraction: float) -> float:
    """The value below which this share of the values lies, between two of them in proportion: 0.5 is the median.

    Source: definition 7 of Hyndman and Fan, Sample Quantiles in Statistical Packages, 1996, as NumPy's default.
    """
    ordered = sorted(values)
    at = fraction * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])


def _relative(word: str) -> str:
    root = RESULTS.parent.parent
    try:
        return str(Path(word).resolve().relative_to(root)) if os.sep in word else word
    except ValueError:
        return Path(word).name
