"""What nodes could still come, of which kind, and what zero pods frees."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fleet.kube import Object, named, node

from ironloom.errors import ManifestError
from ironloom.fleet.build import build_fleet
from ironloom.fleet.model import NodePool
from ironloom.fleet.supply import billing

H100 = "gd-8xh100ib-i128"


def pools(*objects: Object) -> dict[str, NodePool]:
    found = build_fleet((node("other"), *objects), name="test", source="a test").pools
    return {pool.name: pool for pool in found}


def coreweave(**spec: Any) -> Object:
    return named("compute.coreweave.com/v1alpha1", "NodePool", "h100", spec={"instanceType": H100, **spec})


def of_pool(count: int) -> list[Object]:
    labels = {"compute.coreweave.com/node-pool": "h100", "node.kubernetes.io/instance-type": H100}
    return [node(f"m{index}", labels=labels) for index in range(count)]


def test_a_coreweave_pool_of_a_fixed_size_gives_what_is_missing_of_its_target() -> None:
    pool = pools(coreweave(targetNodes=6), *of_pool(4))["h100"]
    assert (pool.num_nodes, pool.num_more, pool.is_autoscaled) == (4, 2, False)
    assert pool.instance_types == (H100,)
    assert "frees none of the 4 nodes" in billing(pool)
    assert "196.96 USD an hour" in billing(pool)


def test_a_coreweave_pool_that_scales_gives_up_to_its_most() -> None:
    pool = pools(coreweave(targetNodes=4, autoscaling=True, minNodes=1, maxNodes=10), *of_pool(4))["h100"]
    assert (pool.min_nodes, pool.num_more, pool.is_autoscaled) == (1, 6, True)
    assert "frees at most 3 of the 4 nodes" in billing(pool)


def test_what_zero_pods_frees_is_said_in_whole_sentences() -> None:
    def told(**spec: Any) -> str:
        return billing(pools(coreweave(autoscaling=True, maxNodes=9, **spec), *of_pool(2))["h100"])

    assert told(minNodes=2) == (
        "Zero pods frees none of the 2 nodes of pool h100, 98.48 USD an hour at list price: its autoscaler keeps 2"
    )
    assert told(minNodes=0) == (
        "Zero pods frees the 2 nodes of pool h100, 98.48 USD an hour at list price, only when its autoscaler takes them"
        " away"
    )
    assert told(minNodes=1) == (
        "Zero pods frees at most 1 of the 2 nodes of pool h100, 49.24 USD an hour at list price: its autoscaler keeps"
        " 1, and takes others away only after a while"
    )


def test_a_condition_without_a_message_is_told_by_its_state() -> None:
    pool = coreweave(targetNodes=2)
    pool["status"] = {"conditions": [{"type": "Accepted", "status": "False"}]}
    assert pools(pool)["h100"].note == "Accepted is False"
    pool["status"] = {"conditions": [{"type": "Accepted", "status": "False", "reason": "NoQuota"}]}
    assert pools(pool)["h100"].note == "Accepted is False: NoQuota"


def test_a_pool_without_nodes_says_what_one_will_have_by_the_catalogue() -> None:
    pool = pools(coreweave(targetNodes=0, autoscaling=True, minNodes=0, maxNodes=3, nodeLabels={"team": "a"}))["h100"]
    assert pool.allocatable["nvidia.com/gpu"] == 8
    assert pool.labels == {"team": "a"}
    assert billing(pool) == ""


def test_a_rack_of_nvl72_grows_by_racks() -> None:
    rack = named(
        "compute.coreweave.com/v1alpha1", "NodePool", "gb", spec={"instanceType": "gb200-4x", "targetNodes": 18}
    )
    assert "racks of 18 nodes" in pools(rack)["gb"].note


def karpenter(limits: Object | None = None, **spec: Any) -> Object:
    requirements = [
        {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["p5.48xlarge"]},
        {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["reserved"]},
    ]
    reference = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}
    taints = [{"key": "gpu", "effect": "NoSchedule"}]
    template = {"spec": {"requirements": requirements, "taints": taints, "nodeClassRef": reference}}
    return named("karpenter.sh/v1", "NodePool", "gpu", spec={"template": template, "limits": limits or {}, **spec})


def test_a_karpenter_pool_s_limit_of_gpus_is_a_number_of_nodes() -> None:
    pool = pools(karpenter({"nvidia.com/gpu": 32}))["gpu"]
    assert (pool.max_nodes, pool.num_more) == (4, 4)
    assert pool.taints[0].key == "gpu"
    assert pool.labels["karpenter.sh/capacity-type"] == "reserved"


def test_a_karpenter_pool_without_limits_has_no_known_most() -> None:
    pool = pools(karpenter())["gpu"]
    assert pool.num_more is None
    assert "no limits" in pool.note


def test_a_karpenter_pool_of_a_fixed_number_has_that() -> None:
    pool = pools(karpenter({"nodes": "2"}, replicas=5))["gpu"]
    assert (pool.min_nodes, pool.max_nodes, pool.is_autoscaled) == (5, 2, False)


def test_a_node_class_that_is_not_ready_or_has_reservations_is_told() -> None:
    status = {
        "conditions": [{"type": "Ready", "status": "False", "message": "no subnets"}],
        "capacityReservations": [{"id": "cr-1", "instanceType": "p5.48xlarge"}],
    }
    pool = pools(karpenter(), named("karpenter.k8s.aws/v1", "EC2NodeClass", "gpu", status=status))["gpu"]
    assert "EC2NodeClass gpu is not ready: no subnets" in pool.note
    assert "cr-1 (p5.48xlarge)" in pool.note


def machines(kind: str = "MachineDeployment", name: str = "md", **rest: Any) -> Object:
    made = named("cluster.x-k8s.io/v1beta2", kind, name, "default", spec={"replicas": 1}, **rest)
    made["metadata"]["annotations"] = {
        "cluster.x-k8s.io/cluster-api-autoscaler-node-group-min-size": "1",
        "cluster.x-k8s.io/cluster-api-autoscaler-node-group-max-size": "5",
        "capacity.cluster-autoscaler.kubernetes.io/gpu-count": "8",
        "capacity.cluster-autoscaler.kubernetes.io/cpu": "96",
        "capacity.cluster-autoscaler.kubernetes.io/labels": "team=a,rack=r1",
    }
    return made


def test_the_autoscaler_s_annotations_on_a_machine_deployment_are_a_pool() -> None:
    pool = pools(machines())["md"]
    assert (pool.num_nodes, pool.min_nodes, pool.max_nodes, pool.num_more) == (1, 1, 5, 4)
    assert dict(pool.allocatable) == {"cpu": 96_000, "nvidia.com/gpu": 8}
    assert pool.labels == {"team": "a", "rack": "r1"}


def test_a_machine_set_of_a_deployment_is_not_counted_twice() -> None:
    owned = machines("MachineSet", "md-abc")
    owned["metadata"]["ownerReferences"] = [{"kind": "MachineDeployment", "name": "md"}]
    assert "md-abc" not in pools(machines(), owned)


STATUS_NEW = """\
autoscalerStatus: Running
nodeGroups:
- name: eks-gpu-62c1e3a4
  health: {status: Healthy, cloudProviderTarget: 2, minSize: 0, maxSize: 6}
- name: lone
  health: {status: Healthy, cloudProviderTarget: 0, minSize: 0, maxSize: 3}
"""
STATUS_OLD = """\
NodeGroups:
  Name:        eks-gpu-62c1e3a4
  Health:      Healthy (ready=2 unready=0 cloudProviderTarget=2 (minSize=0, maxSize=6))
  Name:        lone
  Health:      Healthy (ready=0 unready=0 cloudProviderTarget=0 (minSize=0, maxSize=3))
"""


@pytest.mark.parametrize("status", [STATUS_NEW, STATUS_OLD], ids=["yaml", "text"])
def test_the_autoscaler_s_status_says_how_far_the_groups_of_a_cloud_go(status: str) -> None:
    told = named("v1", "ConfigMap", "cluster-autoscaler-status", "kube-system", data={"status": status})
    members = [node(f"g{index}", labels={"eks.amazonaws.com/nodegroup": "gpu"}) for index in range(2)]
    found = pools(told, *members)
    assert (found["gpu"].kind, found["gpu"].num_more, found["gpu"].is_autoscaled) == ("eks", 4, True)
    assert (found["lone"].num_nodes, found["lone"].num_more) == (0, 3)


@pytest.mark.parametrize("status", ["", ": [", "a: &x [*x]", "nodeGroups: 3", "- 1", "[" * 100_000])
def test_a_status_that_says_nothing_is_passed_over(status: str) -> None:
    told = named("v1", "ConfigMap", "cluster-autoscaler-status", "kube-system", data={"status": status})
    assert pools(told) == {}


@pytest.mark.parametrize(
    ("label", "kind"),
    [("cloud.google.com/gke-nodepool", "gke"), ("eks.amazonaws.com/nodegroup", "eks"),
     ("oci.oraclecloud.com/node-pool-id", "oke"), ("sagemaker.amazonaws.com/instance-group-name", "hyperpod")],
)  # fmt: skip
def test_a_pool_that_only_labels_tell_of_may_grow_or_not(label: str, kind: str) -> None:
    pool = pools(*[node(f"m{index}", labels={label: "p"}) for index in range(2)])["p"]
    assert (pool.kind, pool.num_nodes, pool.num_more) == (kind, 2, None)
    assert "unless an autoscaler that is not known here" in billing(pool)


def test_a_degraded_node_is_no_example_of_the_next() -> None:
    label = {"cloud.google.com/gke-nodepool": "p"}
    pool = pools(node("a", labels=label, gpus=7), node("b", labels=label))["p"]
    assert pool.allocatable["nvidia.com/gpu"] == 8


def test_a_limit_that_is_no_quantity_is_refused() -> None:
    with pytest.raises(ManifestError, match="not as the Kubernetes API writes it"):
        pools(karpenter({"cpu": "lots"}))
