"""What a service's rendering asks of an API server, and what it makes of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tests.backends.kubernetes.conftest import WriteKubeconfig, node, pod
from tests.fakes.kube_api import KubeApi, status

from ironloom.backends.kubernetes import kubeconfig
from ironloom.backends.kubernetes.capabilities import Capabilities
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.rendering import Rendered, Renderer
from ironloom.workload.manifests.read import parse_object

FORBIDDEN = status(403, "Forbidden", 'pods is forbidden: User "ada" cannot list resource "pods"')


@pytest.fixture
def api() -> Iterator[KubeApi]:
    made = KubeApi({"/api/v1/nodes": [node("n1")], "/api/v1/pods": [pod("other", "n1", 1)]})
    made.always["/api/v1/namespaces/default/secrets/hf-token"] = status(404, "NotFound", "there is none")
    with made.running():
        yield made


def rendered(
    api: KubeApi, write_kubeconfig: WriteKubeconfig, *parts: str, num_gpus: int = 8, model: str = "owner/name",
    seen_start_s: float | None = None, times: int = 1,
) -> Rendered:  # fmt: skip
    write_kubeconfig(api.url)
    resources: dict[str, Any] = {"limits": {"nvidia.com/gpu": str(num_gpus)}} if num_gpus else {}
    container = {
        "name": "kserve-container",
        "image": "vllm/vllm-openai:v0.26.0",
        "args": ["--model", model],
        "resources": resources,
    }
    serving = parse_object(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": "a"},
            "spec": {"predictor": {"minReplicas": 0, "containers": [container]}},
        }
    )

    async def run() -> Rendered:
        async with Client(kubeconfig.load().target("prod")) as client:
            has = Capabilities(versions=dict.fromkeys(parts, "v1"))
            renderer = Renderer(client, namespace="default", capabilities=has)
            for _ in range(times):
                made = await renderer.render(serving, 1, seen_start_s=seen_start_s)
            return made

    return asyncio.run(run())


def turns(made: Rendered) -> bool:
    """Whether a rollout ends the old replica first."""
    return bool(made.objects[0]["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0)


def startup_s(made: Rendered) -> int:
    probe = made.objects[0]["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    return int(probe["failureThreshold"] * probe["periodSeconds"])


def test_room_is_counted_over_the_nodes_and_pods_of_the_cluster(
    api: KubeApi, write_kubeconfig: WriteKubeconfig
) -> None:
    made = rendered(api, write_kubeconfig)
    assert turns(made)
    assert [note for note in made.notes if "room for 0 of its replicas of 8 nvidia.com/gpu" in note]
    api.objects["/api/v1/nodes"] += [node("n2"), node("n3")]
    made = rendered(api, write_kubeconfig)
    assert not turns(made)
    assert made.notes == ()


@pytest.mark.parametrize(
    ("forbidden", "told"),
    [
        pytest.param(
            ["pods"],
            ["pods of all namespaces may not be listed: the new replica of a rollout starts first"],
            id="pods of all namespaces",
        ),
        pytest.param(
            ["nodes", "pods"], ["nodes may not be listed: none of their taints is tolerated, and the new"], id="both"
        ),
    ],
)
def test_what_may_not_be_listed_is_not_counted_and_said_with_what_allows_it(
    api: KubeApi, write_kubeconfig: WriteKubeconfig, forbidden: list[str], told: list[str]
) -> None:
    for kind in forbidden:
        api.always[f"/api/v1/{kind}"] = FORBIDDEN
    made = rendered(api, write_kubeconfig)
    assert not turns(made)
    assert len(made.notes) == len(told)
    for note, beginning in zip(made.notes, told, strict=True):
        assert note.startswith(beginning)
        assert note.endswith("`ironloom install --cluster-reads` gives the gateway the right to")


def test_where_nodes_are_made_on_demand_a_forbidden_list_of_them_costs_the_taints_alone(
    api: KubeApi, write_kubeconfig: WriteKubeconfig
) -> None:
    api.always["/api/v1/nodes"] = FORBIDDEN
    [note] = rendered(api, write_kubeconfig, "Karpenter").notes
    assert note.startswith("nodes may not be listed: none of their taints is tolerated; ")


def test_a_secret_that_may_not_be_looked_at_is_told_and_one_that_is_not_there_is_not(
    api: KubeApi, write_kubeconfig: WriteKubeconfig
) -> None:
    assert rendered(api, write_kubeconfig, num_gpus=0).notes == ()
    api.always["/api/v1/namespaces/default/secrets/hf-token"] = FORBIDDEN
    [note] = rendered(api, write_kubeconfig, num_gpus=0).notes
    assert note.startswith("Secret hf-token may not be looked at: its token is left out")


def test_a_right_that_was_given_since_counts_without_waiting_for_a_minute(
    api: KubeApi, write_kubeconfig: WriteKubeconfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ironloom.backends.kubernetes.rendering.KEPT_S", 0.0)
    api.faults["/api/v1/nodes"] = [FORBIDDEN] * 3
    made = rendered(api, write_kubeconfig, times=2)
    assert turns(made)
    assert not any("may not be listed" in note for note in made.notes)


@pytest.mark.parametrize("part", ["Karpenter", "CoreWeave node pools"])
def test_where_nodes_are_made_on_demand_there_is_room(
    api: KubeApi, write_kubeconfig: WriteKubeconfig, part: str
) -> None:
    assert not turns(rendered(api, write_kubeconfig, part))


def test_a_service_without_gpus_asks_for_neither_nodes_nor_pods(
    api: KubeApi, write_kubeconfig: WriteKubeconfig
) -> None:
    assert not turns(rendered(api, write_kubeconfig, num_gpus=0))
    assert not {"/api/v1/nodes", "/api/v1/pods"} & set(api.paths())


def test_services_that_are_applied_one_after_the_other_count_once(
    api: KubeApi, write_kubeconfig: WriteKubeconfig
) -> None:
    rendered(api, write_kubeconfig, times=5)
    assert api.paths().count("/api/v1/pods") == 1


def test_a_first_start_is_predicted_of_a_model_that_is_known_by_name_until_one_was_seen(
    api: KubeApi, write_kubeconfig: WriteKubeconfig
) -> None:
    known = "meta-llama/Llama-3.1-70B-Instruct"
    assert startup_s(rendered(api, write_kubeconfig, model=known)) > 3 * 600
    assert startup_s(rendered(api, write_kubeconfig, model=known, seen_start_s=60)) == 600
    assert startup_s(rendered(api, write_kubeconfig)) == 600
