"""What the tests of training runs share: a manifest, the command line against a cluster, a played kubelet's words."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import yaml
from tests.kube.cluster import Cluster

from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.discovery import discover
from ironloom.backends.kubernetes.kubeconfig import load
from ironloom.backends.kubernetes.training import ClusterRuns
from ironloom.backends.kubernetes.training_view import RunState

NAMESPACE = "training"
JOBS = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
MERGE = "application/merge-patch+json"
WITHIN_S = 60.0


def wait_until(is_so: Callable[[], bool], *, within_s: float = WITHIN_S) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.1)


def manifest(name: str, *, nodes: int = 3, gpus: int = 8, **trainer: Any) -> dict[str, Any]:
    args = ["--model=hf://a/b", "--output=/out/run", "--data.sources=/data/rows.jsonl", "--max_restarts=2"]
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {
            "runtimeRef": {"name": "torch-distributed"},
            "trainer": {
                "image": "example.com/train:1",
                "command": ["torchrun", "-m", "ironloom.train.run"],
                "args": [*args, f"--global_batch_size={nodes * gpus}"],
                "numNodes": nodes,
                "numProcPerNode": gpus,
                "resourcesPerNode": {"limits": {"nvidia.com/gpu": gpus}},
                **trainer,
            },
        },
    }


class Command:
    """`ironloom` as a program, with the cluster's kubeconfig."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.env = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "IRONLOOM_HOME": str(folder / "home")}
        self.folder = folder

    def __call__(self, *args: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "ironloom.cli", *args],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert status is None or done.returncode == status, done.stderr
        return done

    def verb(self, *args: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self(*args, "--context", "test", "--namespace", NAMESPACE, status=status)

    @contextmanager
    def training(self, obj: dict[str, Any], words: Sequence[str] = ("train",)) -> Iterator[subprocess.Popen[str]]:
        """`train`, or another command, that waits for the run's end, while a test goes on."""
        args = [*words, "-f", self.file(obj), "--context", "test", "--namespace", NAMESPACE]
        process = subprocess.Popen(
            [sys.executable, "-m", "ironloom.cli", *args], env=self.env, stderr=subprocess.PIPE, text=True
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def file(self, obj: dict[str, Any]) -> str:
        path = self.folder / f"{obj['metadata']['name']}.yaml"
        path.write_text(yaml.safe_dump(obj, sort_keys=False))
        return str(path)

    def train(self, obj: dict[str, Any], *more: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        where = ("--context", "test", "--namespace", NAMESPACE)
        return self("train", "-f", self.file(obj), *where, *more, status=status)


def pods_of(cluster: Cluster, name: str) -> list[Any]:
    found = cluster.request("GET", f"{PODS}?labelSelector=ironloom.dev/run={name}")["items"]
    return sorted(found, key=lambda pod: pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"])


def sweep(cluster: Cluster, name: str) -> None:
    """A kubelet ends the pods that are told to."""
    for pod in pods_of(cluster, name):
        if pod["metadata"].get("deletionTimestamp"):
            with suppress(HTTPError):  # one that went since they were listed
                cluster.request("DELETE", f"{PODS}/{pod['metadata']['name']}", {"gracePeriodSeconds": 0})


def all_gone(cluster: Cluster, name: str) -> bool:
    sweep(cluster, name)
    return pods_of(cluster, name) == []


def state(cluster: Cluster, name: str) -> RunState:
    async def read() -> RunState:
        async with Client(load([cluster.kubeconfig]).target("test")) as client:
            return await ClusterRuns(client, await discover(client), NAMESPACE).state(name)

    return asyncio.run(read())


def played(cluster: Cluster, pod: Any, *, phase: str, exit_code: int | None = None) -> None:
    """Say of a pod what its kubelet would."""
    ended = {"terminated": {"exitCode": exit_code}} if exit_code is not None else {"running": {}}
    container = pod["spec"]["containers"][0]
    status = {
        "phase": phase,
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": phase == "Running",
                "restartCount": 0,
                "state": ended,
            }
        ],
    }
    cluster.request("PATCH", f"{PODS}/{pod['metadata']['name']}/status", {"status": status}, content=MERGE)
