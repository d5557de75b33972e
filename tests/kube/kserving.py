"""The real KServe beside a test's control plane, built by scripts/setup_kubernetes: its manager with its own webhooks.

It runs outside of the cluster, under a certificate made here. Its configuration is the one that it is shipped with, but
that it makes no Ingress, for which there is no controller, and that what fetches models is an image of the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator

import yaml
from tests.kube import controllers
from tests.kube.cluster import Cluster, cache, free_ports
from tests.kube.image import STORAGE

NAMESPACE = "kserve"
KNATIVE = "knative-serving"
LEFT_WITHIN_S = 60.0
PARTS = ("kserve", "kserve/clusterstoragecontainer")
SERVICES = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices"


def missing_kserve() -> list[str]:
    """Programs and definitions that are not there."""
    return controllers.absent(["kserve"], ["kserve", "kserve-configmap", "kserve-webhook", "knative"])


def define(cluster: Cluster) -> list[str]:
    """Its kinds alone, without a program that acts on them. The names of their definitions."""
    return [name for part in PARTS for name in controllers.define(cluster, part)]


def define_knative(cluster: Cluster) -> None:
    """Knative's kinds, and what KServe reads of its configuration. KServe looks for the kinds when it starts."""
    controllers.define(cluster, "knative")
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": KNATIVE}}
    controllers.create(cluster, space)
    autoscaler = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config-autoscaler"}, "data": {}}
    cluster.request("POST", f"/api/v1/namespaces/{KNATIVE}/configmaps", autoscaler)


@contextlib.contextmanager
def running(cluster: Cluster) -> Iterator[None]:
    """For a while, in a cluster that goes on without it: it goes with its kinds and its webhooks, once it has let go of
    the services of `default`."""
    names = start(cluster)
    try:
        yield
        deadline = time.monotonic() + LEFT_WITHIN_S
        while cluster.request("GET", SERVICES)["items"]:
            assert time.monotonic() < deadline, "InferenceServices do not go"
            time.sleep(0.1)
    finally:
        cluster.end("kserve")
        for one in controllers.webhooks("kserve-webhook"):
            cluster.request("DELETE", f"{controllers.PATHS[one['kind']]}/{one['metadata']['name']}")
        controllers.undefine(cluster, names)


def start(cluster: Cluster) -> list[str]:
    """The manager, once it answers its webhooks. The names of its definitions."""
    folder = cluster.folder / "kserve"
    authority = controllers.certificate(
        folder / "k8s-webhook-server" / "serving-certs", "kserve-webhook-server-service.kserve.svc"
    )
    port, metrics, health = free_ports(3)
    names = define(cluster)
    controllers.create(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    shipped = yaml.safe_load((cache() / "crds" / "kserve-configmap" / "inferenceservice.yaml").read_text())
    ingress = json.loads(shipped["data"]["ingress"])
    shipped["data"]["ingress"] = json.dumps({**ingress, "disableIngressCreation": True})
    storage = json.loads(shipped["data"]["storageInitializer"])
    shipped["data"]["storageInitializer"] = json.dumps({**storage, "image": STORAGE})
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
    controllers.until_taken(cluster, f"{SERVICES}?dryRun=All", probe, "kserve")
    return names
