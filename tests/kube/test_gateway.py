"""The whole way: a daemon whose replicas are pods holds a request at zero, starts a pod for it, and goes back to zero.

The API server, the scheduler and the controllers are real. A kubelet is played (engine_pods.py).
"""

from __future__ import annotations

import signal
import threading
import time
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.kube.cluster import Cluster, free_ports
from tests.kube.engine_pods import EnginePods
from tests.kube.gateway import SHORT, Gateway, apply, replicas, running, wait_for

pytestmark = pytest.mark.kube


def manifest(name: str, port: int, **annotations: str) -> dict[str, Any]:
    container = {
        "name": "kserve-container",
        "image": "vllm/vllm-openai:v0.26.0",
        "args": ["--model", "a/b", "--port", str(port)],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"predictor": {"minReplicas": 0, "containers": [container]}},
    }


@pytest.fixture(scope="module")
def gateway(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    if not cluster.nodes:
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})
    with running(cluster, tmp_path_factory.mktemp("gateway")) as made:
        yield made


def test_a_request_at_zero_is_held_until_its_pod_is_ready_and_the_service_goes_back_to_zero(
    cluster: Cluster, gateway: Gateway, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    apply(gateway, manifest("woken", port, **SHORT))
    assert replicas(cluster, "woken") == 0
    with EnginePods(cluster, "woken", port, tmp_path / "engine.log"):
        assert gateway.ask("woken")
        assert replicas(cluster, "woken") == 1
        wait_for(cluster, "woken", 0)
        assert gateway.ask("woken", "again")


def test_no_request_is_lost_while_pods_are_killed_and_the_api_server_restarts(
    cluster: Cluster, gateway: Gateway, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    apply(gateway, manifest("hurt", port))
    num_requests, failed, lock = 200, [], threading.Lock()

    def ask(number: int) -> None:
        try:
            assert gateway.ask("hurt", f"request {number}")
        except (urllib.error.URLError, TimeoutError, AssertionError) as error:
            with lock:
                failed.append(f"{number}: {error}")

    with EnginePods(cluster, "hurt", port, tmp_path / "engine.log") as engine, ThreadPoolExecutor(4) as pool:
        gateway.ask("hurt")
        asked = [pool.submit(ask, number) for number in range(num_requests)]
        for kill in range(3):
            while sum(one.done() for one in asked) < (kill + 1) * 40:
                time.sleep(0.02)
            if kill == 1:
                cluster.end("kube-apiserver", signal.SIGKILL)
                cluster.start_api_server()
                continue
            pods = "/api/v1/namespaces/default/pods?labelSelector=ironloom.dev/service=hurt"
            for pod in cluster.request("GET", pods)["items"]:
                name = pod["metadata"]["name"]
                cluster.request("DELETE", f"/api/v1/namespaces/default/pods/{name}", {"gracePeriodSeconds": 0})
            engine.kill()
        for one in asked:
            one.result()
    assert failed == []
