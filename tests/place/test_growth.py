"""What pools can still give to a pod that waits, and what an empty node costs."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fleet.kube import named, node

from ironloom.fleet.build import build_fleet
from ironloom.fleet.model import NodePool, Taint
from ironloom.place.growth import cost_when_empty, outlook, requests, supply

H100 = "gd-8xh100ib-i128"
"""Of CoreWeave, 8 GPUs, 49.24 USD an hour in the catalogue."""


def pool(**fields: Any) -> NodePool:
    return NodePool(**{"name": "gpu", "kind": "karpenter", "is_autoscaled": True, **fields})


def pod(num_gpus: int = 1, **spec: Any) -> dict[str, Any]:
    return {"containers": [{"name": "a", "resources": {"limits": {"nvidia.com/gpu": str(num_gpus)}}}], **spec}


def test_what_a_pod_asks_for_is_read_from_its_spec_and_nonsense_asks_for_nothing() -> None:
    assert requests(pod(4)) == {"nvidia.com/gpu": 4}
    assert requests({"containers": [{"name": "a", "resources": {"limits": {"cpu": "some"}}}]}) == {}
    assert requests({"containers": 7}) == {}


SUPPLIES: dict[str, tuple[NodePool, str]] = {
    "one that may grow says by how much": (
        pool(num_nodes=1, max_nodes=4),
        "pool gpu (karpenter) can still give 3 nodes; 1 node is there",
    ),
    "one of CoreWeave says how long that takes": (
        pool(kind="coreweave", num_nodes=2, max_nodes=3),
        "pool gpu (coreweave) can still give 1 node; 2 nodes are there; one takes 5 to 15 minutes to come",
    ),
    "one that is full gives no more": (
        pool(num_nodes=2, max_nodes=2),
        "pool gpu (karpenter) gives no more: all 2 nodes that it may have are there",
    ),
    "one at zero says so": (pool(num_nodes=0, max_nodes=0), "pool gpu (karpenter) is set to no nodes at all"),
    "one without a limit says that it has none": (
        pool(num_nodes=0),
        "pool gpu (karpenter) says nowhere how many nodes it may have; 0 nodes are there",
    ),
    "one of a fixed size that lacks some says both numbers": (
        pool(num_nodes=2, max_nodes=6, is_autoscaled=False),
        "pool gpu (karpenter) is to have 6 nodes, and 2 nodes are there",
    ),
    "what the pool says of itself is told": (
        pool(num_nodes=0, max_nodes=4, note="EC2NodeClass gpu is not ready: no subnets"),
        "pool gpu (karpenter) can still give 4 nodes; 0 nodes are there (EC2NodeClass gpu is not ready: no subnets)",
    ),
}


@pytest.mark.parametrize("name", SUPPLIES)
def test_what_a_pool_can_still_give(name: str) -> None:
    found, said = SUPPLIES[name]
    assert supply(found) == said


REFUSALS: dict[str, tuple[NodePool, dict[str, Any], str]] = {
    "a taint that is not tolerated": (
        pool(taints=(Taint(key="gpu", effect="NoSchedule"),)),
        pod(),
        "its taint gpu is not tolerated",
    ),
    "too few GPUs on a node": (
        pool(allocatable={"nvidia.com/gpu": 4}),
        pod(8),
        "a node of it has 4 nvidia.com/gpu and 8 are asked for",
    ),
    "none at all on a node": (
        pool(allocatable={"cpu": 4000}),
        pod(1),
        "a node of it has 0 nvidia.com/gpu and 1 are asked for",
    ),
    "another label": (pool(labels={"team": "a"}), pod(nodeSelector={"team": "b"}), "its nodes have team=a, not b"),
    "another instance type": (
        pool(instance_types=("p5.48xlarge",)),
        pod(nodeSelector={"node.kubernetes.io/instance-type": "p4d.24xlarge"}),
        "its nodes are p5.48xlarge, not p4d.24xlarge",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_pool_whose_nodes_would_not_take_the_pod_says_why(name: str) -> None:
    found, spec, why = REFUSALS[name]
    assert str(outlook(spec, [found])) == f"no pool that is known has nodes for it: pool gpu: {why}"


def test_pools_that_could_outrank_those_that_could_not_and_no_pool_says_nothing() -> None:
    fits, other = pool(num_nodes=0, max_nodes=1), pool(name="cpu", allocatable={"cpu": 4000})
    assert str(outlook(pod(), [other, fits])) == "pool gpu (karpenter) can still give 1 node; 0 nodes are there"
    tolerating = pod(tolerations=[{"key": "gpu", "operator": "Exists"}])
    assert outlook(tolerating, [pool(taints=(Taint(key="gpu", effect="NoSchedule"),))]).could
    assert str(outlook(pod(), [])) == ""


PRICED = "an empty node of it costs 49.24 USD an hour at list price"
UNPRICED = "an empty node of it costs as much as a full one (no price of it is known here)"
DEFAULT = "the default of the cluster autoscaler"
COSTS: dict[str, tuple[NodePool, str]] = {
    "an autoscaled pool's goes after its time": (
        pool(kind="coreweave", instance_types=(H100,), num_nodes=2, min_nodes=0, empty_for_s=600.0),
        f"{PRICED}, until its autoscaler takes it away after 10m by {DEFAULT}, which is 8.21 USD",
    ),
    "one that keeps its nodes costs for ever": (
        pool(instance_types=(H100,), num_nodes=2, min_nodes=2, empty_for_s=30.0),
        f"{PRICED}, for as long as it stands: the pool keeps 2 nodes",
    ),
    "one of a fixed size costs for ever": (
        pool(instance_types=(H100,), num_nodes=2, is_autoscaled=False),
        f"{PRICED}, for as long as it stands: nothing takes it away",
    ),
    "without a price there is none": (
        pool(num_nodes=1, min_nodes=0, empty_for_s=30.0),
        f"{UNPRICED}, until its autoscaler takes it away after 30s",
    ),
    "who takes it away may not be known": (
        pool(instance_types=("no-such-type",), is_autoscaled=None),
        f"{UNPRICED}, until something takes it away: whether anything does is not said in the cluster",
    ),
}


@pytest.mark.parametrize("name", COSTS)
def test_what_an_empty_node_costs(name: str) -> None:
    found, said = COSTS[name]
    assert cost_when_empty(found) == said


@pytest.mark.parametrize(
    ("disruption", "seconds"),
    [({}, 0.0), ({"consolidateAfter": "1h30m"}, 5400.0), ({"consolidateAfter": "Never"}, None)],
)
def test_how_long_karpenter_leaves_an_empty_node_is_read_from_its_pool(
    disruption: dict[str, str], seconds: float | None
) -> None:
    made = named("karpenter.sh/v1", "NodePool", "gpu", spec={"disruption": disruption})
    (found,) = build_fleet((node("other"), made), name="test", source="a test").pools
    assert found.empty_for_s == seconds
