"""What is told of nodes that are not there, against a real API server that serves the kinds of pools."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.error
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.kube.cluster import Cluster, kubectl
from tests.kube.gateway import Gateway, apply, running
from tests.kube.manifests import inference_service
from tests.kube.test_backend import wait_until

from ironloom.backends.kubernetes import roles
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.kubeconfig import User, load
from ironloom.backends.kubernetes.supply import RETRY_AFTER_S, read_pools, said_of
from ironloom.cli.cluster_nodes import nodes_told

pytestmark = pytest.mark.kube
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
POOLS = {
    "compute.coreweave.com": "/apis/compute.coreweave.com/v1alpha1/nodepools",
    "karpenter.sh": "/apis/karpenter.sh/v1/nodepools",
}
NAMESPACE = "supply"
TIMEOUT_S = 10
"""Of the services here: a node does not come in that time."""


@pytest.fixture(scope="module")
def pools(cluster: Cluster) -> Iterator[Cluster]:
    """With a pool of CoreWeave's H100 nodes that may grow from 0 to 3, and one of Karpenter's that may have none."""
    if not cluster.nodes:
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})
    kubectl(cluster, "create", "namespace", NAMESPACE)
    for group, path in POOLS.items():
        version = path.split("/")[3]
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        served = {"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        names = {"plural": "nodepools", "singular": "nodepool", "kind": "NodePool"}
        definition = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"nodepools.{group}"},
            "spec": {"group": group, "scope": "Cluster", "names": names, "versions": [served]},
        }
        cluster.request("POST", DEFINITIONS, definition)
    for path in POOLS.values():
        wait_until(lambda path=path: is_served(cluster, path))  # type: ignore[misc]
    make(cluster, "compute.coreweave.com", "h100", instanceType="gd-8xh100ib-i128", autoscaling=True, minNodes=0,
         maxNodes=3, targetNodes=0, nodeLabels={"pool": "h100"})  # fmt: skip
    make(cluster, "karpenter.sh", "spare", limits={"nodes": "0"}, disruption={"consolidateAfter": "30s"},
         template={"metadata": {"labels": {"pool": "spare"}}, "spec": {"requirements": []}})  # fmt: skip
    yield cluster
    for group in POOLS:
        cluster.request("DELETE", f"{DEFINITIONS}/nodepools.{group}")
    kubectl(cluster, "delete", "namespace", NAMESPACE, "--wait=false")


def is_served(cluster: Cluster, path: str) -> bool:
    with contextlib.suppress(urllib.error.HTTPError):
        return bool(cluster.request("GET", path)["kind"])
    return False


def make(cluster: Cluster, group: str, name: str, **spec: Any) -> None:
    path = POOLS[group]
    body = {"apiVersion": f"{group}/{path.split('/')[3]}", "kind": "NodePool", "metadata": {"name": name}, "spec": spec}
    cluster.request("POST", path, body)


@pytest.fixture(scope="module")
def gateway(pools: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(pools, tmp_path_factory.mktemp("gateway"), "--namespace", NAMESPACE) as made:
        yield made


def waiting(name: str, pool: str) -> dict[str, Any]:
    """A service that no node is there for."""
    made = inference_service(name, {"autoscaling.knative.dev/initial-scale": "0"})
    made["spec"]["predictor"] |= {"timeout": TIMEOUT_S, "nodeSelector": {"pool": pool}}
    return made


def timed_out(gateway: Gateway, model: str) -> str:
    """What a request is told that waited for a node in vain."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        gateway.ask(model)
    assert caught.value.code == 504
    assert int(caught.value.headers["Retry-After"]) == RETRY_AFTER_S
    message: str = json.loads(caught.value.__notes__[0])["error"]["message"]
    assert "waits for a node: 0/" in message
    return message


def test_a_request_that_waits_for_a_node_is_told_what_the_pool_can_still_give(gateway: Gateway) -> None:
    apply(gateway, waiting("growing", "h100"))
    message = timed_out(gateway, "growing")
    assert "pool h100 (coreweave) can still give 3 nodes; 0 nodes are there; one takes 5 to 15 minutes" in message
    assert "spare" not in message
    (told,) = [
        event["message"]
        for event in gateway.call("GET", "/api/v1/events?service=growing")
        if event["reason"] == "Unschedulable" and "can still give" in event["message"]
    ]
    assert "pool h100" in told


def test_a_pool_at_zero_is_told_as_one(gateway: Gateway) -> None:
    apply(gateway, waiting("starved", "spare"))
    assert "pool spare (karpenter) is set to no nodes at all" in timed_out(gateway, "starved")


def test_describe_says_what_the_pool_gives_and_what_an_empty_node_costs(
    pools: Cluster, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(gateway, waiting("described", "h100"))
    monkeypatch.setenv("KUBECONFIG", str(pools.kubeconfig))
    given, cost = nodes_told("test", NAMESPACE, "described")
    assert (
        given == "Pool h100 (coreweave) can still give 3 nodes; 0 nodes are there; one takes 5 to 15 minutes to come."
    )
    assert cost.startswith("Pool h100: an empty node of it costs 49.24 USD an hour at list price, until its autoscaler")
    assert cost.endswith("takes it away after 10m by the default of the cluster autoscaler, which is 8.21 USD.")


def test_the_cluster_role_of_an_installation_is_enough_and_without_it_that_is_said(
    pools: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kubectl(pools, "create", "serviceaccount", "looker", "-n", NAMESPACE)
    (token,) = kubectl(pools, "create", "token", "looker", "-n", NAMESPACE)
    target = load([pools.kubeconfig]).target("test")
    looker = replace(target, user=User(name="looker", token=token))

    async def read() -> Any:
        async with Client(looker) as client:
            return await read_pools(client)

    assert asyncio.run(read()).unlisted == ("nodes",)
    config = json.loads(pools.kubeconfig.read_text())
    config["users"] = [{"name": "test", "user": {"token": token}}]
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    (said,) = nodes_told("test", NAMESPACE, "described")
    assert "you may not list nodes" in said
    made = roles.cluster_role(NAMESPACE)
    kubectl(pools, "apply", "-f", "-", text=json.dumps(made))
    bound = (f"--clusterrole={made['metadata']['name']}", f"--serviceaccount={NAMESPACE}:looker")
    kubectl(pools, "create", "clusterrolebinding", "looker", *bound)
    wait_until(lambda: not asyncio.run(read()).unlisted)
    assert {"h100", "spare"} <= {pool.name for pool in asyncio.run(read()).pools}
    kubectl(pools, "delete", "clusterrolebinding", "looker")
    kubectl(pools, "delete", "clusterrole", made["metadata"]["name"])


def test_an_autoscalers_own_words_are_found_in_the_events_of_a_pod(pools: Cluster) -> None:
    def post(who: str, message: str) -> None:
        event = {
            "metadata": {"generateName": "said-", "namespace": NAMESPACE},
            "involvedObject": {"kind": "Pod", "name": "some-pod", "namespace": NAMESPACE},
            "source": {"component": who},
            "reason": "TriggeredScaleUp",
            "message": message,
            "type": "Normal",
        }
        pools.request("POST", f"/api/v1/namespaces/{NAMESPACE}/events", event)

    post("default-scheduler", "0/1 nodes are available")
    post("cluster-autoscaler", "pod triggered scale-up: [{h100 0->1 (max: 3)}]")

    async def ask(pod: str) -> str:
        async with Client(load([pools.kubeconfig]).target("test")) as client:
            return await said_of(client, NAMESPACE, pod)

    assert asyncio.run(ask("some-pod")) == "cluster-autoscaler: pod triggered scale-up: [{h100 0->1 (max: 3)}]"
    assert asyncio.run(ask("other-pod")) == ""
