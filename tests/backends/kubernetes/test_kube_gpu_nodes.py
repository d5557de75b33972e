"""Tolerations from the taints of nodes."""

from __future__ import annotations

import msgspec
import pytest

from ironloom.backends.kubernetes.gpu_nodes import Node, tolerations

GPU = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
TEAM = {"key": "team", "effect": "NoExecute"}
CORDONED = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
SOFT = {"key": "spot", "effect": "PreferNoSchedule"}


def node(*taints: dict[str, str], gpus: str = "8") -> Node:
    return msgspec.convert(
        {"spec": {"taints": list(taints)}, "status": {"allocatable": {"nvidia.com/gpu": gpus}}}, Node
    )


@pytest.mark.parametrize(
    ("nodes", "keys"),
    [
        pytest.param([], [], id="no nodes, no tolerations"),
        pytest.param([node(GPU), node(GPU)], ["nvidia.com/gpu"], id="a taint of all GPU nodes is tolerated"),
        pytest.param([node(GPU), node(GPU, TEAM)], ["nvidia.com/gpu"], id="one of some is for somebody else"),
        pytest.param([node(GPU), node()], [], id="a node without one takes the pod as it is"),
        pytest.param([node(GPU, CORDONED)], ["nvidia.com/gpu"], id="a cordon is never tolerated"),
        pytest.param([node(SOFT)], [], id="a preference needs no toleration"),
        pytest.param([node(GPU), node(TEAM, gpus="0")], ["nvidia.com/gpu"], id="nodes without GPUs say nothing"),
    ],
)
def test_tolerations_are_those_of_the_taints_that_all_gpu_nodes_have(nodes: list[Node], keys: list[str]) -> None:
    assert [one["key"] for one in tolerations(nodes, "nvidia.com/gpu")] == keys


def test_a_taint_with_a_value_is_tolerated_with_this_value_alone() -> None:
    assert tolerations([node(GPU)], "nvidia.com/gpu") == (
        {"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"},
    )
    assert tolerations([node(TEAM)], "nvidia.com/gpu") == (
        {"key": "team", "operator": "Exists", "effect": "NoExecute"},
    )
