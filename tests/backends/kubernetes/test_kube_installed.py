"""A gateway that is installed and answers nothing: why, in its cluster's own words."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.backends.kubernetes.install import Setting, objects
from ironloom.backends.kubernetes.installed import FORMS, POD_SELECTOR, SELECTOR, is_up, why

PULL = {
    "containerStatuses": [
        {
            "name": "gateway",
            "image": "ironloom:0.1.0",
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "pull access denied"}},
        }
    ]
}
UNPLACED = {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]}
UNBOUND = {
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "message": "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
        }
    ]
}
READY = {"conditions": [{"type": "Ready", "status": "True"}]}
QUOTA = {"type": "ReplicaFailure", "status": "True", "message": "pods is forbidden: exceeded quota: small."}
MINIMUM = {"type": "Available", "status": "False", "message": "Deployment does not have minimum availability."}


def deployment(*conditions: dict[str, Any], replicas: int = 1, **status: int) -> dict[str, Any]:
    return {
        "metadata": {"generation": 2},
        "spec": {"replicas": replicas},
        "status": {"conditions": list(conditions), **status},
    }


def pod(status: dict[str, Any], node: str = "") -> dict[str, Any]:
    return {"metadata": {"name": "ironloom-x"}, "spec": {"nodeName": node}, "status": status}


@pytest.mark.parametrize(
    ("of", "pods", "said"),
    [
        pytest.param(deployment(replicas=0), [], "it is scaled to 0", id="nobody wants one"),
        pytest.param(
            deployment(QUOTA, MINIMUM), [], "pods is forbidden: exceeded quota: small", id="no pod may be made"
        ),
        pytest.param(
            deployment(MINIMUM),
            [pod(UNPLACED), pod(PULL, "n")],
            "pod ironloom-x: its image cannot be pulled ironloom:0.1.0: pull access denied",
            id="what does not pass by itself is told before what may",
        ),
        pytest.param(deployment(MINIMUM), [pod(UNPLACED)], "0/1 nodes are available", id="it waits for a node"),
        pytest.param(deployment(MINIMUM), [pod(READY, "n")], "is ready and has not said yet", id="a moment more"),
        pytest.param(
            deployment(MINIMUM), [], "Deployment does not have minimum availability", id="its pods may not be seen"
        ),
        pytest.param(deployment(), [], "its pods are being made", id="a moment after the apply"),
        pytest.param(
            {"kind": "StatefulSet", "spec": {"replicas": 1}, "status": {"replicas": 1}},
            [pod(UNBOUND)],
            "pod has unbound immediate PersistentVolumeClaims",
            id="a volume that nobody makes",
        ),
    ],
)
def test_it_is_told_why_none_of_its_pods_answers(of: dict[str, Any], pods: list[dict[str, Any]], said: str) -> None:
    assert said in why(of, pods)


@pytest.mark.parametrize(
    ("status", "is_so"),
    [
        ({}, False),
        ({"observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 2}, True),
        ({"observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 2}, False),
        ({"observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 1}, False),
        ({"observedGeneration": 1, "updatedReplicas": 2, "availableReplicas": 2}, False),
    ],
)
def test_it_is_up_when_all_pods_of_what_was_applied_last_are_ready(status: dict[str, int], is_so: bool) -> None:
    assert is_up(deployment(replicas=2, **status)) is is_so


@pytest.mark.parametrize("size", ["", "10Gi"])
def test_what_is_selected_is_what_an_installation_makes(size: str) -> None:
    def selects(selector: str, labels: dict[str, str]) -> bool:
        return dict(word.split("=") for word in selector.split(",")).items() <= labels.items()

    (made,) = (one for one in objects(Setting(namespace="models", state_size=size)) if one["kind"] in FORMS)
    assert selects(SELECTOR, made["metadata"]["labels"])
    assert selects(POD_SELECTOR, made["spec"]["template"]["metadata"]["labels"])
    for claim in made["spec"].get("volumeClaimTemplates", ()):
        assert selects(SELECTOR, claim["metadata"]["labels"])
