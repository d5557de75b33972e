"""The real LeaderWorkerSet controller beside a test's control plane."""

from __future__ import annotations

from tests.kube import controllers
from tests.kube.cluster import Cluster

SETS = "/apis/leaderworkerset.x-k8s.io/v1/namespaces/default/leaderworkersets"
OTHERS = "disaggregatedset"
"""A kind of the same project that no test has."""


def missing_lws() -> list[str]:
    """The program and definitions that are not there."""
    return controllers.absent(["lws"], ["lws", "lws-webhook"])


def start(cluster: Cluster) -> None:
    """The manager, once it answers its webhooks."""
    controllers.start_manager(
        cluster,
        "lws",
        group="config.lws.x-k8s.io",
        service="lws-webhook-service.lws-system.svc",
        pods_of="leaderworkerset.sigs.k8s.io/name",
        takes=lambda hook: OTHERS not in hook["name"],
        probe={
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "spec": {"leaderWorkerTemplate": {"workerTemplate": {"spec": {"containers": []}}}},
        },
    )
