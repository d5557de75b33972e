"""What a pod asks for is counted as kube-scheduler counts it."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.fleet import objects
from ironloom.fleet.amounts import amount, gpu_resource_of, requests_of


def container(name: str = "main", restart: str | None = None, **asked: str) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "resources": {"requests": asked}}
    return {**made, "restartPolicy": restart} if restart else made


def requests(spec: dict[str, Any], status: dict[str, Any] | None = None) -> dict[str, int]:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec, "status": status or {}}
    made = objects.convert(pod)
    assert isinstance(made, objects.Pod)
    assert made.spec is not None
    return dict(requests_of(made.spec, made.status))


CASES = {
    "containers add up": (
        {"containers": [container(cpu="1", memory="1Gi"), container("b", cpu="500m")]},
        {"cpu": 1500, "memory": 2**30},
    ),
    "an init container counts where it asks for more": (
        {"containers": [container(cpu="1", memory="4Gi")], "initContainers": [container("i", cpu="2", memory="1Gi")]},
        {"cpu": 2000, "memory": 4 * 2**30},
    ),
    "a sidecar runs beside the containers": (
        {"containers": [container(cpu="1")], "initContainers": [container("s", "Always", cpu="1")]},
        {"cpu": 2000},
    ),
    "an init container starts beside the sidecars before it, not those after": (
        {
            "containers": [container(cpu="1")],
            "initContainers": [
                container("s1", "Always", cpu="1"),
                container("i", cpu="3"),
                container("s2", "Always", cpu="1"),
            ],
        },
        {"cpu": 4000},
    ),
    "overhead comes on top": (
        {"containers": [container(cpu="1")], "overhead": {"cpu": "250m", "memory": "120Mi"}},
        {"cpu": 1250, "memory": 120 * 2**20},
    ),
    "what the pod as a whole says replaces cpu and memory alone": (
        {"containers": [container(cpu="1", **{"nvidia.com/gpu": "8"})], "resources": {"requests": {"cpu": "16"}}},
        {"cpu": 16_000, "nvidia.com/gpu": 8},
    ),
    "a limit without a request is a request": (
        {"containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": "4"}}}]},
        {"nvidia.com/gpu": 4},
    ),
    "a request below its limit is the request": (
        {"containers": [{"name": "main", "resources": {"limits": {"cpu": "4"}, "requests": {"cpu": "1"}}}]},
        {"cpu": 1000},
    ),
    "nothing asks for nothing": ({"containers": [{"name": "main"}]}, {}),
    "numbers are quantities too": (
        {"containers": [{"name": "main", "resources": {"requests": {"cpu": 2, "memory": 1e9}}}]},
        {"cpu": 2000, "memory": 10**9},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_requests(case: str) -> None:
    spec, wanted = CASES[case]
    assert requests(spec) == wanted


def test_a_container_that_shrinks_counts_as_what_it_still_has_until_the_kubelet_lets_go() -> None:
    status = {"containerStatuses": [{"name": "main", "resources": {"requests": {"cpu": "4"}}}]}
    assert requests({"containers": [container(cpu="1")]}, status) == {"cpu": 4000}


def test_a_container_that_grows_counts_as_what_it_asks_for() -> None:
    status = {
        "containerStatuses": [
            {"name": "main", "resources": {"requests": {"cpu": "1"}}, "allocatedResources": {"cpu": "2"}}
        ]
    }
    assert requests({"containers": [container(cpu="4")]}, status) == {"cpu": 4000}


def test_what_can_never_be_given_does_not_count() -> None:
    status = {
        "conditions": [{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}],
        "containerStatuses": [
            {"name": "main", "resources": {"requests": {"cpu": "1"}}, "allocatedResources": {"cpu": "1"}}
        ],
    }
    assert requests({"containers": [container(cpu="400")]}, status) == {"cpu": 1000}


@pytest.mark.parametrize(
    ("resource", "written", "wanted"),
    [("cpu", "100m", 100), ("cpu", "1.0005", 1001), ("memory", "1.5Gi", 3 * 2**29), ("nvidia.com/gpu", "1k", 1000)],
)
def test_amounts_are_whole_and_rounded_up(resource: str, written: str, wanted: int) -> None:
    assert amount(resource, written) == wanted


@pytest.mark.parametrize("written", ["", "many", "1Zi", "-1", True])
def test_what_is_no_amount_is_refused(written: str) -> None:
    with pytest.raises(ValueError):
        amount("memory", written)


def test_whole_gpus_are_named_before_claims_and_claims_before_parts() -> None:
    claim = "deviceclass.resource.kubernetes.io/gpu.nvidia.com"
    assert gpu_resource_of({"nvidia.com/mig-1g.10gb": 7, "nvidia.com/gpu": 1}) == "nvidia.com/gpu"
    assert gpu_resource_of({"nvidia.com/mig-1g.10gb": 7, claim: 8}) == claim
    assert gpu_resource_of({"nvidia.com/gpu": 0, "nvidia.com/mig-1g.10gb": 7}) == "nvidia.com/mig-1g.10gb"
    assert gpu_resource_of({"cpu": 1}) == ""
