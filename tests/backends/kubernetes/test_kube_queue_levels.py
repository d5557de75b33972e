"""The topology of a queue, as it is read of a cluster."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.backends.kubernetes.conftest import WriteKubeconfig
from tests.fakes.kube_api import KINDS, Answer, KubeApi

from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.kubeconfig import load
from ironloom.backends.kubernetes.queue_levels import finest, queue_levels, read_queues
from ironloom.fleet.model import Fleet

ROOT = "/apis/kueue.x-k8s.io/v1beta2"
VERSIONS = {"Kueue": "v1beta2", "Kueue topologies": "v1beta2"}
LEVELS = ("fabric", "leaf", "kubernetes.io/hostname")
OBJECTS: dict[str, list[dict[str, Any]]] = {
    f"{ROOT}/namespaces/ml/localqueues": [
        {"metadata": {"name": "gpus", "namespace": "ml"}, "spec": {"clusterQueue": "all"}}
    ],
    f"{ROOT}/clusterqueues": [
        {
            "metadata": {"name": "all"},
            "spec": {
                "resourceGroups": [
                    {"flavors": [{"name": "h100", "resources": [{"name": "nvidia.com/gpu", "nominalQuota": 80}]}]}
                ]
            },
        }
    ],
    f"{ROOT}/resourceflavors": [{"metadata": {"name": "h100"}, "spec": {"topologyName": "ib"}}],
    f"{ROOT}/topologies": [{"metadata": {"name": "ib"}, "spec": {"levels": [{"nodeLabel": one} for one in LEVELS]}}],
}
SERVED = dict.fromkeys(OBJECTS, ("Any", False))
FORBIDDEN = Answer(403, b'{"kind":"Status","reason":"Forbidden","message":"no"}')


def read(write: WriteKubeconfig, **always: Answer) -> Fleet:
    async def ask(url: str) -> Fleet:
        async with Client(load([write(url)]).target("prod")) as client:
            return await read_queues(client, "ml", VERSIONS)

    with KubeApi({path: list(found) for path, found in OBJECTS.items()}, kinds={**KINDS, **SERVED}).running() as api:
        body = b'{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"ml","labels":{"enforce":"baseline"}}}'
        api.always["/api/v1/namespaces/ml"] = Answer(200, body)
        api.always.update(always)
        return asyncio.run(ask(api.url))


def test_the_levels_of_a_queue_are_those_of_its_flavors_topology(write_kubeconfig: WriteKubeconfig) -> None:
    found = read(write_kubeconfig)
    assert queue_levels(found, "ml", "gpus") == LEVELS
    assert finest(LEVELS) == "leaf"
    assert queue_levels(found, "ml", "other") == ()
    assert dict(found.namespace_labels["ml"]) == {"enforce": "baseline"}


def test_what_may_not_be_read_is_left_out(write_kubeconfig: WriteKubeconfig) -> None:
    forbidden = {"/api/v1/namespaces/ml": FORBIDDEN, f"{ROOT}/topologies": FORBIDDEN}
    found = read(write_kubeconfig, **forbidden)
    assert queue_levels(found, "ml", "gpus") == ()
    assert not found.namespace_labels.get("ml")
    assert [one.name for one in found.local_queues] == ["gpus"]
