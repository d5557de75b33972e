"""What one decision of the autoscaler costs: the CPU time of a tick, windows full of load.

    python bench/decision_cost.py --write decision-cost

A service with four ready replicas and a load that changes at every tick is decided on every two seconds of a clock of
the script's own, and so is one at zero that nobody asks. Each round fills a new scaler's windows first, and then times
its ticks; the windows take turns.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import record
from ironloom.serve.autoscale.scaler import TICK_S, ServiceScaler
from ironloom.serve.replica import Replica, ReplicaState, ScaleOrder, ServiceReplicas
from ironloom.workload.serving import Scaling, Serving

WINDOWS_S = (60.0, 600.0, 3600.0)
"""Knative's default window, one between, and its longest. Source: knative/serving pkg/apis/autoscaling (WindowMax)."""
NUM_REPLICAS = 4


@dataclass(frozen=True)
class Sample:
    concurrency: float
    rps: float = 0.0


@dataclass(frozen=True)
class Load:
    """A load that swings by a half around its mean; 20 is what three replicas carry."""

    in_flight: int
    num_held = 0

    def sample(self, now_s: float) -> Sample:
        return Sample(concurrency=self.in_flight * (1.0 + 0.5 * math.sin(now_s / 40.0)))


def tick_s(window_s: float, num_ticks: int, *, num_replicas: int = NUM_REPLICAS) -> float:
    """Mean CPU time of a tick of one service, its windows full. One without replicas has no load."""
    serving = Serving(
        name="m", kind="InferenceService", scaling=Scaling(max_replicas=8, target=10.0, stable_window_s=window_s)
    )
    replicas = tuple(
        Replica(id=f"m-{number}", service="m", state=ReplicaState.READY, engine="fake", generation=1, since_s=0.0)
        for number in range(num_replicas)
    )
    orders: list[ScaleOrder] = []
    pool = Load(in_flight=20 if num_replicas else 0)
    scaler = ServiceScaler(serving, pool=pool, order=orders.append, can_park=lambda: None, default_park_for_s=0.0)
    scaler.observe(ServiceReplicas(service="m", replicas=replicas), 0.0)
    now_s = 0.0
    for _ in range(int(window_s / TICK_S) + 2):
        now_s += TICK_S
        scaler.tick(now_s)
    began_s = time.process_time()
    for _ in range(num_ticks):
        now_s += TICK_S
        scaler.tick(now_s)
    took_s = time.process_time() - began_s
    assert scaler.decision is not None
    assert (scaler.decision.stable > 0) == bool(num_replicas)
    return took_s / num_ticks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--ticks", type=int, default=1000)
    parser.add_argument("--write", metavar="NAME", help="write bench/results/NAME.json")
    options = parser.parse_args()
    ways = {f"window_{window_s:.0f}s": partial(tick_s, window_s) for window_s in WINDOWS_S}
    ways["at_zero_window_60s"] = partial(tick_s, WINDOWS_S[0], num_replicas=0)
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, seen in rounds.items():
            seen.append(ways[name](options.ticks))
    results = {
        name: {"median_us": round(statistics.median(seen) * 1e6, 1),
                                    "rounds_us": [round(one * 1e6, 1) for one in seen]}
        for name, seen in rounds.items()
    }  # fmt: skip
    for name, result in results.items():
        print(f"{name}: {result['median_us']} µs of CPU a decision")
    if options.write:
        notes = [f"mean of {options.ticks} ticks a round; a tick every {TICK_S:.0f} s is all that a service costs"]
        print(record.write(options.write, results, notes=notes))


if __name__ == "__main__":
    main()
