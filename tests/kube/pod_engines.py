"""A kubelet, played for all pods of a namespace: each that is bound gets an address of loopback and an engine there.

A pod is said to be ready once its engine listens. One of the image `BROKEN` is said to have none.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.kube.cluster import AWAY, Cluster

BROKEN = "ironloom.test/vllm-openai:never-made"
NO_IMAGE = {"reason": "ErrImageNeverPull", "message": f'container image "{BROKEN}" is not present'}
MERGE = "application/merge-patch+json"


class PodEngines:
    """Runs while it is entered. All pods listen on one port, each at its own address."""

    def __init__(self, cluster: Cluster, namespace: str, port: int, logs: Path) -> None:
        self._cluster, self._namespace, self._port, self._logs = cluster, namespace, port, logs
        self._engines: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}
        """Address and process, by pod."""
        self._said: set[str] = set()
        self._numbers = itertools.count(2)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> PodEngines:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        for name in [*self._engines]:
            self._end(name)

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            with contextlib.suppress(*AWAY):  # a pod that went meanwhile
                self._look()

    def _look(self) -> None:
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        pods = {one["metadata"]["name"]: one for one in self._cluster.request("GET", path)["items"]}
        for name in [name for name in self._engines if name not in pods]:
            self._end(name)
        for name, pod in pods.items():
            if pod["metadata"].get("deletionTimestamp"):
                self._end(name)
                self._cluster.request("DELETE", f"{path}/{name}", {"gracePeriodSeconds": 0})
            elif pod["spec"].get("nodeName") and name not in self._said:
                self._run_pod(name, pod)

    def _run_pod(self, name: str, pod: dict[str, Any]) -> None:
        (container, *_) = pod["spec"]["containers"]
        if container["image"] == BROKEN:
            waits = {"name": container["name"], "ready": False, "restartCount": 0, "image": BROKEN, "imageID": ""}
            status = {"phase": "Pending", "containerStatuses": [{**waits, "state": {"waiting": NO_IMAGE}}]}
            path = f"/api/v1/namespaces/{self._namespace}/pods/{name}/status"
            self._cluster.request("PATCH", path, {"status": status}, content=MERGE)
            self._said.add(name)
            return
        if name not in self._engines:
            self._begin(name)
        address, _ = self._engines[name]
        if _listens(address, self._port):
            only = f"ironloom.dev/service&fieldSelector=metadata.name={name}"
            self._said.update(self._cluster.run_pods(only, namespace=self._namespace, pod_ip=address))

    def _begin(self, name: str) -> None:
        number = next(self._numbers)
        address = f"127.77.{number // 250}.{number % 250 + 2}"
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ironloom.serve.engines.programs.fake_server"),
                    *("--name", name, "--host", address, "--port", str(self._port)),
                ],
                stdout=log,
                stderr=log,
            )
        self._engines[name] = address, process

    def _end(self, name: str) -> None:
        if (known := self._engines.pop(name, None)) is not None:
            known[1].kill()
            known[1].wait()


def _listens(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False
