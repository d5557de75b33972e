"""What is asked of a real API server, by its audit log: no write that says what is there, and one for a decision."""

from __future__ import annotations

import asyncio
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.kube.cluster import Cluster
from tests.kube.gateway import SHORT, apply, running
from tests.kube.manifests import inference_service
from tests.kube.test_backend import deployment, node, opened, run, serving, until

from ironloom.backends.kubernetes.inventory import NUM_SINGLY
from ironloom.backends.kubernetes.names import GENERATION_LABEL, MANAGER, SCALE_MANAGER
from ironloom.serve.replica import ScaleOrder

pytestmark = pytest.mark.kube
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
APPLY = "application/apply-patch+yaml"

__all__ = ["node"]
"""The fixture: every service here finds its GPUs."""


def asked(cluster: Cluster, name: str) -> Counter[str]:
    """Requests for objects of this name, as `patch deployments/scale`."""
    found: Counter[str] = Counter()
    for one in cluster.requests_of("ironloom/"):
        about = one.get("objectRef") or {}
        if about.get("name") == name:
            found[f"{one['verb']} {'/'.join([about['resource'], *filter(None, [about.get('subresource')])])}"] += 1
    return found


def writes(cluster: Cluster, name: str) -> dict[str, int]:
    """Those that only read left out: there may be one more look on a slow machine."""
    return {what: number for what, number in asked(cluster, name).items() if not what.startswith("get ")}


def owner_of_count(one: dict[str, Any]) -> list[str]:
    return [
        entry["manager"]
        for entry in one["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    ]


def test_a_new_service_is_written_in_one_request_a_decision_is_one_and_the_first_replica_two_more(
    cluster: Cluster,
) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            await backend.apply(serving("counted"), 1)
            backend.scale("counted", ScaleOrder(num_ready=0))  # that is so already
            made = {"patch deployments": 1}
            await until(lambda: writes(cluster, "counted") == made)
            backend.scale("counted", ScaleOrder(num_ready=1))
            # The count is asked for, and taken over where nobody but the manager of the rest had it.
            made |= {"patch deployments/scale": 2, "patch services": 1}
            for number in (0, 1, 0):
                await until(lambda: writes(cluster, "counted") == made)
                backend.scale("counted", ScaleOrder(num_ready=number))
                made["patch deployments/scale"] += 1
            await until(lambda: writes(cluster, "counted") == made)
            assert deployment(cluster, "counted")["spec"]["replicas"] == 0
            await backend.delete("counted")

    run(story())


def test_a_gateway_that_begins_anew_knows_the_count_and_does_not_write_it_again(cluster: Cluster) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            await backend.apply(serving("kept"), 1)
            backend.scale("kept", ScaleOrder(num_ready=1))
            await until(lambda: deployment(cluster, "kept")["spec"]["replicas"] == 1)
            await until(lambda: asked(cluster, "kept")["patch deployments/scale"] >= 2)
            written = asked(cluster, "kept")["patch deployments/scale"]
        async with opened(cluster) as (backend, _):
            await backend.apply(serving("kept"), 1)
            backend.scale("kept", ScaleOrder(num_ready=1))
            for _ in range(10):  # what it would write for this order comes before the next one's
                await asyncio.sleep(0)
            backend.scale("kept", ScaleOrder(num_ready=2))
            await until(lambda: deployment(cluster, "kept")["spec"]["replicas"] == 2)
            await until(lambda: asked(cluster, "kept")["patch deployments/scale"] == written + 1)
            await backend.delete("kept")

    run(story())


def test_a_count_of_zero_stays_with_the_manager_of_the_rest_until_it_is_scaled_and_no_apply_changes_it(
    cluster: Cluster,
) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            labels = {"ironloom.dev/service": "cut"}
            template = {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "kserve-container", "image": "vllm/vllm-openai:v0.26.0"}]},
            }
            half = {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "cut", "labels": labels},
                "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
            }
            cluster.request("PATCH", f"{DEPLOYMENTS}/cut?fieldManager={MANAGER}", half, content=APPLY)
            assert owner_of_count(deployment(cluster, "cut")) == [MANAGER]
            for generation in (1, 2):
                await backend.apply(serving("cut"), generation)
                made = deployment(cluster, "cut")
                assert made["spec"]["replicas"] == 0
                assert owner_of_count(made) == [MANAGER]
            backend.scale("cut", ScaleOrder(num_ready=1))
            await until(lambda: owner_of_count(deployment(cluster, "cut")) == [SCALE_MANAGER])
            await backend.apply(serving("cut"), 3)
            made = deployment(cluster, "cut")
            assert (made["spec"]["replicas"], owner_of_count(made)) == (1, [SCALE_MANAGER])
            await backend.delete("cut")

    run(story())


def test_an_apply_that_a_scale_overtakes_leaves_the_count_to_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with opened(cluster) as (backend, _):
            await backend.apply(serving("overtaken"), 1)
            apply_as_is = backend._client.apply

            async def late(path: str, body: Any, **more: Any) -> bytes:
                monkeypatch.setattr(backend._client, "apply", apply_as_is)
                scale = {
                    "apiVersion": "autoscaling/v1",
                    "kind": "Scale",
                    "metadata": {"name": "overtaken"},
                    "spec": {"replicas": 1},
                }
                where = f"{DEPLOYMENTS}/overtaken/scale?fieldManager={SCALE_MANAGER}&force=true"
                await asyncio.to_thread(cluster.request, "PATCH", where, scale, content=APPLY)
                return await apply_as_is(path, body, **more)

            monkeypatch.setattr(backend._client, "apply", late)
            await backend.apply(serving("overtaken", timeout=60), 2)
            made = deployment(cluster, "overtaken")
            assert (made["spec"]["replicas"], owner_of_count(made)) == (1, [SCALE_MANAGER])
            assert made["spec"]["template"]["metadata"]["labels"][GENERATION_LABEL] == "2"
            await backend.delete("overtaken")

    run(story())


def test_many_services_are_looked_for_in_lists_and_what_was_there_of_their_names_is_removed(
    cluster: Cluster,
) -> None:
    async def story() -> None:
        names = [f"many-{number}" for number in range(NUM_SINGLY * 3)]
        old = {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": names[-1], "labels": {"ironloom.dev/service": names[-1]}},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}},
        }
        budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
        cluster.request("POST", budgets, old)
        async with opened(cluster) as (backend, _):
            for name in names:
                await backend.apply(serving(name), 1)
            left = {one["metadata"]["name"] for one in cluster.request("GET", budgets)["items"]}
            assert names[-1] not in left
            singly = sum(asked(cluster, name)["get poddisruptionbudgets"] for name in names)
            assert singly < len(names)
            for name in names:
                await backend.delete(name)
            found = {one["metadata"]["name"] for one in cluster.request("GET", DEPLOYMENTS)["items"]}
            assert not found.intersection(names)

    run(story())


def test_a_gateway_tells_in_its_metrics_what_it_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    with running(cluster, tmp_path) as gateway:
        apply(gateway, inference_service("told", SHORT))
        with urllib.request.urlopen(f"{gateway.url}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        assert 'ironloom_kubernetes_requests_total{verb="patch",resource="deployments"} 1' in lines
        assert 'ironloom_kubernetes_requests_total{verb="watch",resource="pods"} 1' in lines
        gateway.call("DELETE", "/api/v1/services/told")
