"""Two gateways of one cluster: what they ask of its API server, and how long nobody decides when the leader is killed.

    python bench/kube/several_gateways.py --rounds 10 --write kube-several-gateways

Needs scripts/setup_kubernetes. A real etcd, API server, scheduler and controller manager run on this machine; a kubelet
is played, and fake engines answer for its pods.

  idle        requests of each gateway to the API server over --idle-s seconds, the leader's Lease included
  decisions   requests that one change of a service's replica count costs, of both gateways, the Lease left out
  takeover    the leader is killed while a client asks a ready service through the other gateway, one request after the
              other, and a request for a service at zero comes in: seconds until the Lease has another holder, and until
              that request is answered; requests that were lost; writes of the two services' scales

A killed gateway is followed by a new one, so the gateways of a round are those that the last one left. The goals: at
most 0.5 requests a second idle, another leader within 20 s, no request lost, no scale written twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from services_1000 import Reading
from tests.kube import test_leader as parts
from tests.kube.cluster import Cluster, free_ports, missing
from tests.kube.engine_pods import EnginePods
from tests.kube.gateway import Gateway, apply, replicas, running, wait_for
from tests.kube.manifests import inference_service

import record

LONG = {"autoscaling.knative.dev/window": "3600s", "autoscaling.knative.dev/initial-scale": "0"}
DECISIONS = (("0 to 1", 1), ("1 to 3", 3), ("3 to 2", 2), ("2 to 0", 0))
SETTLE_S = 3.0
"""After a decision: a look at pods that do not come is 2 s after it."""


@dataclass
class Gateways:
    """Those that run, and the context that ends them."""

    cluster: Cluster
    folder: Path
    stack: contextlib.ExitStack
    running: list[Gateway] = field(default_factory=list)
    num_started: int = 0

    def start(self) -> None:
        state = self.folder / f"gateway-{self.num_started}"
        self.num_started += 1
        state.mkdir()
        self.running.append(self.stack.enter_context(running(self.cluster, state, "--shared")))
        parts.until(lambda: bool(parts.holder(self.cluster)))

    def leader(self) -> Gateway:
        url = parts.leader_url(self.cluster)
        return next(one for one in self.running if one.url == url)

    def follower(self) -> Gateway:
        leader = self.leader()
        return next(one for one in self.running if one is not leader)

    def kill_leader(self) -> Gateway:
        """Returns the one that is left."""
        leader, left = self.leader(), self.follower()
        leader.process.kill()
        leader.process.wait()
        self.running.remove(leader)
        return left

    def requests(self) -> dict[str, int]:
        """Of all that run, by verb and resource, the Lease left out."""
        found: dict[str, int] = {}
        for one in self.running:
            for name, number in Reading.of(one).counts.items():
                if "_requests_total" in name and '"leases"' not in name:
                    found[name] = found.get(name, 0) + number
        return found


def idle(gateways: Gateways, seconds: float) -> dict[str, float]:
    """Requests a second of each."""
    found = {}
    both = {"leader": gateways.leader(), "follower": gateways.follower()}
    before = {name: Reading.of(one) for name, one in both.items()}
    time.sleep(seconds)
    for name, one in both.items():
        found[name] = Reading.of(one).since(before[name])["requests_per_s"]
    return found


def decisions(gateways: Gateways, name: str) -> dict[str, dict[str, int]]:
    """By change of the count: requests by verb and resource."""
    found = {}
    for what, number in DECISIONS:
        before = gateways.requests()
        pin(gateways.leader(), name, number)
        wait_for(gateways.cluster, name, number)
        time.sleep(SETTLE_S)
        after = gateways.requests()
        found[what] = {key: number - before.get(key, 0) for key, number in after.items() if number > before.get(key, 0)}
    return found


def pin(leader: Gateway, name: str, number: int) -> None:
    leader.call("POST", f"/api/v1/services/{name}/scale", {"replicas": number})


def takeover(gateways: Gateways) -> dict[str, Any]:
    """One round; both services are known to all, `awake` has a replica, `asleep` none."""
    cluster = gateways.cluster
    follower = gateways.follower()
    first, stop = parts.holder(cluster), threading.Event()
    counts = {"asked": 0, "lost": 0}

    def ask_on() -> None:
        while not stop.is_set():
            counts["asked"] += 1
            try:
                follower.ask("awake")
            except (urllib.error.URLError, TimeoutError) as error:
                counts["lost"] += 1
                print(f"lost: {error}", flush=True)

    def held() -> float:
        begun = time.monotonic()
        try:
            follower.ask("asleep")
        except (urllib.error.URLError, TimeoutError) as error:
            counts["lost"] += 1
            print(f"lost: {error}", flush=True)
        return time.monotonic() - begun

    writes = {name: len(parts.scale_writes(cluster, name)) for name in ("awake", "asleep")}
    with ThreadPoolExecutor(2) as pool:
        steady = pool.submit(ask_on)
        parts.until(lambda: counts["asked"] > 3)
        gateways.kill_leader()
        waiting = pool.submit(held)
        took_s = parts.until(lambda: parts.holder(cluster) not in {"", first})
        held_s = waiting.result()
        stop.set()
        steady.result()
    written = {name: len(parts.scale_writes(cluster, name)) - before for name, before in writes.items()}
    return {
        "another_leads_s": round(took_s, 2),
        "held_answered_s": round(held_s, 2),
        "requests": counts["asked"] + 1,
        "lost": counts["lost"],
        "scale_writes": written,
    }


def measure(rounds: int, idle_s: float) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(Cluster(folder / "cluster"))
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})
        gateways = Gateways(cluster, folder, stack)
        for _ in range(2):
            gateways.start()
        ports = dict(zip(("awake", "asleep"), free_ports(2), strict=True))
        for name, port in ports.items():
            apply(gateways.leader(), inference_service(name, LONG, port=port))
            parts.until(lambda name=name: parts.knows(gateways.follower(), name))
            stack.enter_context(EnginePods(cluster, name, port, folder / f"{name}.log"))
        time.sleep(SETTLE_S)
        at_rest = idle(gateways, idle_s)
        told = decisions(gateways, "asleep")
        assert gateways.leader().ask("awake")
        found = []
        for number in range(rounds):
            found.append(takeover(gateways))
            print(f"round {number + 1}: {json.dumps(found[-1])}", flush=True)
            parts.until(lambda: gateways.leader() is not None)
            parts.until(lambda: to_zero(gateways))
            gateways.start()
            parts.until(lambda: parts.knows(gateways.follower(), "asleep"))
    return {"idle_requests_per_s": at_rest, "requests_of_a_decision": told, "takeovers": found}


def to_zero(gateways: Gateways) -> bool:
    """Whether the service that the last round woke is at zero again; asks for it."""
    with contextlib.suppress(urllib.error.HTTPError):  # it does not decide yet
        pin(gateways.leader(), "asleep", 0)
    return replicas(gateways.cluster, "asleep") == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--idle-s", type=float, default=60.0)
    parser.add_argument("--write", metavar="NAME")
    options = parser.parse_args()
    if absent := missing():
        sys.exit(f"no {absent[0]}: run scripts/setup_kubernetes")
    results = measure(options.rounds, options.idle_s)
    took = [one["another_leads_s"] for one in results["takeovers"]]
    results |= {
        "another_leads_median_s": round(record.quantile(took, 0.5), 2),
        "another_leads_longest_s": max(took),
        "requests": sum(one["requests"] for one in results["takeovers"]),
        "lost": sum(one["lost"] for one in results["takeovers"]),
        "scales_written_twice": sum(
            one["scale_writes"]["awake"] + max(0, one["scale_writes"]["asleep"] - 1) for one in results["takeovers"]
        ),
        "goals": {"idle_requests_per_s": 0.5, "another_leads_s": 20.0, "lost": 0, "scales_written_twice": 0},
    }
    print(json.dumps({name: value for name, value in results.items() if name != "takeovers"}, indent=1))
    if options.write:
        print(record.write(options.write, results))


if __name__ == "__main__":
    main()
