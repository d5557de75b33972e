"""The gateway's objects against a real API server: applied, the same again, changed, refused, and removed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
from base64 import b64decode
from pathlib import Path

import pytest
from tests.kube.cluster import Cluster, kubeconfig, kubectl
from tests.kube.test_backend import wait_until

pytestmark = pytest.mark.kube
CLUSTER_ROLES = "/apis/rbac.authorization.k8s.io/v1/clusterroles"


def ironloom(
    cluster: Cluster, *arguments: str, status: int = 0, config: Path | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "ironloom.cli", *arguments],
        env={**os.environ, "KUBECONFIG": str(config or cluster.kubeconfig)},
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
    tried = ironloom(cluster, "install", *where, "--dry-run=server", "--cluster-reads").stdout.splitlines()
    assert "clusterrolebinding/ironloom-cluster-reads-gate created (dry run)" in tried
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
    assert "its pods do not answer yet: `kubectl --context test -n gate rollout status" in made.stderr
    told = ironloom(cluster, "key", "list", *where, status=1).stderr
    assert "A gateway of Ironloom is installed in namespace gate, and none of its pods answers yet: " in told
    secret = cluster.request("GET", "/api/v1/namespaces/gate/secrets/ironloom-key")
    assert b64decode(secret["data"]["token"]).startswith(b"il-")
    assert "Warning" not in made.stderr

    again = ironloom(cluster, "install", *where, *two).stdout.splitlines()
    assert all(line.endswith(" unchanged") for line in again)
    assert cluster.request("GET", "/api/v1/namespaces/gate/secrets/ironloom-key") == secret

    changed = (*where, "--replicas", "1", "--ingress-host", "chat.example.com")
    told = ironloom(cluster, "install", *changed, "--dry-run=server").stdout
    assert "deployment/ironloom configured (dry run)" in told
    assert "role/ironloom unchanged (dry run)" in told
    fewer = ironloom(cluster, "install", *changed).stdout
    assert "deployment/ironloom configured" in fewer
    assert "ingress/ironloom created" in fewer
    assert "poddisruptionbudget/ironloom deleted" in fewer

    gone = ironloom(cluster, "uninstall", *where).stdout.splitlines()
    assert {line.partition("/")[0] for line in gone} == {
        "serviceaccount", "role", "rolebinding", "deployment", "service", "ingress", "secret",
    }  # fmt: skip
    assert "has no gateway" in ironloom(cluster, "uninstall", *where).stderr


def test_with_volumes_it_is_a_stateful_set_and_what_its_claims_wait_for_is_told(cluster: Cluster) -> None:
    kubectl(cluster, "create", "namespace", "kept")
    kubectl(cluster, "label", "namespace", "kept", "pod-security.kubernetes.io/enforce=restricted")
    if not cluster.nodes:
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})
    where = ("--context", "test", "--namespace", "kept")
    volumes = ("--replicas", "2", "--state-size", "1Gi", "--state-class", "by-hand")
    tried = ironloom(cluster, "install", *where, *volumes, "--dry-run=server").stdout
    assert "statefulset/ironloom created (dry run)" in tried
    assert "deployment/" not in tried
    made = ironloom(cluster, "install", *where, *volumes)
    assert "statefulset/ironloom created" in made.stdout
    assert "rollout status statefulset/ironloom` waits" in made.stderr
    again = ironloom(cluster, "install", *where, *volumes).stdout.splitlines()
    assert all(line.endswith(" unchanged") for line in again), again

    claims = "/api/v1/namespaces/kept/persistentvolumeclaims"
    names = ["state-ironloom-0", "state-ironloom-1"]
    wait_until(lambda: [one["metadata"]["name"] for one in cluster.request("GET", claims)["items"]] == names)

    def told() -> str:
        return ironloom(cluster, "key", "list", *where, status=1).stderr

    # No volume of that class is there.
    wait_until(lambda: "PersistentVolumeClaims" in told())
    assert "statefulset/ironloom deleted" in ironloom(cluster, "uninstall", *where).stdout


def test_volumes_keep_their_size_and_outlive_the_gateways_and_either_form_follows_the_other(cluster: Cluster) -> None:
    kubectl(cluster, "create", "namespace", "follows")
    if not cluster.nodes:
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})
    where = ("--context", "test", "--namespace", "follows")
    ironloom(cluster, "install", *where, "--replicas", "2", "--state-size", "1Gi", "--state-class", "by-hand")
    claims = "/api/v1/namespaces/follows/persistentvolumeclaims"
    names = ["state-ironloom-0", "state-ironloom-1"]
    wait_until(lambda: [one["metadata"]["name"] for one in cluster.request("GET", claims)["items"]] == names)
    other = ("--replicas", "2", "--state-size", "2Gi")
    refused = ironloom(cluster, "install", *where, *other, status=2).stderr
    assert "The volumes of gateways that are there keep their size and their class" in refused
    kubectl(cluster, "-n", "follows", "delete", "statefulset", "ironloom", "--cascade=orphan")
    assert "statefulset/ironloom created" in ironloom(cluster, "install", *where, *other).stdout

    # What follows answers: what was there goes.
    command = [sys.executable, "-m", "ironloom.cli", "install", *where, "--replicas", "1"]
    env = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follows:
        while follows.poll() is None:
            with contextlib.suppress(urllib.error.HTTPError):  # a pod that went meanwhile
                list(cluster.run_pods("app.kubernetes.io/name=ironloom", namespace="follows"))
            time.sleep(0.2)
        assert follows.stdout is not None
        assert follows.stderr is not None
        out, err = follows.stdout.read(), follows.stderr.read()
    assert "deployment/ironloom created" in out
    assert "statefulset/ironloom deleted" in out
    assert "the gateways' volumes stay" in err

    gone = ironloom(cluster, "uninstall", *where)
    assert "deployment/ironloom deleted" in gone.stdout
    removes = f"kubectl --context test -n follows delete pvc {' '.join(names)}"
    assert f"`{removes}` removes them" in gone.stderr
    kubectl(cluster, *removes.split()[1:], "--wait=false")


@pytest.mark.parametrize("more", [(), ("--state-size", "1Gi")], ids=["without volumes", "with volumes"])
def test_its_pods_pass_the_restricted_standard(cluster: Cluster, more: tuple[str, ...]) -> None:
    made = kubectl(cluster, "create", "namespace", "strict", "--dry-run=client", "-o", "yaml")
    kubectl(cluster, "apply", "-f", "-", text="\n".join(made))
    kubectl(cluster, "label", "namespace", "strict", "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    where = ("--context", "test", "--namespace", "strict")
    yaml = ironloom(cluster, "install", *where, *more, "--dry-run=client", "-o", "yaml").stdout
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


def test_a_namespace_that_is_not_there_is_told(cluster: Cluster, tmp_path: Path) -> None:
    up = ("up", "--port", "0", "--state", str(tmp_path))
    for command in ("install",), ("get",), ("get", "runs"), ("describe", "chat"), ("scale", "chat", "1"), up:
        done = ironloom(cluster, *command, "--context", "test", "--namespace", "nowhere", status=2)
        assert "there is no namespace nowhere" in done.stderr.lower()
        assert "kubectl create namespace nowhere" in done.stderr


def test_reads_of_the_cluster_come_and_go_with_their_option_and_those_of_two_namespaces_do_not_meet(
    cluster: Cluster,
) -> None:
    for namespace in ("reads", "reads-too"):
        kubectl(cluster, "create", "namespace", namespace)
        made = ironloom(cluster, "install", "--context", "test", "-n", namespace, "--cluster-reads").stdout
        assert f"clusterrole/ironloom-cluster-reads-{namespace} created" in made
        assert f"clusterrolebinding/ironloom-cluster-reads-{namespace} created" in made
    again = ironloom(cluster, "install", "--context", "test", "-n", "reads", "--cluster-reads").stdout.splitlines()
    assert all(line.endswith(" unchanged") for line in again)

    def may(verb: str, what: str, *, of: str) -> bool:
        user = f"system:serviceaccount:{of}:ironloom"
        try:
            return kubectl(cluster, "auth", "can-i", verb, what, "-A", "--as", user) == ["yes"]
        except subprocess.CalledProcessError:  # its answer is no
            return False

    wait_until(lambda: may("list", "nodes", of="reads"))
    assert may("list", "pods", of="reads")
    assert not may("delete", "pods", of="reads")
    assert not may("list", "secrets", of="reads")
    without = ironloom(cluster, "install", "--context", "test", "-n", "reads").stdout
    assert "clusterrole/ironloom-cluster-reads-reads deleted" in without
    wait_until(lambda: not may("list", "nodes", of="reads"))
    assert may("list", "nodes", of="reads-too")
    gone = ironloom(cluster, "uninstall", "--context", "test", "-n", "reads-too")
    assert "clusterrolebinding/ironloom-cluster-reads-reads-too deleted" in gone.stdout
    assert not gone.stderr
    ironloom(cluster, "uninstall", "--context", "test", "-n", "reads")


def test_what_one_user_may_not_do_is_refused_whole_with_what_to_do(cluster: Cluster, tmp_path: Path) -> None:
    """One who administers a namespace, and nothing of the cluster."""
    kubectl(cluster, "create", "namespace", "owned")
    kubectl(cluster, "create", "serviceaccount", "owner", "-n", "owned")
    kubectl(cluster, "create", "rolebinding", "owner", "-n", "owned", "--clusterrole=admin",
            "--serviceaccount=owned:owner")  # fmt: skip
    (token,) = kubectl(cluster, "create", "token", "owner", "-n", "owned")
    config = tmp_path / "kubeconfig"
    config.write_text(json.dumps(kubeconfig(cluster.server, cluster.authority, token, namespace="owned")))
    where = ("--context", "test")

    def is_bound() -> bool:
        as_owner = ("--as", "system:serviceaccount:owned:owner", "-n", "owned")
        try:
            return kubectl(cluster, "auth", "can-i", "create", "roles.rbac.authorization.k8s.io", *as_owner) == ["yes"]
        except subprocess.CalledProcessError:
            return False

    wait_until(is_bound)
    # Rights that the owner has not: of kinds that no role of this cluster gives to those who administer a namespace.
    refused = ironloom(cluster, "install", *where, status=2, config=config).stderr
    assert "You may not make Role ironloom: it gives rights that you do not hold yourself" in refused
    assert "hint: somebody installs it who holds them" in refused
    assert not cluster.request("GET", "/api/v1/namespaces/owned/secrets")["items"]

    # Whoever may escalate roles of the namespace installs there, and is told of the cluster what is not theirs.
    kubectl(cluster, "create", "role", "escalates", "-n", "owned", "--verb=escalate,bind",
            "--resource=roles.rbac.authorization.k8s.io")  # fmt: skip
    kubectl(cluster, "create", "rolebinding", "escalates", "-n", "owned", "--role=escalates",
            "--serviceaccount=owned:owner")  # fmt: skip
    wait_until(
        lambda: "Role ironloom" not in subprocess.run(
            [sys.executable, "-m", "ironloom.cli", "install", *where, "--dry-run=server"],
            env={**os.environ, "KUBECONFIG": str(config)}, capture_output=True, text=True, check=False,
        ).stderr
    )  # fmt: skip
    refused = ironloom(cluster, "install", *where, "--cluster-reads", status=2, config=config).stderr
    assert "clusterroles" in refused
    assert "hint: an administrator of the cluster installs with --cluster-reads" in refused
    assert not cluster.request("GET", "/api/v1/namespaces/owned/secrets")["items"]
    assert "rolebinding/ironloom created" in ironloom(cluster, "install", *where, config=config).stdout

    # Installed by an administrator with reads of the cluster, removed by one who may not.
    ironloom(cluster, "install", *where, "-n", "owned", "--cluster-reads")
    gone = ironloom(cluster, "uninstall", *where, config=config)
    assert "deployment/ironloom deleted" in gone.stdout
    both = ("clusterrolebinding/ironloom-cluster-reads-owned", "clusterrole/ironloom-cluster-reads-owned")
    assert f"whether there is httproute/ironloom or {' or '.join(both)} you may not see" in gone.stderr
    assert (
        f"kubectl --context test -n owned delete --ignore-not-found httproute/ironloom {' '.join(both)}" in gone.stderr
    )
    assert cluster.request("GET", f"{CLUSTER_ROLES}/ironloom-cluster-reads-owned")
    kubectl(cluster, "delete", *both)


def test_a_gateway_whose_way_in_the_cluster_does_not_serve_is_refused_before_anything_is_made(
    cluster: Cluster,
) -> None:
    kubectl(cluster, "create", "namespace", "no-route")
    done = ironloom(cluster, "install", "--context", "test", "-n", "no-route", "--gateway", "edge/public", status=2)
    assert "does not serve HTTPRoute (gateway.networking.k8s.io/v1)" in done.stderr
    assert not kubectl(cluster, "get", "secrets,deployments,roles", "-n", "no-route", "-o", "name")


def test_an_uninstall_says_which_services_stay_and_what_forgets_them(cluster: Cluster) -> None:
    kubectl(cluster, "create", "namespace", "stays")
    where = ("--context", "test", "-n", "stays")
    ironloom(cluster, "install", *where)
    labels = {"ironloom.dev/stored": "service"}
    for name in ("chat", "embed"):
        metadata = {"name": f"ironloom-service-{name}", "labels": {**labels, "ironloom.dev/service": name}}
        cluster.request("POST", "/api/v1/namespaces/stays/configmaps", {"metadata": metadata})
    gone = ironloom(cluster, "uninstall", *where)
    assert "the services chat, embed, and their pods as they are" in gone.stderr
    command = "kubectl --context test -n stays delete configmaps -l ironloom.dev/stored=service"
    assert f"`{command}` deletes them" in gone.stderr
    kubectl(cluster, *command.split()[1:])
    assert "ironloom.dev/stored" not in ironloom(cluster, "uninstall", *where).stderr
