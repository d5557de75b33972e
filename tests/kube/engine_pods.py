"""A kubelet, played: pods that the scheduler has bound are said to run, and a fake engine answers for them.

All pods have the address of loopback, and one container port: one engine stands for the replicas of a service.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.kube.cluster import AWAY, Cluster


class EnginePods:
    """Runs while it is entered. `starts`: how often the engine was started."""

    def __init__(self, cluster: Cluster, service: str, port: int, log: Path, **knobs: Any) -> None:
        self._cluster, self._service, self._port, self._log = cluster, service, port, log
        self._knobs = knobs
        self._engine: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.starts = 0

    def __enter__(self) -> EnginePods:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self.kill()

    def kill(self) -> None:
        """The engine's process ends without a word; the next look starts another one for the pods there are."""
        if self._engine is not None:
            self._engine.kill()
            self._engine.wait()
            self._engine = None

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            with contextlib.suppress(*AWAY):  # an API server that a test has stopped
                self._look()

    def _look(self) -> None:
        path = f"/api/v1/namespaces/default/pods?labelSelector=ironloom.dev/service={self._service}"
        pods = self._cluster.request("GET", path)["items"]
        for pod in pods:
            if pod["metadata"].get("deletionTimestamp"):
                name = pod["metadata"]["name"]
                body = {"gracePeriodSeconds": 0}
                self._cluster.request("DELETE", f"/api/v1/namespaces/default/pods/{name}", body)
        live = [pod for pod in pods if pod["spec"].get("nodeName") and not pod["metadata"].get("deletionTimestamp")]
        if live and self._engine is None:
            self._start()
        elif not live and self._engine is not None:
            self.kill()
        waiting = [pod for pod in live if pod.get("status", {}).get("phase") != "Running"]
        if waiting:
            list(self._cluster.run_pods(f"ironloom.dev/service={self._service}"))

    def _start(self) -> None:
        self.starts += 1
        with self._log.open("ab") as log:
            self._engine = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ironloom.serve.engines.programs.fake_server"),
                    *("--name", self._service, "--port", str(self._port), "--knobs", json.dumps(self._knobs)),
                ],
                stdout=log,
                stderr=log,
            )
