"""The races, one after the other: `make bench`, or `python bench/run.py NAME…`.

Each is a script of its own with its peers, writes bench/results/NAME.json, and says at its top what it needs.
docs/benchmarks.md tells what came out. `--list` names them. Some are not among them, as they need what only you can
give: `check/race.py` its peers' programs, `check/known_good.py` clones of public projects, `engines/race.py` with
engines of other environments, whose result is engines.json, those of `gpu/` a GPU, and those of `kube/` the control
plane of scripts/setup_kubernetes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RACES: dict[str, tuple[str, ...]] = {
    "decision-cost": ("decision_cost.py", "--write", "decision-cost"),
    "replica-life": ("replica_life.py", "--write", "replica-life"),
    "engine-start": ("engine_start.py", "--rounds", "30", "--write", "engine-start"),
    "zero-to-first-token": ("zero.py", "--rounds", "30", "--write", "zero-to-first-token"),
    "through-gateway": ("through_gateway.py", "--rounds", "15", "--write", "through-gateway"),
    "engine-http": ("engine/http_race.py",),
    "engines-cpu": (
        *("engines/race.py", "--engine", "openvino", "--engine", "llamacpp"),
        *("--rounds", "5", "--name", "engines-cpu"),
    ),
    "manifests": ("manifests.py",),
    "fleet-load": ("fleet_load.py", "--runs", "3"),
    "check-fuzz": ("check/fuzz.py", "--num", "40000", "--write"),
    "memory": ("memory.py", "--write", "memory"),
    "gateway": ("gateway/race.py", "--rounds", "5"),
    "chaos": ("chaos.py", "--write", "chaos"),
}
"""Name and command of each race, the quick ones first."""


def main(names: list[str]) -> int:
    """Run the races named, or all; returns the number that failed."""
    if names == ["--list"]:
        print("\n".join(f"{name:22}{' '.join(command)}" for name, command in RACES.items()))
        return 0
    unknown = [name for name in names if name not in RACES]
    if unknown:
        print(f"there is no race {unknown[0]!r}\n\nhint: there are {', '.join(RACES)}", file=sys.stderr)
        return 2
    failed = []
    for name in names or RACES:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, str(HERE / RACES[name][0]), *RACES[name][1:]], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
