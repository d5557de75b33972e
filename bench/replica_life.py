"""What a replica's life costs on this machine beside its engine: start, wake and stop of the fake engine's process.

    python bench/replica_life.py --write replica-life

A daemon of its own with two services, one whose replicas are forked by the launcher (`forked`) and one whose replicas
are spawned (`spawned`), taking turns. Each round starts a replica, stops it, starts, parks, wakes and stops one again.
A time is that between two events of the event log: starting and ready, waking and ready, stopping and stopped.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import record
from chaos import Daemon, manifest

WAYS = {"forked": "--preload=true", "spawned": "--preload=false"}
STEPS = {
    "start": ("replica.starting", "replica.ready"),
    "wake": ("replica.waking", "replica.ready"),
    "stop": ("replica.stopping", "replica.stopped"),
}
PATIENCE_S = 60.0


def service(name: str, argument: str) -> dict[str, Any]:
    """A service of the fake engine that stays where it is put."""
    made = manifest(name, "fake", "hf://fake/fake", max_replicas=1, timeout_s=60)
    made["metadata"]["annotations"]["autoscaling.knative.dev/window"] = "1h"
    made["spec"]["predictor"]["model"]["args"] = [argument]
    return made


def go(daemon: Daemon, name: str, replicas: int, *, park: bool, states: list[str]) -> None:
    """Scale, and wait until the service's replicas are in these states."""
    daemon.post(f"/api/v1/services/{name}/scale", {"replicas": replicas, "park": park})
    give_up_s = time.monotonic() + PATIENCE_S
    while [one["state"] for one in daemon.get(f"/api/v1/services/{name}")["replicas"]] != states:
        if time.monotonic() > give_up_s:
            raise SystemExit(f"{name} did not become {states}: {daemon.get(f'/api/v1/services/{name}')}")
        time.sleep(0.02)


def times_s(events: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The steps' times that a service's events tell, oldest first."""
    found: dict[str, list[float]] = {step: [] for step in STEPS}
    began_s: dict[tuple[str, str], float] = {}
    for event in events:
        for step, (begin, end) in STEPS.items():
            key = (event["replica"], step)
            if event["kind"] == begin:
                began_s[key] = event["wall_time_s"]
            elif event["kind"] == end and key in began_s:
                found[step].append(event["wall_time_s"] - began_s.pop(key))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--write", metavar="NAME", help="write bench/results/NAME.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ironloom-bench-") as folder:
        daemon = Daemon(Path(folder))
        daemon.start()
        try:
            daemon.post("/api/v1/apply", {"manifests": [service(name, word) for name, word in WAYS.items()]})
            for number in range(-1, options.rounds):  # the first fills caches, and is not counted
                for name in WAYS:
                    go(daemon, name, 1, park=False, states=["ready"])
                    go(daemon, name, 0, park=False, states=[])
                    go(daemon, name, 1, park=False, states=["ready"])
                    go(daemon, name, 0, park=True, states=["parked"])
                    go(daemon, name, 1, park=False, states=["ready"])
                    go(daemon, name, 0, park=False, states=[])
                if number < 0:
                    first = {name: daemon.get(f"/api/v1/events?service={name}&limit=1000")[-1]["seq"] for name in WAYS}
            seen = {name: times_s(daemon.get(f"/api/v1/events?service={name}&after={first[name]}&limit=10000"))
                    for name in WAYS}  # fmt: skip
        finally:
            daemon.stop()
    results = {
        name: {
            step: {"median_ms": round(statistics.median(steps[step]) * 1e3, 1),
                   "all_ms": [round(one * 1e3, 1) for one in steps[step]]}
            for step in STEPS
        }
        for name, steps in seen.items()
    }  # fmt: skip
    for name, steps in results.items():
        told = ", ".join(f"{step} {one['median_ms']} ms (n = {len(one['all_ms'])})" for step, one in steps.items())
        print(f"{name}: {told}")
    if options.write:
        print(record.write(options.write, results, notes=["of the fake engine, which loads nothing"]))


if __name__ == "__main__":
    main()
