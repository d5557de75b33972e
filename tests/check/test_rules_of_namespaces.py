"""What a namespace's ResourceQuota and LimitRange refuse, read from the run and from the cluster."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ironloom.check import registry
from ironloom.check.engine import Setting, check
from ironloom.check.finding import Severity
from ironloom.check.inputs import read_texts
from ironloom.fleet.build import build_fleet
from ironloom.fleet.model import Fleet

RULES = registry.select(["IL632", "IL635", "IL636"])
Object = dict[str, Any]


def obj(kind: str, spec: Object, *, api_version: str = "v1", namespace: str = "research", **more: Any) -> Object:
    metadata = {"name": kind.lower(), **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec, **more}


def deployment(replicas: int = 1, namespace: str = "research", **resources: Object) -> Object:
    labels = {"app": "llama"}
    container = {"name": "main", "image": "vllm/vllm-openai:v0.11.0", "resources": resources}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return obj("Deployment", spec, api_version="apps/v1", namespace=namespace)


def quota(hard: Object, used: Object | None = None, **spec: Any) -> Object:
    return obj("ResourceQuota", {"hard": hard, **spec}, status={"hard": hard, "used": used or {}})


def limit_range(**of_container: Object) -> Object:
    return obj("LimitRange", {"limits": [{"type": "Container", **of_container}, {"type": "Pod", "max": {"cpu": "1m"}}]})


def told(workload: Object, *around: Object, in_cluster: bool) -> list[tuple[str, Severity]]:
    """The findings with the objects around it in the run, or in the cluster."""
    fleet: Fleet | None = None
    if in_cluster:
        fleet, around = build_fleet(list(around), name="c", source="c.json"), ()
    text = "---\n".join(yaml.safe_dump(one) for one in (workload, *around))
    result = check(read_texts({"a.yaml": text}), RULES, Setting(fleet=fleet))
    assert result.faults == ()
    return [(finding.rule, finding.severity) for finding in result.findings]


GPUS = {"nvidia.com/gpu": 8}


@pytest.mark.parametrize("in_cluster", [False, True])
@pytest.mark.parametrize(
    ("workload", "hard", "is_told"),
    [
        (deployment(2, limits=GPUS), {"requests.nvidia.com/gpu": "8"}, True),
        (deployment(2, limits=GPUS), {"requests.nvidia.com/gpu": "16"}, False),
        (deployment(3, limits=GPUS), {"pods": "2"}, True),
        (deployment(2, limits={"memory": "300Gi", "cpu": 1}), {"limits.memory": "512Gi"}, True),
        (deployment(2, limits={"memory": "256Gi", "cpu": 1}), {"limits.memory": "512Gi"}, False),
        (deployment(1, limits=GPUS), {"persistentvolumeclaims": "0", "count/jobs.batch": "0"}, False),
        (deployment(2, namespace="other", limits=GPUS), {"requests.nvidia.com/gpu": "8"}, False),
        (deployment(2, limits=GPUS), {"requests.nvidia.com/gpu": "a few"}, False),
    ],
)
def test_a_workload_asks_for_no_more_than_its_namespace_has(
    workload: Object, hard: Object, is_told: bool, in_cluster: bool
) -> None:
    expected = [("IL632", Severity.ERROR)] if is_told else []
    assert told(workload, quota(hard), in_cluster=in_cluster) == expected


def test_a_quota_with_scopes_counts_some_pods_and_is_passed_over() -> None:
    scoped = quota({"requests.nvidia.com/gpu": "1"}, scopes=["BestEffort"])
    for in_cluster in (False, True):
        assert told(deployment(limits=GPUS), scoped, in_cluster=in_cluster) == []


def test_what_others_of_the_namespace_use_is_a_note() -> None:
    used = quota({"requests.nvidia.com/gpu": "16"}, {"requests.nvidia.com/gpu": "12"})
    assert told(deployment(limits=GPUS), used, in_cluster=True) == [("IL632", Severity.NOTE)]
    own = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "research"}, "spec": {}}
    own["metadata"]["labels"] = {"app": "llama"}  # type: ignore[index]
    assert told(deployment(limits=GPUS), used, own, in_cluster=True) == [], "it may be itself what uses them"


@pytest.mark.parametrize("in_cluster", [False, True])
@pytest.mark.parametrize(
    ("resources", "ranges", "rules"),
    [
        ({}, (), ["IL635"]),
        ({"requests": {"memory": "1Gi"}}, (), ["IL635"]),
        ({"limits": {"memory": "1Gi"}}, (), []),
        ({}, (limit_range(default={"memory": "2Gi"}),), []),
        ({}, (limit_range(max={"memory": "2Gi"}),), []),
        ({}, (limit_range(defaultRequest={"memory": "2Gi"}),), ["IL635"]),
        ({"limits": {"memory": "4Gi"}}, (limit_range(max={"memory": "2Gi"}),), ["IL636"]),
        ({"limits": {"memory": "1Gi"}}, (limit_range(min={"memory": "2Gi"}),), ["IL636"]),
        ({"limits": {"memory": "2Gi"}}, (limit_range(min={"memory": "2Gi"}, max={"memory": "2Gi"}),), []),
    ],
)
def test_a_quota_wants_amounts_and_a_range_bounds_them(
    resources: Object, ranges: tuple[Object, ...], rules: list[str], in_cluster: bool
) -> None:
    found = told(deployment(**resources), quota({"limits.memory": "512Gi"}), *ranges, in_cluster=in_cluster)
    assert [rule for rule, _ in found] == rules


def test_a_workload_of_no_namespace_is_held_against_no_quota_of_a_cluster() -> None:
    one = deployment(2, namespace="", limits=GPUS)
    there = obj("ResourceQuota", {"hard": {"requests.nvidia.com/gpu": "8"}}, namespace="default")
    assert told(one, there, in_cluster=True) == []
    assert told(one, there, in_cluster=False) == [("IL632", Severity.ERROR)]
