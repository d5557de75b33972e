"""The real Kueue and JobSet controllers beside a test's control plane, built by scripts/setup_kubernetes.

They run outside of the cluster: their webhooks are asked at an address of this machine, under a certificate made here,
and not through a Service.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import urllib.error
from pathlib import Path
from typing import Any

import yaml
from tests.kube.cluster import Cluster, cache, free_ports

KUEUE_NAMESPACE = "kueue-system"
KUEUE_WEBHOOKS = "kueue-webhook-service"
CONVERTED = frozenset({"localqueues", "clusterqueues", "workloads", "cohorts", "multikueueclusters"})
"""Kueue's kinds that it serves in two versions."""
QUEUED_GROUPS = frozenset({"kueue.x-k8s.io", "batch", "jobset.x-k8s.io"})
"""Of the kinds that Kueue could look after: those that these tests have."""
WITHIN_S = 60.0
DAYS = "3650"
AUTHORITY = "kueue-ca"
"""The name that Kueue wants its authority's certificate to have."""


def missing_controllers() -> list[str]:
    """Programs and definitions that are not there."""
    wanted = [cache() / "bin" / "kueue", cache() / "bin" / "jobset"]
    wanted += [cache() / "crds" / name for name in ("kueue", "kueue-webhook", "jobset", "jobset-webhook", "trainer")]
    return [path.name for path in wanted if not path.exists()]


def start_jobset(cluster: Cluster) -> None:
    """JobSet's manager, once it answers its webhooks."""
    folder = cluster.folder / "jobset"
    authority = _certificate(folder, "jobset-webhook-service.jobset-system.svc")
    port, health = free_ports(2)
    define(cluster, "jobset")
    config = {
        "apiVersion": "config.jobset.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": str(folder)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    for one in _webhooks("jobset-webhook"):
        for hook in one["webhooks"]:
            _point(hook["clientConfig"], port, authority)
            if hook["rules"][0]["resources"] == ["pods"]:
                hook["objectSelector"] = {
                    "matchExpressions": [{"key": "jobset.sigs.k8s.io/jobset-name", "operator": "Exists"}]
                }
        one["metadata"]["name"] = f"jobset-{one['metadata']['name']}"
        _create(cluster, one)
    _begin(cluster, "jobset", "--config", str(folder / "config.json"))
    probe = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "probe"},
        "spec": {"replicatedJobs": []},
    }
    _until_taken(cluster, "/apis/jobset.x-k8s.io/v1alpha2/namespaces/default/jobsets?dryRun=All", probe, "jobset")


def start_kueue(cluster: Cluster) -> None:
    """Kueue's manager, once it answers its webhooks. Its own certificates are kept by itself, so that it is given some
    that it finds good: they stand in the Secret that it reads, and in the folder that a Secret would be mounted at."""
    folder = cluster.folder / "kueue"
    authority = _certificate(folder, f"{KUEUE_WEBHOOKS}.{KUEUE_NAMESPACE}.svc")
    port, health, metrics = free_ports(3)
    _create(cluster, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": KUEUE_NAMESPACE}})
    files = {name: (folder / name).read_bytes() for name in ("ca.crt", "ca.key", "tls.crt", "tls.key")}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "kueue-webhook-server-cert", "namespace": KUEUE_NAMESPACE},
        "data": {name: base64.b64encode(content).decode() for name, content in files.items()},
    }
    _create(cluster, secret)
    define(cluster, "kueue", port=port, authority=authority)
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
        "integrations": {"frameworks": ["batch/job", "jobset.x-k8s.io/jobset"]},
        "featureGates": {"VisibilityOnDemand": False},
    }
    (folder / "config.json").write_text(json.dumps(config))
    for one in _webhooks("kueue-webhook"):
        kind = "mutating" if one["kind"].startswith("Mutating") else "validating"
        one["metadata"]["name"] = f"kueue-{kind}-webhook-configuration"
        one["webhooks"] = [
            hook for hook in one["webhooks"] if set(hook["rules"][0]["apiGroups"]) <= QUEUED_GROUPS
        ]  # fmt: skip
        for hook in one["webhooks"]:
            _point(hook["clientConfig"], port, authority)
        _create(cluster, one)
    _begin(cluster, "kueue", "--config", str(folder / "config.json"))
    flavor = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "ResourceFlavor", "metadata": {"name": "probe"}}
    _until_taken(cluster, "/apis/kueue.x-k8s.io/v1beta2/resourceflavors?dryRun=All", flavor, "kueue")


def _begin(cluster: Cluster, program: str, *arguments: str) -> None:
    env = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig)}
    cluster.begin(program, *arguments, env=env)


def _until_taken(cluster: Cluster, path: str, obj: dict[str, Any], program: str) -> None:
    """Until the API server takes a trial object, which asks the program's webhooks; a refusal by one is an answer."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            cluster.request("POST", path, obj)
            return
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            if error.code in {403, 422} and "failed calling webhook" not in said:
                return
        if time.monotonic() > deadline or cluster.processes[program].poll() is not None:
            raise TimeoutError(f"{program} did not get ready: {said}\n{cluster.log_of(program)[-3000:]}")
        time.sleep(0.2)


def define(cluster: Cluster, name: str, *, port: int = 0, authority: str = "") -> None:
    """Apply a project's definitions, and wait until the API server serves them."""
    names = []
    for path in sorted((cache() / "crds" / name).glob("*.yaml")):
        definition = yaml.safe_load(path.read_text())
        if not definition or definition.get("kind") != "CustomResourceDefinition":
            continue
        if port and definition["spec"]["names"]["plural"] in CONVERTED:
            client: dict[str, Any] = {"service": {"path": "/convert"}}
            _point(client, port, authority)
            webhook = {"clientConfig": client, "conversionReviewVersions": ["v1"]}
            definition["spec"]["conversion"] = {"strategy": "Webhook", "webhook": webhook}
        _create(cluster, definition)
        names.append(definition["metadata"]["name"])
    deadline = time.monotonic() + WITHIN_S
    path_of = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}"
    while not all(_is_established(cluster.request("GET", path_of.format(one))) for one in names):
        assert time.monotonic() < deadline, f"the definitions of {name} are not served"
        time.sleep(0.1)


def _is_established(definition: dict[str, Any]) -> bool:
    found = definition.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Established" and one["status"] == "True" for one in found)


def _webhooks(name: str) -> list[dict[str, Any]]:
    text = (cache() / "crds" / name / "manifests.yaml").read_text()
    return [one for one in yaml.safe_load_all(text) if one]


def _point(client: dict[str, Any], port: int, authority: str) -> None:
    """At the program on this machine, in place of a Service."""
    path = client.pop("service")["path"]
    client["url"] = f"https://127.0.0.1:{port}{path}"
    client["caBundle"] = authority


PATHS = {
    "Namespace": "/api/v1/namespaces",
    "Secret": f"/api/v1/namespaces/{KUEUE_NAMESPACE}/secrets",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "MutatingWebhookConfiguration": "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
}


def _create(cluster: Cluster, one: dict[str, Any]) -> None:
    cluster.request("POST", PATHS[one["kind"]], one)


def _certificate(folder: Path, name: str) -> str:
    """An authority and a server certificate under it, for a Service's name and for this machine; base64 of the
    authority's PEM."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {one: str(folder / one) for one in ("ca.key", "ca.crt", "tls.key", "tls.crt", "tls.csr", "tls.ext")}
    # In the older of the two forms of a key, the one that Kueue reads.
    _openssl("genrsa", "-traditional", "-out", paths["ca.key"], "2048")
    _openssl("req", "-x509", "-new", "-key", paths["ca.key"], "-days", DAYS, "-subj", f"/CN={AUTHORITY}",
             "-addext", f"subjectAltName=DNS:{AUTHORITY}",
             "-addext", "keyUsage=critical,digitalSignature,keyEncipherment,keyCertSign",
             "-out", paths["ca.crt"])  # fmt: skip
    _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", paths["tls.key"],
             "-out", paths["tls.csr"])  # fmt: skip
    Path(paths["tls.ext"]).write_text(f"subjectAltName=DNS:{name},IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
    _openssl("x509", "-req", "-in", paths["tls.csr"], "-CA", paths["ca.crt"], "-CAkey", paths["ca.key"],
             "-CAcreateserial", "-days", DAYS, "-extfile", paths["tls.ext"], "-out", paths["tls.crt"])  # fmt: skip
    return base64.b64encode(Path(paths["ca.crt"]).read_bytes()).decode()


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
