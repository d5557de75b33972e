"""What of its cluster a replica over several nodes is made with, and what is said of the queue that a service names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tests.backends.kubernetes.conftest import WriteKubeconfig, node
from tests.fakes.kube_api import Answer, KubeApi, status

from ironloom.backends.kubernetes import kubeconfig
from ironloom.backends.kubernetes.capabilities import Capabilities
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.rendering import Rendered, Renderer
from ironloom.workload.manifests.read import parse_object

FORBIDDEN = status(403, "Forbidden", 'nodes is forbidden: User "ada" cannot list resource "nodes"')
ASKED = "each pod asks for rdma/ib: 1, which its nodes offer"
GROUP = {"tensorParallelSize": 8, "pipelineParallelSize": 2}


def wired(name: str) -> dict[str, Any]:
    made = node(name)
    made["status"]["allocatable"]["rdma/ib"] = "1"
    return made


@pytest.fixture
def api() -> Iterator[KubeApi]:
    made = KubeApi({"/api/v1/nodes": [wired("n1"), wired("n2")]})
    made.always["/api/v1/namespaces/default/secrets/hf-token"] = status(404, "NotFound", "there is none")
    with made.running():
        yield made


def rendered(
    api: KubeApi, write_kubeconfig: WriteKubeconfig, *parts: str, worker: dict[str, int] | None = None, queue: str = ""
) -> Rendered:
    write_kubeconfig(api.url)
    model = {
        "modelFormat": {"name": "huggingface"},
        "storageUri": "hf://owner/name",
        "resources": {"limits": {"nvidia.com/gpu": "8"}},
    }
    predictor: dict[str, Any] = {"minReplicas": 0, "model": model, **({"workerSpec": worker} if worker else {})}
    labels = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    kind = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
    serving = parse_object({**kind, "metadata": {"name": "a", "labels": labels}, "spec": {"predictor": predictor}})

    async def run() -> Rendered:
        async with Client(kubeconfig.load().target("prod")) as client:
            has = Capabilities(versions=dict.fromkeys(parts, "v1"))
            return await Renderer(client, namespace="default", capabilities=has).render(serving, 1)

    return asyncio.run(run())


def containers(made: Rendered) -> list[dict[str, Any]]:
    group = made.objects[0]["spec"]["leaderWorkerTemplate"]
    return [group[role]["spec"]["containers"][0] for role in ("leaderTemplate", "workerTemplate")]


def test_all_pods_of_a_group_ask_for_the_fabric_of_their_nodes(api: KubeApi, write_kubeconfig: WriteKubeconfig) -> None:
    made = rendered(api, write_kubeconfig, "LeaderWorkerSet", worker=GROUP)
    for one in containers(made):
        assert one["resources"]["limits"]["rdma/ib"] == "1"
        assert one["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]
    assert ASKED in made.notes
    assert sum("LeaderWorkerSet" in note for note in made.notes) == 1, "said once, though it was rendered again"


def test_memory_is_not_locked_in_a_namespace_that_forbids_it(api: KubeApi, write_kubeconfig: WriteKubeconfig) -> None:
    labels = b'{"pod-security.kubernetes.io/enforce":"restricted"}'
    body = b'{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"default","labels":%s}}' % labels
    api.always["/api/v1/namespaces/default"] = Answer(200, body)
    made = rendered(api, write_kubeconfig, "LeaderWorkerSet", worker=GROUP)
    assert all("securityContext" not in one for one in containers(made))
    assert "without IPC_LOCK: namespace default enforces the pod security level restricted" in made.notes


def test_where_nodes_may_not_be_listed_no_fabric_is_asked_for_and_that_is_said(
    api: KubeApi, write_kubeconfig: WriteKubeconfig
) -> None:
    api.always["/api/v1/nodes"] = FORBIDDEN
    made = rendered(api, write_kubeconfig, "LeaderWorkerSet", worker=GROUP)
    assert all("rdma/ib" not in one["resources"]["limits"] for one in containers(made))
    (said,) = [note for note in made.notes if "no RDMA is asked for" in note]
    assert said.startswith("nodes may not be listed: ")


def test_a_replica_of_one_node_asks_for_no_fabric(api: KubeApi, write_kubeconfig: WriteKubeconfig) -> None:
    made = rendered(api, write_kubeconfig, "LeaderWorkerSet")
    [container] = made.objects[0]["spec"]["template"]["spec"]["containers"]
    assert "rdma/ib" not in container["resources"]["limits"]
    assert ASKED not in made.notes


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ((), "queue gpus is not honoured: the cluster has no Kueue"),
        (("Kueue",), "queue gpus admits each of its pods, where Kueue looks after Deployments: zero gives quota back"),
    ],
)
def test_what_becomes_of_a_queue_is_said(
    parts: tuple[str, ...], said: str, api: KubeApi, write_kubeconfig: WriteKubeconfig
) -> None:
    made = rendered(api, write_kubeconfig, *parts, queue="gpus")
    assert said in made.notes
    assert made.objects[0]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert not any("queue" in note for note in rendered(api, write_kubeconfig, *parts).notes)
