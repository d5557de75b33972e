"""A gateway whose replicas are pods, and what tests ask of it: as a process of its own here, or in the cluster."""

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
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kube.cluster import Cluster, free_ports, kubectl

from ironloom.backends.kubernetes.install import PORT

WITHIN_S = 60.0
ROLLED_OUT_WITHIN_S = 180
SERVICES = "/api/v1/services"
SHORT = {"autoscaling.knative.dev/window": "6s", "autoscaling.knative.dev/initial-scale": "0"}


@dataclass
class Gateway:
    process: subprocess.Popen[bytes] | None
    """None in a cluster."""
    url: str
    key: str = ""

    def ask(self, model: str, text: str = "hello", *, timeout_s: float = WITHIN_S) -> str:
        """An answer's text. Raises urllib.error.HTTPError."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 4}
        answer = self.call("POST", "/v1/chat/completions", body, timeout_s=timeout_s)
        found: str = answer["choices"][0]["message"]["content"]
        return found

    def call(self, method: str, path: str, body: Any = None, *, timeout_s: float = 30.0) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(f"{self.url}{path}", data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            error.add_note(error.read().decode(errors="replace"))
            raise
        except TimeoutError as error:
            if path != SERVICES:
                with contextlib.suppress(OSError):
                    error.add_note(str(self.call("GET", SERVICES, timeout_s=5)))
            raise


@contextlib.contextmanager
def running(cluster: Cluster, state: Path, *more: str, kubeconfig: Path | None = None) -> Iterator[Gateway]:
    """Ready, and ended by a SIGTERM. `more` are options of `ironloom up`, and `kubeconfig` is of another user than the
    administrator. Its words are in the state folder's `out`."""
    (port,) = free_ports(1)
    with (state / "out").open("wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ironloom.cli", "up"),
                *("--context", "test", "--port", str(port), "--state", str(state)),
                *more,
            ],
            env={**os.environ, "KUBECONFIG": str(kubeconfig or cluster.kubeconfig)},
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


@contextlib.contextmanager
def installed(cluster: Cluster, image: str, *, namespace: str, num_replicas: int = 1) -> Iterator[Gateway]:
    """In the cluster, by `ironloom install`, reached by its Service; ready. Its services end with it."""
    install(cluster, image, namespace=namespace, num_replicas=num_replicas)
    secret = cluster.request("GET", f"/api/v1/namespaces/{namespace}/secrets/ironloom-key")
    service = cluster.request("GET", f"/api/v1/namespaces/{namespace}/services/ironloom")
    key = b64decode(secret["data"]["token"]).decode()
    made = Gateway(None, f"http://{service['spec']['clusterIP']}", key)
    deadline = time.monotonic() + WITHIN_S
    while not _answers(made):
        assert time.monotonic() < deadline, f"the gateway's Service leads nowhere:\n{told_of(cluster, namespace)}"
        time.sleep(0.1)
    leader(cluster, namespace, key)
    yield made
    leads = leader(cluster, namespace, key)
    for service in leads.call("GET", SERVICES):
        leads.call("DELETE", f"{SERVICES}/{service['name']}")
    ironloom(cluster, "uninstall", "--namespace", namespace)


def install(
    cluster: Cluster, image: str, *more: str, namespace: str, num_replicas: int, form: str = "deployment"
) -> None:
    """Install it or change it, and wait until all of its pods are those that are wanted, and ready. `form` is the kind
    that `more` options make of it."""
    ironloom(cluster, "install", "--namespace", namespace, "--image", image, "--replicas", str(num_replicas), *more)
    rolled_out(cluster, namespace, form)


def rolled_out(cluster: Cluster, namespace: str, form: str = "deployment") -> None:
    try:
        kubectl(cluster, "-n", namespace, "rollout", "status", f"{form}/ironloom", f"--timeout={ROLLED_OUT_WITHIN_S}s")
    except subprocess.CalledProcessError as error:
        error.add_note(told_of(cluster, namespace))
        raise


def told_of(cluster: Cluster, namespace: str) -> str:
    """What the cluster says of the gateway's pods, and what they say themselves."""
    which = ("-n", namespace, "-l", "app.kubernetes.io/name=ironloom")
    lines = list(kubectl(cluster, "describe", "pods", *which))
    with contextlib.suppress(subprocess.CalledProcessError):  # a container that was never started
        lines += kubectl(cluster, "logs", "--tail", "100", *which)
    return "\n".join(lines)


def leader(cluster: Cluster, namespace: str, key: str) -> Gateway:
    """The pod that decides, at its own address, once one does."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        pod = leading_pod(cluster, namespace)
        if pod is not None:
            return Gateway(None, f"http://{pod['status']['podIP']}:{PORT}", key)
        assert time.monotonic() < deadline, f"no gateway decides:\n{told_of(cluster, namespace)}"
        time.sleep(0.1)


def leading_pod(cluster: Cluster, namespace: str) -> dict[str, Any] | None:
    """What the Lease names, while it is there and does not end."""
    with contextlib.suppress(urllib.error.HTTPError):  # no Lease yet
        lease = cluster.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/ironloom")
        pods = cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
        for pod in pods:
            is_ending = "deletionTimestamp" in pod["metadata"]
            if pod["metadata"]["name"] == lease["spec"].get("holderIdentity") and not is_ending:
                found: dict[str, Any] = pod
                return found
    return None


def ironloom(cluster: Cluster, *arguments: str) -> str:
    """What the command prints, of the test's context."""
    done = subprocess.run(
        [sys.executable, "-m", "ironloom.cli", *arguments, "--context", "test"],
        env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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
