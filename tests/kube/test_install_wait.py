"""`ironloom install --wait` against a real API server, scheduler and controllers. The kubelet is played, and so is the
gateway's own part in the election."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tests.kube.cluster import Cluster, kubectl
from tests.kube.test_install import ironloom
from tests.kube.test_leader import until

pytestmark = pytest.mark.kube
WITHIN_S = 180.0
SELECTOR = "app.kubernetes.io/name=ironloom"
DEPLOYMENT = "/apis/apps/v1/namespaces/waits/deployments/ironloom"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/waits/leases"


def test_it_returns_once_the_pods_are_ready_and_one_decides_or_says_what_is_missing(cluster: Cluster) -> None:
    if not cluster.nodes:
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})
    kubectl(cluster, "create", "namespace", "waits")
    kubectl(cluster, "-n", "waits", "create", "quota", "none", "--hard=pods=0")
    install = ("install", "--context", "test", "-n", "waits", "--wait")
    late = ironloom(cluster, *install, "--timeout", "1s", status=1)
    assert "deployment/ironloom created" in late.stdout
    assert "The gateway does not work after 1.0s: " in late.stderr
    assert "`kubectl --context test -n waits get pods -l app.kubernetes.io/name=ironloom`" in late.stderr
    assert "Waiting for the gateway" not in late.stderr, "progress is for a terminal"
    until(lambda: "ReplicaFailure" in str(cluster.request("GET", DEPLOYMENT).get("status")), WITHIN_S)
    refused = ironloom(cluster, *install, "--timeout", "1s", status=1).stderr
    assert "The gateway does not work after 1.0s: pods " in refused
    assert "exceeded quota: none" in refused

    kubectl(cluster, "-n", "waits", "delete", "quota", "none")
    # A refused pod is tried again ever more rarely; a new maker of pods tries at once.
    kubectl(cluster, "-n", "waits", "delete", "replicasets", "-l", SELECTOR)
    waiting = subprocess.Popen(
        [sys.executable, "-m", "ironloom.cli", *install, "--timeout", "10m"],
        env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    with waiting as process:
        try:
            until(lambda: bool(cluster.bound(SELECTOR, namespace="waits")), WITHIN_S)
            until(lambda: "ReplicaFailure" not in str(cluster.request("GET", DEPLOYMENT)["status"]), WITHIN_S)
            said = ironloom(cluster, *install, "--timeout", "0", status=1).stderr
            assert "The gateway does not work after 0ms: pod ironloom-" in said, "a pod's own words"
            (name,) = cluster.run_pods(SELECTOR, namespace="waits")
            until(lambda: cluster.request("GET", DEPLOYMENT)["status"].get("availableReplicas") == 1, WITHIN_S)
            assert process.poll() is None, "its pods are ready, and none of them decides"
            cluster.request("POST", LEASES, {"metadata": {"name": "ironloom"}, "spec": {"holderIdentity": name}})
            out, err = process.communicate(timeout=WITHIN_S)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert all(line.endswith(" unchanged") for line in out.splitlines())
    assert err.endswith(f"It works: {name} decides.\n")
    assert "its pods do not answer yet" not in err
    ironloom(cluster, "uninstall", "--context", "test", "-n", "waits")
