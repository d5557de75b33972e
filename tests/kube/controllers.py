"""How the controllers of other projects are started beside a test's control plane, built by scripts/setup_kubernetes.

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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from tests.kube.cluster import Cluster, cache, free_ports

WITHIN_S = 60.0
ASK_AGAIN_S = 3.0
DAYS = "3650"
AUTHORITY = "kueue-ca"
"""The name that Kueue wants its authority's certificate to have; the others want none."""
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "Secret": "/api/v1/namespaces/{namespace}/secrets",
    "CustomResourceDefinition": DEFINITIONS,
    "MutatingWebhookConfiguration": "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
}
Hook = dict[str, Any]


def absent(programs: list[str], definitions: list[str]) -> list[str]:
    """Of programs and folders of definitions, those that are not there."""
    wanted = [cache() / "bin" / name for name in programs] + [cache() / "crds" / name for name in definitions]
    return [path.name for path in wanted if not path.exists()]


def start_manager(
    cluster: Cluster,
    program: str,
    *,
    group: str,
    service: str,
    pods_of: str,
    probe: Mapping[str, Any],
    takes: Callable[[Hook], bool] = lambda _: True,
) -> None:
    """A manager of the form that JobSet and LeaderWorkerSet share, once it answers its webhooks.

    `group` is that of its configuration, `service` what its certificate is for, `pods_of` the label of the pods that
    its webhook of pods is asked about, `probe` an object that is tried, and `takes` says which of its webhooks are
    registered.
    """
    folder = cluster.folder / program
    authority = certificate(folder, service)
    port, health = free_ports(2)
    define(cluster, program)
    config = {
        "apiVersion": f"{group}/v1alpha1",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": str(folder)},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    for one in webhooks(f"{program}-webhook"):
        one["webhooks"] = [hook for hook in one["webhooks"] if takes(hook)]
        for hook in one["webhooks"]:
            point(hook["clientConfig"], port, authority)
            if hook["rules"][0]["resources"] == ["pods"]:
                hook["objectSelector"] = {"matchExpressions": [{"key": pods_of, "operator": "Exists"}]}
        one["metadata"]["name"] = f"{program}-{one['metadata']['name']}"
        create(cluster, one)
    begin(cluster, program, "--config", str(folder / "config.json"))
    path = f"/apis/{probe['apiVersion']}/namespaces/default/{probe['kind'].lower()}s?dryRun=All"
    until_taken(cluster, path, {**probe, "metadata": {"name": "probe"}}, program)


def begin(cluster: Cluster, program: str, *arguments: str) -> None:
    """Start it as an administrator of the cluster."""
    cluster.begin(program, *arguments, env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)})


def until_taken(cluster: Cluster, path: str, obj: Mapping[str, Any], program: str) -> None:
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


def define(cluster: Cluster, name: str, *, mend: Callable[[dict[str, Any]], None] = lambda _: None) -> list[str]:
    """Apply a project's definitions, each as `mend` leaves it, and wait until the API server serves them. Their
    names."""
    files = sorted((cache() / "crds" / name).glob("*.yaml"))
    found = (one for path in files for one in yaml.safe_load_all(path.read_text()))
    definitions = [one for one in found if one and one.get("kind") == "CustomResourceDefinition"]
    for one in definitions:
        mend(one)
        create(cluster, one)
    deadline = time.monotonic() + WITHIN_S
    names = [one["metadata"]["name"] for one in definitions]
    while not all(_is_established(cluster.request("GET", f"{DEFINITIONS}/{one}")) for one in names):
        assert time.monotonic() < deadline, f"the definitions of {name} are not served"
        time.sleep(0.1)
    return names


def undefine(cluster: Cluster, names: Sequence[str]) -> None:
    """Remove definitions with all objects of their kinds, and wait until they are gone.

    What removes them waits longer after each failure, minutes in the end: a change of one has it look at once."""
    for name in names:
        cluster.request("DELETE", f"{DEFINITIONS}/{name}")
    deadline = time.monotonic() + WITHIN_S
    asked_at = time.monotonic()
    while left := {one["metadata"]["name"] for one in cluster.request("GET", DEFINITIONS)["items"]} & set(names):
        assert time.monotonic() < deadline, f"{', '.join(sorted(left))} do not go"
        if time.monotonic() - asked_at > ASK_AGAIN_S:
            asked_at = time.monotonic()
            for name in left:
                again = {"metadata": {"annotations": {"asked": str(asked_at)}}}
                with suppress(urllib.error.HTTPError):  # gone meanwhile
                    cluster.request("PATCH", f"{DEFINITIONS}/{name}", again, content="application/merge-patch+json")
        time.sleep(0.1)


def _is_established(definition: Mapping[str, Any]) -> bool:
    found = definition.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Established" and one["status"] == "True" for one in found)


def webhooks(name: str) -> list[dict[str, Any]]:
    """A project's webhook configurations, as it ships them."""
    text = (cache() / "crds" / name / "manifests.yaml").read_text()
    return [one for one in yaml.safe_load_all(text) if one]


def point(client: dict[str, Any], port: int, authority: str) -> None:
    """At the program on this machine, in place of a Service."""
    path = client.pop("service")["path"]
    client["url"] = f"https://127.0.0.1:{port}{path}"
    client["caBundle"] = authority


def create(cluster: Cluster, one: Mapping[str, Any]) -> None:
    cluster.request("POST", PATHS[one["kind"]].format(namespace=one["metadata"].get("namespace")), one)


def certificate(folder: Path, name: str) -> str:
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
