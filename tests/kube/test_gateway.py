"""The whole way: a daemon whose replicas are pods holds a request at zero, starts a pod for it, and goes back to zero.

The API server, the scheduler and the controllers are real. A kubelet is played (engine_pods.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.kube.cluster import Cluster, free_ports
from tests.kube.engine_pods import EnginePods

pytestmark = pytest.mark.kube
WITHIN_S = 60.0
SHORT = {"autoscaling.knative.dev/window": "6s", "autoscaling.knative.dev/initial-scale": "0"}


@dataclass
class Gateway:
    """A daemon in a process of its own."""

    process: subprocess.Popen[bytes]
    url: str

    def ask(self, model: str, text: str = "hello", *, timeout_s: float = WITHIN_S) -> str:
        """An answer's text. Raises urllib.error.HTTPError."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 4}
        answer = self.call("POST", "/v1/chat/completions", body, timeout_s=timeout_s)
        found: str = answer["choices"][0]["message"]["content"]
        return found

    def call(self, method: str, path: str, body: Any = None, *, timeout_s: float = 30.0) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return json.loads(answer.read() or b"null")


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
    state: Path = tmp_path_factory.mktemp("gateway")
    (port,) = free_ports(1)
    with (state / "out").open("wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ironloom.cli", "up"),
                *("--context", "test", "--port", str(port), "--state", str(state)),
            ],
            env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
            stdout=out,
            stderr=out,
        )
    made = Gateway(process, f"http://127.0.0.1:{port}")
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            with urllib.request.urlopen(f"{made.url}/readyz", timeout=5):
                break
        except OSError:
            assert process.poll() is None, (state / "out").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
    yield made
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def replicas(cluster: Cluster, name: str) -> int:
    found = cluster.request("GET", f"/apis/apps/v1/namespaces/default/deployments/{name}")
    return int(found["spec"]["replicas"])


def wait_for(cluster: Cluster, name: str, number: int, within_s: float = WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while replicas(cluster, name) != number:
        assert time.monotonic() < deadline, f"{name} has {replicas(cluster, name)} replicas, not {number}"
        time.sleep(0.1)


def apply(gateway: Gateway, obj: dict[str, Any]) -> Any:
    return gateway.call("POST", "/api/v1/apply", {"manifests": [obj]})


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
