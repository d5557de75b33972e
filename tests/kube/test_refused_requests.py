"""Requests that are held for pods that cannot be: answered with the reason long before their timeout.

The API server and its rules are real. The gateway is a process of its own.
"""

from __future__ import annotations

import json
import signal
import time
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.kube import webhook
from tests.kube.cluster import Cluster, free_ports, kubectl
from tests.kube.engine_pods import EnginePods
from tests.kube.gateway import SHORT, Gateway, apply, running
from tests.kube.manifests import inference_service
from tests.kube.test_backend import wait_until

from ironloom.backends.kubernetes import roles

pytestmark = pytest.mark.kube
TIMEOUT_S = 300
"""Of the services here: whoever waits for it has waited in vain."""
NAMESPACE = "refused"


@pytest.fixture(scope="module")
def gateway(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    if not cluster.nodes:
        cluster.add_node("gpu-1", allocatable={"nvidia.com/gpu": "64"})
    kubectl(cluster, "create", "namespace", NAMESPACE)
    with running(cluster, tmp_path_factory.mktemp("gateway"), "--namespace", NAMESPACE) as made:
        yield made
    kubectl(cluster, "delete", "namespace", NAMESPACE, "--wait=false")


def service(name: str) -> dict[str, Any]:
    made = inference_service(name, SHORT)
    made["spec"]["predictor"]["timeout"] = TIMEOUT_S
    return made


def refused(gateway: Gateway, model: str) -> dict[str, Any]:
    """The error of a request that was held and then refused, well before its time."""
    begun = time.monotonic()
    with pytest.raises(urllib.error.HTTPError) as caught:
        gateway.ask(model, timeout_s=TIMEOUT_S)
    assert time.monotonic() - begun < TIMEOUT_S / 3
    assert caught.value.code == 503
    assert int(caught.value.headers["Retry-After"]) >= 1
    error: dict[str, Any] = json.loads(caught.value.__notes__[0])["error"]
    assert error["code"] == "start_failed"
    return error


def test_a_quota_that_is_used_up_ends_a_held_request_and_the_one_after_it(cluster: Cluster, gateway: Gateway) -> None:
    kubectl(cluster, "create", "quota", "team", "--hard=requests.nvidia.com/gpu=0", "-n", NAMESPACE)
    apply(gateway, service("poor"))
    assert "exceeded quota: team" in refused(gateway, "poor")["message"]
    assert "exceeded quota: team" in refused(gateway, "poor")["message"]
    (found,) = [one for one in gateway.call("GET", "/api/v1/services") if one["name"] == "poor"]
    assert found["state"] == "failed"
    assert "exceeded quota: team" in found["reason"]
    gateway.call("DELETE", "/api/v1/services/poor")
    kubectl(cluster, "delete", "quota", "team", "-n", NAMESPACE)


def test_a_webhook_that_refuses_pods_ends_a_held_request_in_its_own_words(cluster: Cluster, gateway: Gateway) -> None:
    apply(gateway, service("unlabelled"))
    with (
        webhook.refusing(cluster.clients, "every pod has a cost centre") as port,
        webhook.registered(cluster, "costs.example.com", port, resource="pods", namespace=NAMESPACE),
    ):
        message = refused(gateway, "unlabelled")["message"]
    assert 'admission webhook "costs.example.com" denied' in message
    assert "every pod has a cost centre" in message
    gateway.call("DELETE", "/api/v1/services/unlabelled")


def test_a_webhook_that_refuses_or_is_silent_is_named_when_a_service_is_applied(
    cluster: Cluster, gateway: Gateway
) -> None:
    def said(name: str) -> dict[str, Any]:
        with pytest.raises(urllib.error.HTTPError) as caught:
            apply(gateway, service(name))
        found: dict[str, Any] = json.loads(caught.value.__notes__[0])["error"]
        return found

    deployments = "apps/deployments"
    with (
        webhook.refusing(cluster.clients, "ask the platform team") as port,
        webhook.registered(cluster, "owners.example.com", port, resource=deployments, namespace=NAMESPACE),
    ):
        error = said("unowned")
    assert 'admission webhook "owners.example.com" denied the request: ask the platform team' in error["message"]
    assert "owners.example.com is a rule of this cluster" in error["hint"]
    with webhook.registered(cluster, "gone.example.com", free_ports(1)[0], resource=deployments, namespace=NAMESPACE):
        error = said("unheard")
    assert "admission webhook gone.example.com does not answer" in error["message"]
    for name in ("unowned", "unheard"):
        gateway.call("DELETE", f"/api/v1/services/{name}")


def test_a_verb_that_the_gateways_role_lacks_ends_a_held_request_with_its_name(
    cluster: Cluster, tmp_path: Path
) -> None:
    kubectl(cluster, "create", "namespace", "half")
    kubectl(cluster, "create", "serviceaccount", "ironloom", "-n", "half")
    role = roles.role("half")
    role["rules"] = [rule for rule in role["rules"] if "deployments/scale" not in rule["resources"]]
    kubectl(cluster, "apply", "-f", "-", text=json.dumps(role))
    kubectl(cluster, "create", "rolebinding", "ironloom", "--role=ironloom", "--serviceaccount=half:ironloom",
            "-n", "half")  # fmt: skip
    # The first count is written with the Deployment: it is made by somebody who may.
    with running(cluster, made_folder(tmp_path, "first"), "--namespace", "half") as full:
        apply(full, service("unscaled"))
    (token,) = kubectl(cluster, "create", "token", "ironloom", "-n", "half")
    limited = Cluster(made_folder(tmp_path, "limited"))
    config = json.loads(cluster.kubeconfig.read_text())
    config["users"] = [{"name": "test", "user": {"token": token}}]
    limited.kubeconfig.write_text(json.dumps(config))
    with running(limited, made_folder(tmp_path, "second"), "--namespace", "half") as gateway:
        apply(gateway, service("unscaled"))
        message = refused(gateway, "unscaled")["message"]
    assert "forbids user test to apply" in message
    assert 'cannot patch resource "deployments/scale"' in message
    kubectl(cluster, "delete", "namespace", "half", "--wait=false")


def made_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def test_a_namespace_that_is_deleted_under_a_gateway_ends_a_held_request_with_its_name(
    cluster: Cluster, tmp_path: Path
) -> None:
    kubectl(cluster, "create", "namespace", "doomed")
    with running(cluster, tmp_path, "--namespace", "doomed") as gateway:
        apply(gateway, service("doomed"))
        kubectl(cluster, "delete", "namespace", "doomed", "--wait=true")
        message = refused(gateway, "doomed")["message"]
        assert "doomed" in message
        assert "namespace" in message
        (found,) = gateway.call("GET", "/api/v1/services")
        assert found["state"] == "failed"


def test_a_request_that_is_held_while_the_api_server_is_away_is_answered_once_it_is_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    with (
        running(cluster, tmp_path) as gateway,
        EnginePods(cluster, "patient", port, tmp_path / "engine.log"),
        ThreadPoolExecutor(1) as pool,
    ):
        apply(gateway, inference_service("patient", SHORT, port=port))
        cluster.end("kube-apiserver", signal.SIGKILL)
        asked = pool.submit(gateway.ask, "patient", timeout_s=TIMEOUT_S)

        def is_told() -> bool:
            return "refuses connections" in gateway.call("GET", "/api/v1/services/patient")["reason"]

        wait_until(is_told)
        assert not asked.done()
        cluster.start_api_server()
        assert asked.result(TIMEOUT_S)
        gateway.call("DELETE", "/api/v1/services/patient")
