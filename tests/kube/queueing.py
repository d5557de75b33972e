"""The real Kueue and JobSet controllers beside a test's control plane, and a queue of its GPUs."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from tests.kube import controllers
from tests.kube.cluster import Cluster, free_ports

KUEUE = "/apis/kueue.x-k8s.io/v1beta2"
KUEUE_NAMESPACE = "kueue-system"
KUEUE_WEBHOOKS = "kueue-webhook-service"
CONVERTED = frozenset({"localqueues", "clusterqueues", "workloads", "cohorts", "multikueueclusters"})
"""Kueue's kinds that it serves in two versions."""
FRAMEWORKS = {
    "jobs": "batch/job",
    "jobsets": "jobset.x-k8s.io/jobset",
    "pods": "pod",
    "deployments": "deployment",
    "leaderworkersets": "leaderworkerset.x-k8s.io/leaderworkerset",
}
"""By resource: of the kinds that Kueue could look after, those that these tests have."""
LEAF = "backend.coreweave.cloud/leafgroup"
FABRIC = "backend.coreweave.cloud/fabric"
QUEUE = "gpus"
CLUSTER_QUEUE = "all"
NODES = {"a": 4, "b": 3}
"""Leaf group, and its nodes of 8 GPUs."""


def missing_controllers() -> list[str]:
    """Programs and definitions that are not there."""
    definitions = ["kueue", "kueue-webhook", "jobset", "jobset-webhook", "trainer"]
    return controllers.absent(["kueue", "jobset"], definitions)


def start_jobset(cluster: Cluster) -> None:
    """JobSet's manager, once it answers its webhooks."""
    controllers.start_manager(
        cluster,
        "jobset",
        group="config.jobset.x-k8s.io",
        service="jobset-webhook-service.jobset-system.svc",
        pods_of="jobset.sigs.k8s.io/jobset-name",
        probe={"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "spec": {"replicatedJobs": []}},
    )


def start_kueue(cluster: Cluster) -> None:
    """Kueue's manager, once it answers its webhooks. Its own certificates are kept by itself, so that it is given some
    that it finds good: they stand in the Secret that it reads, and in the folder that a Secret would be mounted at."""
    folder = cluster.folder / "kueue"
    authority = controllers.certificate(folder, f"{KUEUE_WEBHOOKS}.{KUEUE_NAMESPACE}.svc")
    port, health, metrics = free_ports(3)
    controllers.create(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": KUEUE_NAMESPACE}})
    files = {name: (folder / name).read_bytes() for name in ("ca.crt", "ca.key", "tls.crt", "tls.key")}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "kueue-webhook-server-cert", "namespace": KUEUE_NAMESPACE},
        "data": {name: base64.b64encode(content).decode() for name, content in files.items()},
    }
    controllers.create(cluster, secret)

    def convert(definition: dict[str, Any]) -> None:
        if definition["spec"]["names"]["plural"] in CONVERTED:
            client: dict[str, Any] = {"service": {"path": "/convert"}}
            controllers.point(client, port, authority)
            webhook = {"clientConfig": client, "conversionReviewVersions": ["v1"]}
            definition["spec"]["conversion"] = {"strategy": "Webhook", "webhook": webhook}

    controllers.define(cluster, "kueue", mend=convert)
    config = {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": KUEUE_NAMESPACE,
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {
            "enable": True,
            "webhookServiceName": KUEUE_WEBHOOKS,
            "webhookSecretName": "kueue-webhook-server-cert",
        },
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": str(folder)},
        "metrics": {"bindAddress": f"127.0.0.1:{metrics}"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "integrations": {"frameworks": list(FRAMEWORKS.values())},
        "featureGates": {"VisibilityOnDemand": False},
    }
    (folder / "config.json").write_text(json.dumps(config))
    for one in controllers.webhooks("kueue-webhook"):
        kind = "mutating" if one["kind"].startswith("Mutating") else "validating"
        one["metadata"]["name"] = f"kueue-{kind}-webhook-configuration"
        one["webhooks"] = [hook for hook in one["webhooks"] if _is_served(hook["rules"][0])]
        for hook in one["webhooks"]:
            controllers.point(hook["clientConfig"], port, authority)
        controllers.create(cluster, one)
    controllers.begin(cluster, "kueue", "--config", str(folder / "config.json"))
    flavor = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ResourceFlavor", "metadata": {"name": "probe"}}
    controllers.until_taken(cluster, "/apis/kueue.x-k8s.io/v1beta2/resourceflavors?dryRun=All", flavor, "kueue")


def _is_served(rule: dict[str, Any]) -> bool:
    return rule["apiGroups"] == ["kueue.x-k8s.io"] or rule["resources"][0] in FRAMEWORKS


def add_nodes(cluster: Cluster) -> None:
    for leaf, number in NODES.items():
        for index in range(number):
            labels = {LEAF: leaf, FABRIC: "f1", "gpu": "h100"}
            cluster.add_node(f"{leaf}{index}", labels=labels, allocatable={"nvidia.com/gpu": "8", "rdma/ib": "1"})


def make_topology(cluster: Cluster) -> None:
    """The levels of the nodes, and a flavor of them."""
    levels = [{"nodeLabel": one} for one in (FABRIC, LEAF, "kubernetes.io/hostname")]
    _make(cluster, "Topology", "ib", {"levels": levels})
    _make(cluster, "ResourceFlavor", "h100", {"nodeLabels": {"gpu": "h100"}, "topologyName": "ib"})


def make_queue(cluster: Cluster, name: str, *, of: str, num_gpus: int, namespaces: Sequence[str]) -> None:
    """A ClusterQueue `of` with so many GPUs of that flavor, and a LocalQueue of it in each namespace."""
    quotas = [
        {"name": "cpu", "nominalQuota": "1000"},
        {"name": "memory", "nominalQuota": "10Ti"},
        {"name": "nvidia.com/gpu", "nominalQuota": str(num_gpus)},
        {"name": "rdma/ib", "nominalQuota": "12"},
    ]
    flavors = [{"name": "h100", "resources": quotas}]
    groups = [{"coveredResources": [one["name"] for one in quotas], "flavors": flavors}]
    _make(cluster, "ClusterQueue", of, {"namespaceSelector": {}, "resourceGroups": groups})
    for namespace in namespaces:
        _make(cluster, "LocalQueue", name, {"clusterQueue": of}, namespace=namespace)


def _make(cluster: Cluster, kind: str, name: str, spec: dict[str, Any], *, namespace: str = "") -> None:
    plural = "topologies" if kind == "Topology" else f"{kind.lower()}s"
    path = f"{KUEUE}/namespaces/{namespace}/{plural}" if namespace else f"{KUEUE}/{plural}"
    obj = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": kind, "metadata": {"name": name}, "spec": spec}
    cluster.request("POST", path, obj)


def gpus_used(cluster: Cluster, queue: str = CLUSTER_QUEUE) -> int:
    """Of a ClusterQueue's GPUs, those that admitted workloads hold."""
    status = cluster.request("GET", f"{KUEUE}/clusterqueues/{queue}").get("status", {})
    return sum(
        int(resource["total"])
        for flavor in status.get("flavorsReservation") or ()
        for resource in flavor["resources"]
        if resource["name"] == "nvidia.com/gpu"
    )
