"""A gateway with the rights of its installation against a real API server: what it is refused, by the audit log, and
what it uses of what it may.
"""

from __future__ import annotations

import contextlib
import json
import urllib.error
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.kube import controllers, grouping, kserving
from tests.kube.cluster import Cluster, cache, kubeconfig, kubectl
from tests.kube.gateway import WITHIN_S, Gateway, apply, ironloom, running
from tests.kube.needs import need_programs
from tests.kube.test_backend import wait_until

from ironloom.backends.kubernetes import roles
from ironloom.backends.kubernetes.inventory import NUM_SINGLY

pytestmark = pytest.mark.kube
NAMESPACE = "rights"
WHERE = ("--namespace", NAMESPACE)
USER = f"system:serviceaccount:{NAMESPACE}:ironloom"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
KUEUE = "kueue.x-k8s.io"
"""Not there: what is read of it is shown with the real one, in test_service_queue."""
LLMS = "llminferenceservices"
AT_ZERO = {"autoscaling.knative.dev/initial-scale": "0"}


@pytest.fixture(scope="module")
def land(cluster: Cluster) -> Iterator[Cluster]:
    """With the kinds of KServe and LeaderWorkerSet, and a gateway's objects; no controller acts on these kinds."""
    need_programs([*kserving.missing_kserve(), *grouping.missing_lws()])
    if not cluster.nodes:
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})
    names = [*kserving.define(cluster), *controllers.define(cluster, "lws"), f"{LLMS}.serving.kserve.io"]
    kubectl(
        cluster, "apply", "--server-side", "-f", str(cache() / "crds/kserve/llmisvc" / f"serving.kserve.io_{LLMS}.yaml")
    )
    wait_until(lambda: LLMS in " ".join(kubectl(cluster, "api-resources", "-o", "name")))
    kubectl(cluster, "create", "namespace", NAMESPACE)
    ironloom(cluster, "install", *WHERE)
    yield cluster
    ironloom(cluster, "uninstall", *WHERE)
    controllers.undefine(cluster, names)
    kubectl(cluster, "delete", "namespace", NAMESPACE, "--wait=false")


@contextlib.contextmanager
def gateway(land: Cluster, folder: Path) -> Iterator[Gateway]:
    """As the ServiceAccount of the installation, once it decides."""
    folder.mkdir()
    (token,) = kubectl(land, "create", "token", "ironloom", "-n", NAMESPACE)
    file = folder / "kubeconfig"
    file.write_text(json.dumps(kubeconfig(land.server, land.authority, token, namespace=NAMESPACE)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POD_NAME", folder.name)
        patch.setenv("POD_IP", "127.0.0.1")
        with running(land, folder, "--shared", kubeconfig=file) as made:
            lease = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/ironloom"
            wait_until(lambda: holder(land, lease) == folder.name)
            yield made


def holder(land: Cluster, lease: str) -> str:
    with contextlib.suppress(urllib.error.HTTPError):
        return str(land.request("GET", lease)["spec"].get("holderIdentity"))
    return ""


def asked(land: Cluster, since: int = 0) -> list[dict[str, Any]]:
    """What the gateway asked of kinds, by the audit log."""
    found = [one for one in land.requests_of("ironloom/")[since:] if one["user"]["username"] == USER]
    return [one for one in found if one.get("objectRef")]


def refused(events: Sequence[dict[str, Any]]) -> set[str]:
    """As `list nodes`; of all namespaces where the request names none."""
    return {
        f"{one['verb']} {_resource(one)}{'' if one['objectRef'].get('namespace') else ' everywhere'}"
        for one in events
        if one["responseStatus"]["code"] == 403
    }


def used(events: Sequence[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """(group, resource, verb) of requests in the namespace; an apply that made its object is a create too."""
    found = set()
    for one in events:
        about = one["objectRef"]
        if about.get("namespace") != NAMESPACE or one["responseStatus"]["code"] == 403:
            continue
        key = (about.get("apiGroup", ""), _resource(one))
        found.add((*key, one["verb"]))
        if one["verb"] == "patch" and one["responseStatus"]["code"] == 201:
            found.add((*key, "create"))
    return found


def _resource(one: dict[str, Any]) -> str:
    return "/".join(filter(None, [one["objectRef"]["resource"], one["objectRef"].get("subresource")]))


def deployment(name: str, *, num_gpus: int = 1, **annotations: str) -> dict[str, Any]:
    container = {
        "name": "engine",
        "image": "vllm/vllm-openai:v0.26.0",
        "args": ["--model", "a/b"],
        "resources": {"limits": {"nvidia.com/gpu": str(num_gpus)}},
    }
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def inference_service(name: str, **predictor: Any) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": AT_ZERO},
        "spec": {"predictor": {"minReplicas": 0, **predictor}},
    }


CONTAINER = {"name": "kserve-container", "image": "vllm/vllm-openai:v0.26.0", "args": ["--model", "a/b"]}
MODEL = {
    "modelFormat": {"name": "huggingface"},
    "storageUri": "hf://owner/name",
    "resources": {"limits": {"nvidia.com/gpu": "1"}},
}


def llm(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": "hf://owner/name"},
            "template": {"containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
        },
    }


def over_nodes(name: str) -> dict[str, Any]:
    container = {**CONTAINER, "name": "engine", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    pod = {"spec": {"containers": [container]}}
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name, "annotations": AT_ZERO},
        "spec": {"replicas": 1, "leaderWorkerTemplate": {"size": 2, "leaderTemplate": pod, "workerTemplate": pod}},
    }


def notes_of(made: Gateway, name: str) -> list[str]:
    found: list[str] = made.call("GET", f"/api/v1/services/{name}")["notes"]
    return found


def test_with_its_role_alone_it_works_and_says_what_it_may_not_see_and_with_the_cluster_s_it_is_refused_nothing(
    land: Cluster, tmp_path: Path
) -> None:
    with gateway(land, tmp_path / "first") as made:
        work(land, made)
        (of_nodes,) = [one for one in notes_of(made, "kept") if one.startswith("nodes may not be listed: ")]
        assert of_nodes.endswith("`ironloom install --cluster-reads` gives the gateway the right to")
        assert any("which there are may not be listed" in one for one in notes_of(made, "model"))
        wait_until(lambda: "what may come is not known: nodes may not be listed" in str(replicas_of(made, "starved")))
        end(land, made)
    first = asked(land)
    assert refused(first) == {"list nodes everywhere", "list clusterservingruntimes everywhere"}

    ironloom(land, "install", *WHERE, "--cluster-reads")
    since = len(land.requests_of("ironloom/"))
    with gateway(land, tmp_path / "second") as made:
        work(land, made, since)
        assert not any("may not be" in one for name in ("kept", "model") for one in notes_of(made, name))
        end(land, made)
    second = asked(land, since)
    assert refused(second) == set()

    may = {(one.group, one.resource, verb) for one in roles.ROLE if one.group != KUEUE for verb in one.verbs}
    assert used([*first, *second]) == may


def work(land: Cluster, made: Gateway, since: int = 0) -> None:
    """All that a gateway does, once. `since` counts the requests before."""
    apply(made, deployment("kept", **{"autoscaling.knative.dev/min-scale": "2"}))
    cached = {"ironloom.dev/model-cache": "1Gi", "autoscaling.knative.dev/min-scale": "0", **AT_ZERO}
    for window in ("60s", "90s"):  # no volume is made of the claim, and no pod of it runs
        apply(made, deployment("cached", **cached, **{"autoscaling.knative.dev/window": window}))
    apply(made, deployment("starved", num_gpus=1000))
    many = [inference_service(f"many-{number}", containers=[CONTAINER]) for number in range(NUM_SINGLY * 3)]
    made.call("POST", "/api/v1/apply", {"manifests": many}, timeout_s=WITHIN_S)
    apply(made, inference_service("model", model=MODEL))
    apply(made, llm("llm"))
    apply(made, over_nodes("wide"))
    key = made.call("POST", "/api/v1/keys", {"name": "team"})
    made.call("DELETE", f"/api/v1/keys/{key['id']}")

    def is_full() -> bool:
        list(land.run_pods("ironloom.dev/service=kept", namespace=NAMESPACE))
        return len([one for one in replicas_of(made, "kept") if one["state"] == "ready"]) == 2

    wait_until(is_full)
    with contextlib.suppress(OSError, ValueError):  # a node that is played has no logs to give
        made.call("GET", "/api/v1/services/kept/logs")
    made.call("POST", "/api/v1/services/kept/scale", {"replicas": 1})
    wait_until(lambda: land.request("GET", f"{DEPLOYMENTS}/kept")["spec"]["replicas"] == 1)
    wait_until(lambda: any("nodes are available" in str(one) for one in replicas_of(made, "starved")))
    wait_until(lambda: any(_resource(one) == "events" for one in asked(land, since)))


def end(land: Cluster, made: Gateway) -> None:
    """Delete every service, and what a kubelet would end."""
    for service in made.call("GET", "/api/v1/services"):
        made.call("DELETE", f"/api/v1/services/{service['name']}")
    for pod in land.request("GET", PODS)["items"]:
        with contextlib.suppress(urllib.error.HTTPError):
            land.request("DELETE", f"{PODS}/{pod['metadata']['name']}", {"gracePeriodSeconds": 0})


def replicas_of(made: Gateway, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = made.call("GET", f"/api/v1/services/{name}")["replicas"]
    return found
