"""The real LeaderWorkerSet controller beside a test's control plane, built by scripts/setup_kubernetes. As those of
`queueing` it runs outside of the cluster, under a certificate made here."""

from __future__ import annotations

import json

from tests.kube import queueing
from tests.kube.cluster import Cluster, cache, free_ports

SETS = "/apis/leaderworkerset.x-k8s.io/v1/namespaces/default/leaderworkersets"
OTHERS = "disaggregatedset"
"""A kind of the same project that no test has."""


def missing_lws() -> list[str]:
    """The program and definitions that are not there."""
    wanted = [cache() / "bin" / "lws", cache() / "crds" / "lws", cache() / "crds" / "lws-webhook"]
    return [path.name for path in wanted if not path.exists()]


def start(cluster: Cluster) -> None:
    """The manager, once it answers its webhooks."""
    folder = cluster.folder / "lws"
    authority = queueing._certificate(folder, "lws-webhook-service.lws-system.svc")
    port, health = free_ports(2)
    queueing.define(cluster, "lws")
    config = {
        "apiVersion": "config.lws.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": str(folder)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    for one in queueing._webhooks("lws-webhook"):
        one["webhooks"] = [hook for hook in one["webhooks"] if OTHERS not in hook["name"]]
        for hook in one["webhooks"]:
            queueing._point(hook["clientConfig"], port, authority)
            if hook["rules"][0]["resources"] == ["pods"]:
                named = {"key": "leaderworkerset.sigs.k8s.io/name", "operator": "Exists"}
                hook["objectSelector"] = {"matchExpressions": [named]}
        one["metadata"]["name"] = f"lws-{one['metadata']['name']}"
        queueing._create(cluster, one)
    queueing._begin(cluster, "lws", "--config", str(folder / "config.json"))
    probe = {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "probe"},
        "spec": {"leaderWorkerTemplate": {"workerTemplate": {"spec": {"containers": []}}}},
    }
    queueing._until_taken(cluster, f"{SETS}?dryRun=All", probe, "lws")
