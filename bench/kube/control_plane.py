"""How long the control plane of the tests takes until it works.

    python bench/kube/control_plane.py --rounds 6 --write kube-control-plane

Needs scripts/setup_kubernetes. Each round starts etcd, API server, scheduler and controller manager in a new folder, as
tests/kube does, adds a node and makes a Deployment of one replica. Seconds since the start until

  api         the API server says that it is ready, and `Cluster.start` returns
  accounts    the namespace `default` has its ServiceAccount, which the controller manager makes, and without which no
              pod is taken
  bound       the Deployment's pod has a node: controller manager and scheduler work

The goal: all within ten seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from tests.kube.cluster import Cluster, missing

import record

ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/default"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
WITHIN_S = 120.0
GOAL_S = 10.0


def deployment() -> dict[str, Any]:
    labels = {"app": "one"}
    spec = {"containers": [{"name": "one", "image": "none"}]}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return {
        "metadata": {"name": "one"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }


def until(is_so: Callable[[], bool], begun: float) -> float:
    """Seconds since then. Raises TimeoutError."""
    while not is_so():
        if time.monotonic() > begun + WITHIN_S:
            raise TimeoutError
        time.sleep(0.02)
    return time.monotonic() - begun


def measure() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder))

        def has_account() -> bool:
            with contextlib.suppress(urllib.error.HTTPError):
                return bool(cluster.request("GET", ACCOUNT))
            return False

        begun = time.monotonic()
        with cluster:
            api = time.monotonic() - begun
            cluster.add_node("n1")
            cluster.request("POST", DEPLOYMENTS, deployment())
            accounts = until(has_account, begun)
            bound = until(lambda: bool(cluster.bound("app=one")), begun)
    return {"api": round(api, 2), "accounts": round(accounts, 2), "bound": round(bound, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--write", metavar="NAME")
    options = parser.parse_args()
    if absent := missing():
        sys.exit(f"no {absent[0]}: run scripts/setup_kubernetes")
    rounds = [measure() for _ in range(options.rounds)]
    seconds = {name: [one[name] for one in rounds] for name in rounds[0]}
    results = {
        "seconds": seconds,
        "median_s": {name: round(record.quantile(values, 0.5), 2) for name, values in seconds.items()},
        "longest_s": {name: max(values) for name, values in seconds.items()},
        "goal_s": GOAL_S,
    }
    print(json.dumps(results, indent=1))
    if options.write:
        print(record.write(options.write, results))


if __name__ == "__main__":
    main()
