"""The gateway's objects against a real API server: applied, the same again, changed, and removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
from base64 import b64decode

import pytest
from tests.kube.cluster import Cluster, kubectl

pytestmark = pytest.mark.kube


def ironloom(cluster: Cluster, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "ironloom.cli", *arguments],
        env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def test_it_is_applied_whole_and_the_same_again_changes_nothing(cluster: Cluster) -> None:
    kubectl(cluster, "create", "namespace", "gate")
    # Its pods are held to the strictest of Kubernetes' own standards.
    kubectl(cluster, "label", "namespace", "gate", "pod-security.kubernetes.io/enforce=restricted")
    where = ("--context", "test", "--namespace", "gate")
    two = ("--replicas", "2")
    tried = ironloom(cluster, "install", *where, "--dry-run=server").stdout.splitlines()
    assert "deployment/ironloom created (dry run)" in tried
    with pytest.raises(urllib.error.HTTPError, match="404"):
        cluster.request("GET", "/apis/apps/v1/namespaces/gate/deployments/ironloom")

    made = ironloom(cluster, "install", *where, *two)
    assert made.stdout.splitlines() == [
        "secret/ironloom-key created",
        *(
            f"{kind}/ironloom created"
            for kind in (
                *("serviceaccount", "role", "rolebinding", "secret"),
                *("deployment", "service", "poddisruptionbudget"),
            )
        ),
    ]
    assert "port-forward svc/ironloom" in made.stderr
    secret = cluster.request("GET", "/api/v1/namespaces/gate/secrets/ironloom-key")
    assert b64decode(secret["data"]["token"]).startswith(b"il-")
    assert "Warning" not in made.stderr

    again = ironloom(cluster, "install", *where, *two).stdout.splitlines()
    assert all(line.endswith(" unchanged") for line in again)
    assert cluster.request("GET", "/api/v1/namespaces/gate/secrets/ironloom-key") == secret

    fewer = ironloom(cluster, "install", *where, "--replicas", "1", "--ingress-host", "chat.example.com").stdout
    assert "deployment/ironloom configured" in fewer
    assert "ingress/ironloom created" in fewer
    assert "poddisruptionbudget/ironloom deleted" in fewer

    gone = ironloom(cluster, "uninstall", *where).stdout.splitlines()
    assert {line.partition("/")[0] for line in gone} == {
        "serviceaccount", "role", "rolebinding", "deployment", "service", "ingress", "secret",
    }  # fmt: skip
    assert "has no gateway" in ironloom(cluster, "uninstall", *where).stderr


def test_its_pods_pass_the_restricted_standard(cluster: Cluster) -> None:
    kubectl(cluster, "create", "namespace", "strict")
    kubectl(cluster, "label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted")
    where = ("--context", "test", "--namespace", "strict")
    yaml = ironloom(cluster, "install", *where, "--dry-run=client", "-o", "yaml").stdout
    warned = subprocess.run(
        [*kubectl_of(cluster), "apply", "--dry-run=server", "-f", "-"], input=yaml, capture_output=True, text=True,
        check=True,
    ).stderr  # fmt: skip
    assert "PodSecurity" not in warned


def kubectl_of(cluster: Cluster) -> list[str]:
    from tests.kube.cluster import cache

    return [str(cache() / "bin" / "kubectl"), "--kubeconfig", str(cluster.kubeconfig)]


def test_what_others_made_of_its_name_is_not_removed(cluster: Cluster) -> None:
    kubectl(cluster, "create", "namespace", "theirs")
    kubectl(cluster, "create", "serviceaccount", "ironloom", "-n", "theirs")
    done = ironloom(cluster, "uninstall", "--context", "test", "--namespace", "theirs", "-o", "json")
    assert isinstance(json.loads(done.stdout), list)
    assert cluster.request("GET", "/api/v1/namespaces/theirs/serviceaccounts/ironloom")


def test_a_namespace_that_is_not_there_is_told(cluster: Cluster) -> None:
    done = ironloom(cluster, "install", "--context", "test", "--namespace", "nowhere", status=2)
    assert "has no namespace nowhere" in done.stderr
    assert "kubectl create namespace nowhere" in done.stderr
