"""The real KServe beside a test's control plane, built by scripts/setup_kubernetes: its manager with its own webhooks.

It runs outside of the cluster, under a certificate made here. Its configuration is the one that it is shipped with, but
that it makes no Ingress, for which there is no controller. Knative is not there.
"""

from __future__ import annotations

import json
import os

import yaml
from tests.kube import controllers
from tests.kube.cluster import Cluster, cache, free_ports

NAMESPACE = "kserve"
KINDS = ("inferenceservices", "servingruntimes")


def missing_kserve() -> list[str]:
    """Programs and definitions that are not there."""
    return controllers.absent(["kserve"], ["kserve", "kserve-configmap", "kserve-webhook"])


def define(cluster: Cluster) -> None:
    """Its kinds alone, without a program that acts on them."""
    controllers.define(cluster, "kserve")
    storage = cache() / "crds" / "kserve" / "clusterstoragecontainer"
    for path in storage.glob("serving.*.yaml"):
        controllers.create(cluster, yaml.safe_load(path.read_text()))


def start(cluster: Cluster) -> None:
    """The manager, once it answers its webhooks."""
    folder = cluster.folder / "kserve"
    authority = controllers.certificate(
        folder / "k8s-webhook-server" / "serving-certs", "kserve-webhook-server-service.kserve.svc"
    )
    port, metrics, health = free_ports(3)
    define(cluster)
    controllers.create(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    shipped = yaml.safe_load((cache() / "crds" / "kserve-configmap" / "inferenceservice.yaml").read_text())
    ingress = json.loads(shipped["data"]["ingress"])
    shipped["data"]["ingress"] = json.dumps({**ingress, "disableIngressCreation": True})
    cluster.request("POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps", shipped)
    for one in controllers.webhooks("kserve-webhook"):
        for hook in one["webhooks"]:
            controllers.point(hook["clientConfig"], port, authority)
        controllers.create(cluster, one)
    env = {
        **os.environ,
        "KUBECONFIG": str(cluster.kubeconfig),
        "POD_NAMESPACE": NAMESPACE,
        "TMPDIR": str(folder),  # where it looks for its certificate
    }
    cluster.begin(
        "kserve",
        *("--webhook-port", str(port), "--metrics-addr", f"127.0.0.1:{metrics}"),
        *("--health-probe-addr", f"127.0.0.1:{health}"),
        env=env,
    )
    probe = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "probe"},
        "spec": {"predictor": {"containers": [{"name": "kserve-container", "image": "none"}]}},
    }
    path = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices?dryRun=All"
    controllers.until_taken(cluster, path, probe, "kserve")
