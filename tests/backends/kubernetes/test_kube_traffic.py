"""What is asked of an API server, counted by verb and resource."""

from __future__ import annotations

import pytest

from ironloom.backends.kubernetes.metrics import METRICS, render
from ironloom.backends.kubernetes.traffic import Traffic, verb_and_resource

PODS = "/api/v1/namespaces/models/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/models/deployments"


@pytest.mark.parametrize(
    ("method", "path", "params", "verb", "resource"),
    [
        ("GET", PODS, {}, "list", "pods"),
        ("GET", PODS, {"watch": "true"}, "watch", "pods"),
        ("GET", f"{PODS}/a", {}, "get", "pods"),
        ("GET", f"{PODS}/a/log", {"follow": "true"}, "get", "pods/log"),
        ("GET", "/api/v1/nodes", {}, "list", "nodes"),
        ("GET", "/api/v1/nodes/n", {}, "get", "nodes"),
        ("GET", "/api/v1/namespaces", {}, "list", "namespaces"),
        ("GET", "/api/v1/namespaces/models", {}, "get", "namespaces"),
        ("PATCH", f"{DEPLOYMENTS}/a", {"fieldManager": "x"}, "patch", "deployments"),
        ("PATCH", f"{DEPLOYMENTS}/a/scale", {}, "patch", "deployments/scale"),
        ("DELETE", f"{DEPLOYMENTS}/a", {}, "delete", "deployments"),
        ("DELETE", DEPLOYMENTS, {}, "deletecollection", "deployments"),
        ("POST", "/apis/coordination.k8s.io/v1/namespaces/models/leases", {}, "create", "leases"),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/models/leases/l", {}, "update", "leases"),
        ("GET", "/version", {}, "get", ""),
        ("GET", "/apis", {}, "get", ""),
        ("GET", "/apis/apps/v1", {}, "get", ""),
    ],
)
def test_a_request_has_the_verb_and_resource_that_an_access_rule_would_name(
    method: str, path: str, params: dict[str, str], verb: str, resource: str
) -> None:
    assert verb_and_resource(method, path, params) == (verb, resource)


def test_requests_and_events_of_watches_are_told_to_prometheus() -> None:
    traffic = Traffic()
    traffic.ask("GET", PODS, {"watch": "true"})
    traffic.ask("PATCH", f"{DEPLOYMENTS}/a/scale", None)
    traffic.ask("PATCH", f"{DEPLOYMENTS}/b/scale", None)
    traffic.take(PODS, b"x" * 100)
    traffic.take(PODS, b"x" * 20)
    lines = render(traffic).decode().splitlines()
    assert 'ironloom_kubernetes_requests_total{verb="watch",resource="pods"} 1' in lines
    assert 'ironloom_kubernetes_requests_total{verb="patch",resource="deployments/scale"} 2' in lines
    assert 'ironloom_kubernetes_watch_events_total{resource="pods"} 2' in lines
    assert 'ironloom_kubernetes_watch_bytes_total{resource="pods"} 120' in lines
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.type}" in lines
