"""What a real cluster has, as it is told; and what is made of it without a gateway, by a dry run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kube.cluster import Cluster, kubectl
from tests.kube.manifests import inference_service
from tests.kube.queueing import CLUSTER_QUEUE, LEAF, QUEUE
from tests.kube.training_runs import NAMESPACE

pytestmark = pytest.mark.kube


def ironloom(cluster: Cluster, folder: Path, *arguments: str, user: dict[str, Any] | None = None) -> str:
    """What a command prints."""
    config = json.loads(cluster.kubeconfig.read_text())
    if user is not None:
        config["users"] = [{"name": "test", "user": user}]
    (folder / "kubeconfig").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "ironloom.cli", *arguments, "--context", "test"],
        env={**os.environ, "KUBECONFIG": str(folder / "kubeconfig"), "IRONLOOM_HOME": str(folder / "home")},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def parts(cluster: Cluster, folder: Path, *more: str, user: dict[str, Any] | None = None) -> dict[str, Any]:
    told = json.loads(ironloom(cluster, folder, "fleet", "--parts", "-o", "json", *more, user=user))
    return {one["name"]: one for one in told}


def test_queues_levels_and_controllers_of_a_cluster_are_told(queued: Cluster, tmp_path: Path) -> None:
    found = parts(queued, tmp_path, "-n", NAMESPACE)
    versions = {name: one["version"] for name, one in found.items() if one["state"] == "there"}
    known = {
        "Kueue": "v1beta2",
        "Kueue topologies": "v1beta2",
        "JobSet": "v1alpha2",
        "LeaderWorkerSet": "v1",
        "DRA": "v1",
    }
    assert {name: versions.get(name) for name in known} == known
    (queues,) = [line for line in found["Kueue"]["details"] if line.startswith("ClusterQueues: ")]
    assert CLUSTER_QUEUE in queues.removeprefix("ClusterQueues: ").split(", ")
    (local,) = [line for line in found["Kueue"]["details"] if line.startswith("LocalQueues")]
    assert f"{QUEUE} (of ClusterQueue {CLUSTER_QUEUE})" in local
    (topology,) = [line for line in found["Kueue topologies"]["details"] if line.startswith("Topology ib: ")]
    assert LEAF in topology
    assert "; of ResourceFlavors h100" in topology
    assert found["KServe"]["state"] == "not there"
    assert found["pod groups"]["state"] == "not there", "its gates are off"


def test_who_may_look_at_little_is_told_what_there_is_and_what_may_not_be_read(
    cluster: Cluster, tmp_path: Path
) -> None:
    found = parts(cluster, tmp_path, user=cluster.clients.issue("pat"))
    assert found["DRA"]["state"] == "there"
    (line,) = found["DRA"]["details"]
    assert line.startswith(
        "DeviceClasses: not read: The cluster of context test forbids user test to list deviceclasses"
    )
    assert {one["state"] for one in found.values()} == {"there", "not there"}


def test_a_dry_run_asks_no_gateway_and_gives_what_kubectl_takes(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text(json.dumps(inference_service("unseen")))
    text = ironloom(cluster, tmp_path, "apply", "-f", str(file), "--dry-run=client", "-o", "yaml")
    assert [one["kind"] for one in yaml.safe_load_all(text)] == ["Deployment", "Service"]
    taken = kubectl(cluster, "apply", "--dry-run=server", "-f", "-", text=text)
    assert any(line.startswith("deployment.apps/unseen created") for line in taken)
    assert "unseen" not in str(kubectl(cluster, "get", "deployments", "-o", "name"))
