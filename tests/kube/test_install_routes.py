"""The ways in from outside that `ironloom install` makes, against a real API server with Gateway API's definitions."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest
from tests.kube import controllers
from tests.kube.cluster import Cluster, kubectl
from tests.kube.gateway import ironloom

pytestmark = pytest.mark.kube
NAMESPACE = "routed"
ROUTES = f"/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/httproutes"
INGRESSES = f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/ingresses"
WHERE = ("--namespace", NAMESPACE)


@pytest.fixture(scope="module")
def routed(cluster: Cluster) -> Iterator[Cluster]:
    if absent := controllers.absent([], ["gateway-api"]):
        pytest.skip(f"no {absent[0]}: run scripts/setup_kubernetes")
    names = controllers.define(cluster, "gateway-api")
    kubectl(cluster, "create", "namespace", NAMESPACE)
    yield cluster
    kubectl(cluster, "delete", "namespace", NAMESPACE, "--wait=false")
    controllers.undefine(cluster, names)


def one(cluster: Cluster, path: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = cluster.request("GET", f"{path}/ironloom")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return None
    return found


def test_a_route_of_a_gateway_leads_to_the_gateways_service_and_never_cuts_a_held_request_off(routed: Cluster) -> None:
    made = ironloom(routed, "install", *WHERE, "--gateway", "edge/public")
    assert "httproute/ironloom created" in made
    route = one(routed, ROUTES)
    assert route is not None
    assert [(parent["namespace"], parent["name"]) for parent in route["spec"]["parentRefs"]] == [("edge", "public")]
    [rule] = route["spec"]["rules"]
    assert [(ref["name"], ref["port"]) for ref in rule["backendRefs"]] == [("ironloom", 80)]
    assert rule["timeouts"] == {"request": "0s"}
    service = routed.request("GET", f"/api/v1/namespaces/{NAMESPACE}/services/ironloom")
    assert [port["port"] for port in service["spec"]["ports"]] == [80]
    assert "httproute/ironloom unchanged" in ironloom(routed, "install", *WHERE, "--gateway", "edge/public")


def test_an_ingress_in_place_of_the_route_takes_it_away_and_uninstall_takes_the_ingress(routed: Cluster) -> None:
    ironloom(routed, "install", *WHERE, "--gateway", "edge/public")
    changed = ironloom(routed, "install", *WHERE, "--ingress-host", "chat.example.com")
    assert "ingress/ironloom created" in changed
    assert "httproute/ironloom deleted" in changed
    assert one(routed, ROUTES) is None
    ingress = one(routed, INGRESSES)
    assert ingress is not None
    [rule] = ingress["spec"]["rules"]
    [path] = rule["http"]["paths"]
    assert (rule["host"], path["path"], path["pathType"]) == ("chat.example.com", "/", "Prefix")
    # The port's name is one that the Service has.
    service = routed.request("GET", f"/api/v1/namespaces/{NAMESPACE}/services/ironloom")
    backend = path["backend"]["service"]
    assert backend["name"] == "ironloom"
    assert backend["port"]["name"] in [port["name"] for port in service["spec"]["ports"]]
    assert "ingress/ironloom deleted" in ironloom(routed, "uninstall", *WHERE)
    assert one(routed, INGRESSES) is None
