"""The contract of all backends, held by pods: with a kubelet that is played, and the heart of it with a real one."""

from __future__ import annotations

import asyncio
import urllib.error
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.backends import contract
from tests.kube.cluster import Cluster, free_ports, kubectl
from tests.kube.image import ENGINE
from tests.kube.kubelet import RealNode
from tests.kube.manifests import inference_service
from tests.kube.pod_engines import BROKEN, PodEngines

from ironloom.backends.kubernetes.backend import KubernetesBackend
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.kubeconfig import load
from ironloom.serve.replica import Replica
from ironloom.workload.manifests.read import parse_object
from ironloom.workload.serving import Serving

pytestmark = pytest.mark.kube
NAMESPACE = "contract"
KINDS = (
    "/apis/apps/v1/namespaces/{namespace}/deployments",
    "/apis/apps/v1/namespaces/{namespace}/replicasets",
    "/api/v1/namespaces/{namespace}/services",
    "/api/v1/namespaces/{namespace}/pods",
    "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
)
REAL = (
    contract.an_order_brings_so_many_ready_replicas_that_answer_at_addresses_of_their_own,
    contract.a_replica_that_dies_is_replaced,
    contract.what_cannot_start_is_told_with_what_to_hope_for_until_it_is_mended,
    contract.what_runs_is_adopted_by_the_next_one_and_not_doubled,
)


class Namespace:
    """A Ground: one of a cluster. `container` are fields of the engine's."""

    def __init__(self, cluster: Cluster, name: str, *, port: int, **container: Any) -> None:
        self._cluster, self._name, self._port = cluster, name, port
        self._container = container

    @asynccontextmanager
    async def backend(self) -> AsyncIterator[KubernetesBackend]:
        yield KubernetesBackend(Client(load([self._cluster.kubeconfig]).target("test")), namespace=self._name)

    async def declare(self, serving: Serving) -> None:
        """Nothing: what was declared lies elsewhere."""

    def serving(self, name: str) -> Serving:
        return parse_object(inference_service(name, port=self._port, **self._container))

    def broken(self, name: str) -> Serving:
        container = {**self._container, "image": BROKEN, "imagePullPolicy": "Never"}
        return parse_object(inference_service(name, port=self._port, **container))

    def unfit(self, name: str) -> Serving:
        made = inference_service(name)
        made["metadata"]["namespace"] = "elsewhere"
        return parse_object(made)

    async def kill(self, replica: Replica) -> None:
        path = f"/api/v1/namespaces/{self._name}/pods/{replica.id}"
        await asyncio.to_thread(self._cluster.request, "DELETE", path, {"gracePeriodSeconds": 0})

    async def left(self, service: str) -> list[str]:
        return await asyncio.to_thread(self._left, service)

    def _left(self, service: str) -> list[str]:
        found = []
        for path in KINDS:
            listed = self._cluster.request("GET", path.format(namespace=self._name))["items"]
            found += [
                f"{path.rpartition('/')[2]}/{one['metadata']['name']}"
                for one in listed
                if one["metadata"].get("labels", {}).get("ironloom.dev/service") == service
            ]
        return found


def make_namespace(cluster: Cluster) -> None:
    try:
        cluster.request("GET", f"/api/v1/namespaces/{NAMESPACE}")
    except urllib.error.HTTPError:
        kubectl(cluster, "create", "namespace", NAMESPACE)


@pytest.fixture(scope="module")
def played(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    if not cluster.nodes:
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})
    make_namespace(cluster)
    (port,) = free_ports(1)
    with PodEngines(cluster, NAMESPACE, port, tmp_path_factory.mktemp("engines")):
        yield Namespace(cluster, NAMESPACE, port=port)


@pytest.fixture(scope="module")
def real(kubelet_cluster: Cluster, node: RealNode) -> Namespace:
    make_namespace(kubelet_cluster)
    return Namespace(kubelet_cluster, NAMESPACE, port=8000, image=ENGINE)


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_the_contract(check: Any, played: Namespace) -> None:
    contract.run(check, played)


@pytest.mark.parametrize("check", REAL, ids=lambda check: check.__name__)
def test_the_contract_with_a_real_kubelet(check: Any, real: Namespace) -> None:
    contract.run(check, real)
