"""Two gateways of one namespace as processes: one decides, the other forwards and holds, and takes over.

The API server, the scheduler and the controllers are real. A kubelet is played (engine_pods.py).
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.kube.cluster import Cluster, free_ports
from tests.kube.engine_pods import EnginePods
from tests.kube.gateway import SHORT, WITHIN_S, Gateway, apply, replicas, running, wait_for
from tests.kube.test_gateway import manifest

pytestmark = pytest.mark.kube
LEASE = "/apis/coordination.k8s.io/v1/namespaces/default/leases/ironloom"
TAKEN_OVER_WITHIN_S = 20.0
IDLE_S = 24.0
LONG = {**SHORT, "autoscaling.knative.dev/window": "600s"}


@pytest.fixture(autouse=True)
def node(cluster: Cluster) -> None:
    if not cluster.nodes:
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})


@contextlib.contextmanager
def two(cluster: Cluster, folder: Path) -> Iterator[list[Gateway]]:
    """The one that decides first."""
    with contextlib.ExitStack() as stack:
        found = []
        for name in ("one", "two"):
            state = folder / name
            state.mkdir()
            found.append(stack.enter_context(running(cluster, state, "--shared")))
            until(lambda: bool(holder(cluster)))
        yield sorted(found, key=lambda one: one.url != leader_url(cluster))


def until(is_so: Callable[[], bool], within_s: float = WITHIN_S) -> float:
    """Seconds until it was so."""
    begun = time.monotonic()
    while not is_so():
        assert time.monotonic() < begun + within_s, "it did not come to be"
        time.sleep(0.05)
    return time.monotonic() - begun


def lease(cluster: Cluster) -> dict[str, Any]:
    try:
        found: dict[str, Any] = cluster.request("GET", LEASE)
    except urllib.error.HTTPError:
        return {"spec": {}, "metadata": {}}
    return found


def holder(cluster: Cluster) -> str:
    return str(lease(cluster)["spec"].get("holderIdentity") or "")


def leader_url(cluster: Cluster) -> str:
    return str((lease(cluster)["metadata"].get("annotations") or {}).get("ironloom.dev/url"))


def knows(gateway: Gateway, name: str) -> bool:
    return name in {one["name"] for one in gateway.call("GET", "/api/v1/services")}


def scale_writes(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    """What the audit log has of successful writes of a service's scale by gateways."""
    path = f"/apis/apps/v1/namespaces/default/deployments/{name}/scale"
    return [
        one
        for one in cluster.requests_of("ironloom/")
        if one["verb"] == "patch" and one["requestURI"].startswith(path) and one["responseStatus"]["code"] == 200
    ]


def test_a_follower_knows_what_was_applied_holds_at_zero_and_refuses_what_only_the_leader_may(
    cluster: Cluster, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    with two(cluster, tmp_path) as (leader, follower):
        apply(leader, manifest("known", port, **LONG))
        until(lambda: knows(follower, "known"))
        with pytest.raises(urllib.error.HTTPError) as refused:
            follower.call("POST", "/api/v1/services/known/scale", {"replicas": 2})
        assert refused.value.code == 503
        assert "not_leader" in str(refused.value.__notes__)
        with EnginePods(cluster, "known", port, tmp_path / "engine.log"):
            assert follower.ask("known")  # held there, and the leader hears of it
            assert replicas(cluster, "known") == 1
            assert leader.ask("known")
        leader.call("DELETE", "/api/v1/services/known")
        until(lambda: not knows(follower, "known"))


def test_what_is_in_flight_at_two_gateways_counts_together_where_neither_alone_would_have_a_second_replica(
    cluster: Cluster, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    written = manifest("summed", port, **SHORT, **{"autoscaling.knative.dev/target": "4"})
    written["spec"]["predictor"]["maxReplicas"] = 3
    stop = threading.Event()
    answered = {"leader": 0, "follower": 0}

    def ask_on(name: str, gateway: Gateway) -> None:
        while not stop.is_set():
            assert gateway.ask("summed")
            answered[name] += 1

    def begin(pool: ThreadPoolExecutor, name: str, gateway: Gateway) -> list[Future[None]]:
        return [pool.submit(ask_on, name, gateway) for _ in range(2)]  # of the 2.8 that 70 % of a replica's are

    with (
        two(cluster, tmp_path) as (leader, follower),
        EnginePods(cluster, "summed", port, tmp_path / "engine.log", token_delay_s=0.25),
        ThreadPoolExecutor(4) as pool,
    ):
        try:
            apply(leader, written)
            until(lambda: knows(follower, "summed"))
            asking = begin(pool, "follower", follower)
            until(lambda: answered["follower"] >= 12)
            assert replicas(cluster, "summed") == 1
            asking += begin(pool, "leader", leader)
            wait_for(cluster, "summed", 2)
        finally:
            stop.set()
        for one in asking:
            one.result(WITHIN_S)
        leader.call("DELETE", "/api/v1/services/summed")


def test_when_the_leader_is_killed_another_decides_in_time_and_no_request_is_lost(
    cluster: Cluster, tmp_path: Path
) -> None:
    (awake_port, asleep_port) = free_ports(2)
    with two(cluster, tmp_path) as (leader, follower):
        apply(leader, manifest("awake", awake_port, **LONG))
        apply(leader, manifest("asleep", asleep_port, **LONG))
        until(lambda: knows(follower, "awake") and knows(follower, "asleep"))
        first = holder(cluster)
        stop = threading.Event()
        asked: list[str] = []

        def ask_on() -> None:
            while not stop.is_set():
                asked.append(follower.ask("awake"))

        with (
            EnginePods(cluster, "awake", awake_port, tmp_path / "awake.log"),
            EnginePods(cluster, "asleep", asleep_port, tmp_path / "asleep.log"),
            ThreadPoolExecutor(2) as pool,
        ):
            assert leader.ask("awake")
            steady = pool.submit(ask_on)
            until(lambda: bool(asked))
            writes = {name: len(scale_writes(cluster, name)) for name in ("awake", "asleep")}
            leader.process.kill()
            leader.process.wait()
            held = pool.submit(follower.ask, "asleep")  # nobody decides now: it is held
            took_s = until(lambda: holder(cluster) not in {"", first})
            assert held.result(WITHIN_S)
            num_asked = len(asked)
            until(lambda: len(asked) > num_asked)
            stop.set()
            steady.result(WITHIN_S)
        assert took_s < TAKEN_OVER_WITHIN_S
        assert len(scale_writes(cluster, "awake")) == writes["awake"]  # it was known, and not written again
        assert len(scale_writes(cluster, "asleep")) == writes["asleep"] + 1  # one replica, by the new leader
        for name in ("awake", "asleep"):
            follower.call("DELETE", f"/api/v1/services/{name}")


def test_a_leader_that_ends_lets_go_and_its_services_stay(cluster: Cluster, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with two(cluster, tmp_path) as (leader, follower):
        apply(leader, manifest("stays", port, **LONG))
        until(lambda: knows(follower, "stays"))
        with EnginePods(cluster, "stays", port, tmp_path / "engine.log"):
            assert leader.ask("stays")
            leader.process.send_signal(signal.SIGTERM)
            until(lambda: leader_url(cluster) == follower.url)
            assert leader.process.wait(WITHIN_S) == 0
            assert replicas(cluster, "stays") == 1
            assert follower.ask("stays")
            until(lambda: follower.call("POST", "/api/v1/services/stays/scale", {"replicas": 0})["name"] == "stays")
            wait_for(cluster, "stays", 0)
        follower.call("DELETE", "/api/v1/services/stays")


def test_two_idle_gateways_ask_half_a_request_a_second_each_at_most(cluster: Cluster, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with two(cluster, tmp_path) as (leader, follower):
        apply(leader, manifest("idle", port, **SHORT))
        until(lambda: knows(follower, "idle"))
        applied = moment(lease(cluster)["spec"]["renewTime"])
        until(lambda: moment(lease(cluster)["spec"]["renewTime"]) > applied + 5)  # what the apply asked is over
        begun = moment(lease(cluster)["spec"]["renewTime"])
        until(lambda: moment(lease(cluster)["spec"]["renewTime"]) - begun >= IDLE_S)
        asked = [
            one
            for one in cluster.requests_of("ironloom/")
            if begun < moment(one["requestReceivedTimestamp"]) <= begun + IDLE_S
        ]
        assert len(asked) <= 2 * 0.5 * IDLE_S, json.dumps([one["requestURI"] for one in asked], indent=1)
        assert asked
        leader.call("DELETE", "/api/v1/services/idle")


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
