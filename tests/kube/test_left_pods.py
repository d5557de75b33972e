"""Pods that go while no gateway looks: the next one settles them, so that the log holds no GPU for ever."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from tests.kube.cluster import Cluster
from tests.kube.gateway import Gateway, apply, running
from tests.kube.manifests import inference_service
from tests.kube.test_backend import wait_until

pytestmark = pytest.mark.kube
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture(autouse=True)
def node(cluster: Cluster) -> None:
    if not cluster.nodes:
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})


def pods_of(cluster: Cluster, service: str) -> list[str]:
    found = cluster.request("GET", f"{PODS}?labelSelector=ironloom.dev/service={service}")["items"]
    return [pod["metadata"]["name"] for pod in found if not pod["metadata"].get("deletionTimestamp")]


def told(gateway: Gateway, pod: str) -> list[dict[str, Any]]:
    return [event for event in gateway.call("GET", "/api/v1/events?service=left") if event["replica"] == pod]


def test_a_pod_that_went_while_no_gateway_ran_is_settled_at_the_next_start(cluster: Cluster, tmp_path: Path) -> None:
    with running(cluster, tmp_path) as gateway:
        apply(gateway, inference_service("left"))
        wait_until(lambda: bool(list(cluster.run_pods("ironloom.dev/service=left", pod_ip="10.1.2.3"))))
        (pod,) = pods_of(cluster, "left")
        wait_until(lambda: any(event["kind"] == "replica.ready" for event in told(gateway, pod)))
        gateway.process.kill()
        gateway.process.wait()
    begun_s = time.time()
    cluster.request("DELETE", f"{PODS}/{pod}", {"gracePeriodSeconds": 0})
    wait_until(lambda: bool(pods_of(cluster, "left")) and pod not in pods_of(cluster, "left"))
    with running(cluster, tmp_path) as gateway:
        last = told(gateway, pod)[-1]
        assert (last["kind"], last["reason"], last["devices"]) == ("replica.stopped", "GoneMeanwhile", [])
        assert last["data"]["ended_after_s"] <= begun_s <= last["data"]["ended_before_s"]
        (new,) = pods_of(cluster, "left")
        assert told(gateway, new)[0]["reason"] == "Adopted"
        num_told = len(told(gateway, pod))
    with running(cluster, tmp_path) as gateway:
        assert len(told(gateway, pod)) == num_told
        gateway.call("DELETE", "/api/v1/services/left")
