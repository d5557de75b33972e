"""A service that KEDA scales: its definitions, its HorizontalPodAutoscaler acted on by the real controller, and what
KEDA itself writes at zero under its name. Ironloom keeps its hands off, says so, and takes the count back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.kube import controllers
from tests.kube.cluster import Cluster, kubectl
from tests.kube.test_backend import deployment, opened, run, serving, until

from ironloom.serve.replica import ScaleOrder

pytestmark = pytest.mark.kube
SCALED = "/apis/keda.sh/v1alpha1/namespaces/default/scaledobjects"
HPAS = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
MERGE = "application/merge-patch+json"
NAME = "driven"
TARGET = {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME}


@pytest.fixture(scope="module")
def with_keda(cluster: Cluster) -> Iterator[Cluster]:
    if absent := controllers.absent([], ["keda"]):
        pytest.skip(f"no {absent[0]}: run scripts/setup_kubernetes")
    if not cluster.nodes:
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})
    names = controllers.define(cluster, "keda")
    yield cluster
    controllers.undefine(cluster, names)


def scaled_object(cluster: Cluster) -> dict[str, Any]:
    """As a person writes it, for a service that Ironloom applied."""
    hours = {"timezone": "UTC", "start": "0 8 * * *", "end": "0 18 * * *", "desiredReplicas": "2"}
    spec = {"scaleTargetRef": TARGET, "minReplicaCount": 0, "maxReplicaCount": 4,
            "triggers": [{"type": "cron", "metadata": hours}]}  # fmt: skip
    kind = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject"}
    made: dict[str, Any] = cluster.request("POST", SCALED, {**kind, "metadata": {"name": NAME}, "spec": spec})
    return made


def keda_writes(cluster: Cluster, number: int) -> None:
    """What its operator does from zero to one and back, which no HorizontalPodAutoscaler can."""
    path = f"/apis/apps/v1/namespaces/default/deployments/{NAME}/scale?fieldManager=keda"
    cluster.request("PATCH", path, {"spec": {"replicas": number}}, content=MERGE)


def keda_makes(cluster: Cluster, owner: dict[str, Any]) -> None:
    """Its HorizontalPodAutoscaler for all above one."""
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": NAME,
                 "uid": owner["metadata"]["uid"], "controller": True}  # fmt: skip
    metric = {"type": "External", "external": {"metric": {"name": "s0-cron"}, "target": {"type": "AverageValue",
              "averageValue": "1"}}}  # fmt: skip
    cluster.request(
        "POST",
        HPAS,
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": f"keda-hpa-{NAME}", "ownerReferences": [reference]},
            "spec": {"scaleTargetRef": TARGET, "minReplicas": 2, "maxReplicas": 4, "metrics": [metric]},
        },
    )


def test_a_count_that_keda_writes_is_left_to_it_at_zero_and_above_until_it_is_given_back(with_keda: Cluster) -> None:
    def count() -> int:
        return int(deployment(with_keda, NAME)["spec"]["replicas"])

    async def story() -> None:
        async with opened(with_keda) as (backend, seen):
            assert backend.capabilities.has("KEDA")
            await backend.apply(serving(NAME), 1)
            owner = scaled_object(with_keda)
            keda_writes(with_keda, 1)
            backend.scale(NAME, ScaleOrder(num_ready=3))
            await seen.until(NAME, lambda one: "its scale is left alone: keda writes it" in one.notes)
            assert count() == 1

            keda_makes(with_keda, owner)
            await until(lambda: count() == 2)
            backend.scale(NAME, ScaleOrder(num_ready=1))
            await seen.until(NAME, lambda one: any("kube-controller-manager writes it" in note for note in one.notes))
            assert count() == 2

            # The owner goes, and with it what it made; the next count is a person's.
            with_keda.request("DELETE", f"{SCALED}/{NAME}")
            await until(lambda: not with_keda.request("GET", HPAS)["items"])
            kubectl(with_keda, "scale", f"deployment/{NAME}", "--replicas=3")
            backend.scale(NAME, ScaleOrder(num_ready=2))
            await until(lambda: count() == 2)
            await seen.until(NAME, lambda one: not any("left alone" in note for note in one.notes))
            await backend.delete(NAME)

    run(story())
