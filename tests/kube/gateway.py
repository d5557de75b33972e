"""A daemon in a process of its own whose replicas are pods, and what tests ask of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kube.cluster import Cluster, free_ports

WITHIN_S = 60.0
SHORT = {"autoscaling.knative.dev/window": "6s", "autoscaling.knative.dev/initial-scale": "0"}


@dataclass
class Gateway:
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
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            error.add_note(error.read().decode(errors="replace"))
            raise
        except TimeoutError as error:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/api/v1/services", timeout=5) as seen:
                error.add_note(seen.read().decode(errors="replace"))
            raise


@contextlib.contextmanager
def running(cluster: Cluster, state: Path, *more: str) -> Iterator[Gateway]:
    """Ready, and ended by a SIGTERM. `more` are options of `ironloom up`. Its words are in the state folder's `out`."""
    (port,) = free_ports(1)
    with (state / "out").open("wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ironloom.cli", "up"),
                *("--context", "test", "--port", str(port), "--state", str(state)),
                *more,
            ],
            env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
            stdout=out,
            stderr=out,
        )
    try:
        made = Gateway(process, f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + WITHIN_S
        while not _answers(made):
            assert process.poll() is None, (state / "out").read_text()
            assert time.monotonic() < deadline, (state / "out").read_text()
            time.sleep(0.1)
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _answers(gateway: Gateway) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{gateway.url}/readyz", timeout=5):
        return True
    return False


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
