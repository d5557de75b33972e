"""A live cluster becomes a fleet: against a stand-in of the API server on loopback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.backends.kubernetes.conftest import WriteKubeconfig, node, pod
from tests.fakes.kube_api import Answer, KubeApi, Objects, status

from ironloom.backends.kubernetes import client
from ironloom.backends.kubernetes.client import PAGE_SIZE
from ironloom.backends.kubernetes.discovery import Resource
from ironloom.backends.kubernetes.reader import NAMED, NEEDED, read_fleet, read_objects
from ironloom.errors import ClusterError, ManifestError
from ironloom.fleet import objects

NODES, PODS, SECRETS = "/api/v1/nodes", "/api/v1/pods", "/api/v1/secrets"
QUEUES = "/apis/kueue.x-k8s.io/v1beta2/clusterqueues"


def small_cluster() -> Objects:
    return {
        NODES: [node("gpu-1"), node("gpu-2")],
        PODS: [pod("a", "gpu-1", 3), pod("b", "gpu-1", 1), pod("waits", "", 8)],
        "/api/v1/namespaces": [{"metadata": {"name": "team-a", "labels": {"kueue": "on"}}}],
        SECRETS: [{"metadata": {"name": "hf", "namespace": "team-a"}, "data": {"token": "c2VjcmV0"}}],
        QUEUES: [{"metadata": {"name": "research"}, "spec": {"namespaceSelector": {}, "resourceGroups": []}}],
    }


def test_a_cluster_becomes_a_fleet_with_what_is_free_and_what_there_is(write_kubeconfig: WriteKubeconfig) -> None:
    with KubeApi(small_cluster()).running() as api:
        write_kubeconfig(api.url)
        fleet = read_fleet(context="prod")
    assert [(one.name, one.num_free_gpus) for one in fleet.nodes] == [("gpu-1", 4), ("gpu-2", 8)]
    assert {one.name for one in fleet.pods if not one.node} == {"waits"}
    assert [queue.name for queue in fleet.cluster_queues] == ["research"]
    assert (fleet.name, fleet.source, fleet.version) == ("prod", "context prod", "v1.37.2")
    assert fleet.taken_at.endswith("Z")
    assert fleet.has("/Secret", "hf", "team-a") is True
    assert fleet.has("/Secret", "other", "team-a") is False
    assert fleet.has("serving.kserve.io/ServingRuntime", "vllm", "team-a") is None, "it is not served, so not read"
    assert fleet.kinds_served is not None
    assert "kueue.x-k8s.io/v1beta2/ClusterQueue" in fleet.kinds_served


def test_secrets_do_not_travel(write_kubeconfig: WriteKubeconfig) -> None:
    with KubeApi(small_cluster()).running() as api:
        write_kubeconfig(api.url)
        read_fleet(context="prod")
    asked = [one for one in api.asked if one.path == SECRETS]
    assert asked
    assert all("PartialObjectMetadataList" in one.headers["accept"] for one in asked)
    assert not {one.path for one in api.asked} - set(api.objects) - {"/api", "/apis", "/version"}


def test_a_server_without_aggregated_discovery_is_asked_version_by_version(write_kubeconfig: WriteKubeconfig) -> None:
    with KubeApi(small_cluster(), aggregated=False).running() as api:
        write_kubeconfig(api.url)
        fleet = read_fleet(context="prod")
    assert len(fleet.nodes) == 2
    assert QUEUES in api.paths(), "the preferred version is the one that is read"
    assert "/apis/kueue.x-k8s.io/v1beta1/clusterqueues" not in api.paths()
    assert fleet.kinds_served is not None
    assert "kueue.x-k8s.io/v1beta1/ClusterQueue" in fleet.kinds_served


def test_a_long_list_comes_in_pages_and_whole(write_kubeconfig: WriteKubeconfig) -> None:
    pods = [pod(f"p-{number}", "gpu-1", 0) for number in range(2 * PAGE_SIZE + 1)]
    seen: list[tuple[int, int | None]] = []

    def progress(kind: str, num_more: int, num_remaining: int | None) -> None:
        if kind == "pods":
            seen.append((num_more, num_remaining))

    with KubeApi({NODES: [node("gpu-1")], PODS: pods}).running() as api:
        write_kubeconfig(api.url)
        api.delays_s = {NODES: 0.1, PODS: 0.1}
        fleet = read_fleet(context="prod", progress=progress)
    assert len(fleet.pods) == len(pods)
    assert seen == [(500, 501), (500, 1), (1, 0)]
    assert api.most_at_once > 1, "kinds are read beside each other"


def test_an_expired_continue_token_begins_the_list_anew_and_nothing_is_counted_twice(
    write_kubeconfig: WriteKubeconfig,
) -> None:
    pods = [pod(f"p-{number}", "gpu-1", 1) for number in range(6)]
    with KubeApi({NODES: [node("gpu-1")], PODS: pods}, max_page=3).running() as api:
        write_kubeconfig(api.url)
        gone = status(410, "Expired", "The provided continue parameter is too old")
        api.faults[f"{PODS}?continue"] = [gone]
        fleet = read_fleet(context="prod")
        assert len(fleet.pods) == 6
        assert fleet.nodes[0].num_free_gpus == 2
        api.faults[f"{PODS}?continue"] = [gone, gone]
        with pytest.raises(ClusterError, match="answered 410 to list pods: The provided continue parameter is too old"):
            read_fleet(context="prod")


def test_a_kind_that_is_forbidden_is_unknown_and_said(write_kubeconfig: WriteKubeconfig) -> None:
    told: list[str] = []
    with KubeApi(small_cluster()).running() as api:
        write_kubeconfig(api.url)
        api.always[SECRETS] = status(403, "Forbidden", "no secrets for you")
        fleet = read_fleet(context="prod", tell=told.append)
    assert told == [
        "secrets are unknown: The cluster of context prod forbids user ada to list secrets: no secrets for you"
    ]
    assert fleet.has("/Secret", "hf", "team-a") is None
    assert fleet.has("/ConfigMap", "hf", "team-a") is False


@pytest.mark.parametrize("path", [NODES, PODS])
def test_without_nodes_or_pods_there_is_no_fleet(path: str, write_kubeconfig: WriteKubeconfig) -> None:
    with KubeApi(small_cluster()).running() as api:
        write_kubeconfig(api.url)
        api.always[path] = status(403, "Forbidden", "no")
        with pytest.raises(ClusterError, match=f"forbids user ada to list {path.rpartition('/')[2]}") as caught:
            read_fleet(context="prod")
    assert caught.value.status == 403
    assert "role" in (caught.value.hint or "")


def test_a_busy_server_and_a_broken_connection_are_asked_again(
    write_kubeconfig: WriteKubeconfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.001)
    with KubeApi(small_cluster()).running() as api:
        write_kubeconfig(api.url)
        api.faults[PODS] = [
            status(429, "TooManyRequests", "slow down", Retry_After="0"),
            Answer(503, b"upstream", {"Retry-After": "0"}),
            Answer(0, hangs_up=True),
        ]
        fleet = read_fleet(context="prod")
    assert len(fleet.pods) == 3
    assert api.paths().count(PODS) == 4


def test_a_kind_whose_conversion_fails_is_unknown(write_kubeconfig: WriteKubeconfig) -> None:
    told: list[str] = []
    with KubeApi(small_cluster()).running() as api:
        write_kubeconfig(api.url)
        api.always[QUEUES] = status(500, "InternalError", "conversion webhook failed", Retry_After="0")
        fleet = read_fleet(context="prod", tell=told.append)
    assert fleet.has("kueue.x-k8s.io/ClusterQueue", "research") is None
    assert ["conversion webhook failed" in one for one in told] == [True]


@pytest.mark.parametrize(
    "body", [b"<html>Sign in</html>", b"", b'{"items": 7}', b'{"items": [' + b"[" * 100_000, b"\xff\xfe"]
)
def test_what_is_no_json_of_the_api_is_said(body: bytes, write_kubeconfig: WriteKubeconfig) -> None:
    for path in ("/api", PODS, SECRETS, *(["/version"] if b"items" not in body else [])):
        with KubeApi(small_cluster()).running() as api:
            write_kubeconfig(api.url)
            api.always[path] = Answer(200, body)
            with pytest.raises(ClusterError, match="something that is not the API's JSON"):
                read_fleet(context="prod")


def test_an_object_of_another_shape_is_named(write_kubeconfig: WriteKubeconfig) -> None:
    bad: dict[str, Any] = pod("odd", "gpu-1")
    bad["spec"]["containers"] = "many"
    with KubeApi({NODES: [node("gpu-1")], PODS: [bad]}).running() as api:
        write_kubeconfig(api.url)
        with pytest.raises(ManifestError, match="team-a/odd is not as the Kubernetes API writes it"):
            read_fleet(context="prod")


def test_the_autoscalers_own_config_map_is_read_whole(write_kubeconfig: WriteKubeconfig) -> None:
    found: dict[str, bytes] = {}

    class Kept:
        def begin(self, resource: Resource) -> None:
            pass

        def add(self, resource: Resource, raw: bytes) -> None:
            found[resource.kind] = raw

    path = "/api/v1/namespaces/kube-system/configmaps/cluster-autoscaler-status"
    cluster = small_cluster() | {
        "/api/v1/configmaps": [{"metadata": {"name": "cluster-autoscaler-status", "namespace": "kube-system"}}]
    }
    with KubeApi(cluster).running() as api:
        write_kubeconfig(api.url)
        read_objects(Kept(), context="prod")
        assert b'"data"' not in found["ConfigMap"], "without leave to get it its name is all there is"
        whole = b'{"metadata":{"name":"cluster-autoscaler-status"},"data":{"status":"nodeGroups: []"}}'
        api.always[path] = Answer(200, whole)
        read_objects(Kept(), context="prod")
    assert found["ConfigMap"] == whole


def test_the_role_of_the_guide_allows_everything_that_is_read() -> None:
    guide = (Path(__file__).parents[3] / "docs/guides/snapshots.md").read_text()
    role = yaml.safe_load(guide.split("```yaml")[1].split("```")[0])
    allowed = {group for rule in role["rules"] for group in rule["apiGroups"]}
    core = set(role["rules"][0]["resources"])
    assert role["rules"][0]["apiGroups"] == [""]
    for group, kind in (*NEEDED, *objects.KINDS_READ_WHOLE, *NAMED):
        assert group in allowed
        assert group or f"{kind.lower()}s" in core


def test_the_http_client_is_imported_when_a_cluster_is_asked_and_not_before() -> None:
    program = "import ironloom.backends.kubernetes.reader, sys; sys.exit('httpx2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
