"""Nodes: what they are, what they should have, how they do."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fleet.kube import Object, named, node, pod

from ironloom.fleet.build import build_fleet
from ironloom.fleet.model import Fleet, FleetNode, Lifecycle

H100 = {"node.kubernetes.io/instance-type": "gd-8xh100ib-i128"}


def fleet(*objects: Object, **options: Any) -> Fleet:
    return build_fleet(objects, name="test", source="a test", **options)


def one(**options: Any) -> FleetNode:
    return fleet(node("n1", **options)).nodes[0]


HEALTH = {
    "a node that is ready": ({}, Lifecycle.READY, ""),
    "its kubelet does not report": ({"ready": "Unknown"}, Lifecycle.NOT_READY, "Ready is Unknown"),
    "it is cordoned": ({"unschedulable": True}, Lifecycle.CORDONED, "unschedulable"),
    "the autoscaler takes it away": (
        {"taints": ("ToBeDeletedByClusterAutoscaler=1:NoSchedule",)}, Lifecycle.DRAINING, "ToBeDeleted"),
    "Karpenter disrupts it": ({"taints": ("karpenter.sh/disrupted:NoSchedule",)}, Lifecycle.DRAINING, "disrupted"),
    "CoreWeave tests it": ({"labels": {"node.coreweave.cloud/state": "zap"}}, Lifecycle.TESTING, "zap"),
    "CoreWeave looks into it": ({"labels": {"node.coreweave.cloud/state": "triage"}}, Lifecycle.BROKEN, "triage"),
    "CoreWeave has it in production": ({"labels": {"node.coreweave.cloud/state": "production"}}, Lifecycle.READY, ""),
    "HyperPod wants to replace it": (
        {"labels": {"sagemaker.amazonaws.com/node-health-status": "UnschedulablePendingReplacement"}},
        Lifecycle.BROKEN, "PendingReplacement"),
    "HyperPod finds it well": (
        {"labels": {"sagemaker.amazonaws.com/node-health-status": "Schedulable"}}, Lifecycle.READY, ""),
    "EKS finds a fault of a GPU": (
        {"conditions": {"AcceleratedHardwareReady": "False"}}, Lifecycle.BROKEN, "AcceleratedHardwareReady"),
    "its kernel hangs": ({"conditions": {"KernelDeadlock": "True"}}, Lifecycle.BROKEN, "KernelDeadlock"),
    "a broken node that is cordoned too is broken": (
        {"conditions": {"KernelDeadlock": "True"}, "unschedulable": True}, Lifecycle.BROKEN, "KernelDeadlock"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEALTH)
def test_lifecycle(case: str) -> None:
    options, lifecycle, why = HEALTH[case]
    found = one(**options)
    assert found.lifecycle is lifecycle
    assert why in found.why
    assert bool(found.why) == (lifecycle is not Lifecycle.READY)


PRODUCTS = {
    "GPU Feature Discovery": ({"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}, "H100-SXM5-80GB"),
    "CoreWeave": ({"gpu.nvidia.com/class": "H100_NVLINK_80GB"}, "H100-SXM5-80GB"),
    "GKE": ({"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}, "H100-SXM5-80GB"),
    "its instance type": (H100, "H100-SXM5-80GB"),
    "nobody": ({}, None),
}


@pytest.mark.parametrize("who", PRODUCTS)
def test_the_accelerator_is_told_by(who: str) -> None:
    labels, accelerator = PRODUCTS[who]
    assert one(labels=labels).accelerator == accelerator


def test_seven_of_eight_gpus_are_told_by_the_instance_type() -> None:
    assert one(labels=H100, gpus=7).is_degraded


def test_seven_of_eight_gpus_are_told_by_the_count_that_discovery_made() -> None:
    assert one(labels={"nvidia.com/gpu.count": "8"}, gpus=7).is_degraded


def test_seven_of_eight_gpus_are_told_by_siblings_where_nothing_else_says() -> None:
    siblings = [node(f"n{index}", labels={"eks.amazonaws.com/nodegroup": "a"}) for index in range(3)]
    odd = node("odd", labels={"eks.amazonaws.com/nodegroup": "a"}, gpus=7)
    found = fleet(*siblings, odd).node_by_name
    assert found["odd"].expected_num_gpus == 8
    assert found["odd"].is_degraded
    assert not found["n0"].is_degraded


def test_two_nodes_alone_are_no_family_to_judge_a_third_by() -> None:
    found = fleet(node("big"), node("small", gpus=4)).node_by_name
    assert not found["small"].is_degraded


def test_a_node_of_another_pool_is_no_sibling() -> None:
    many = [node(f"n{index}", labels={"eks.amazonaws.com/nodegroup": "a"}) for index in range(5)]
    found = fleet(*many, node("small", labels={"eks.amazonaws.com/nodegroup": "b"}, gpus=4)).node_by_name
    assert not found["small"].is_degraded


def test_a_node_whose_gpus_nobody_offers_has_none_of_the_eight_it_should_have() -> None:
    found = one(labels=H100, gpus=None)
    assert (found.gpu_resource, found.num_gpus, found.expected_num_gpus) == ("nvidia.com/gpu", 0, 8)
    assert found.is_degraded


def test_time_slices_are_not_held_against_the_number_of_gpus() -> None:
    labels = {
        "nvidia.com/gpu.count": "8",
        "nvidia.com/gpu.replicas": "4",
        "nvidia.com/gpu.sharing-strategy": "time-slicing",
    }
    assert not one(labels=labels, gpus=32).is_degraded
    mig = {"nvidia.com/mig-1g.10gb": "7"}
    assert not one(labels={"nvidia.com/gpu.count": "8"}, gpus=1, capacity=mig).is_degraded


CABLES = {
    "backend.coreweave.cloud/flavor": "infiniband",
    "backend.coreweave.cloud/speed.current": "400G",
    "backend.coreweave.cloud/speed.expected": "400G",
    **{f"backend.coreweave.cloud/neighbors.{which}.ibp{port}.device": f"leaf-{port}"
       for which in ("current", "expected") for port in range(8)},
}  # fmt: skip


def test_links_of_a_node_that_is_cabled_as_planned() -> None:
    nvlink, network = one(labels={**H100, **CABLES}).links
    assert (nvlink.kind, nvlink.gbit_per_s) == ("nvlink", 3600)
    assert (network.kind, network.num_rails, network.gbit_per_s, network.problem) == ("infiniband", 8, 400, "")


def test_another_neighbour_than_the_planned_one_is_named() -> None:
    labels = {**CABLES, "backend.coreweave.cloud/neighbors.current.ibp3.device": "leaf-5"}
    (link,) = one(labels=labels).links
    assert link.problem == "ibp3 should be at device leaf-3 and is at leaf-5"


def test_a_cable_that_is_not_seen_is_named() -> None:
    lost = "backend.coreweave.cloud/neighbors.current.ibp3.device"
    labels = {key: value for key, value in CABLES.items() if key != lost}
    (link,) = one(labels=labels).links
    assert link.problem == "ibp3 should be at device leaf-3 and is at none"


def test_a_link_that_is_slower_than_it_should_be_is_named() -> None:
    (link,) = one(labels={**CABLES, "backend.coreweave.cloud/speed.current": "200G"}).links
    assert link.problem == "the speed of its InfiniBand is 200 Gbit/s and should be 400"


def test_the_speed_of_a_whole_node_is_shared_among_its_rails() -> None:
    (link,) = one(labels={**CABLES, "backend.coreweave.cloud/speed.current": "3200G"}).links
    assert link.gbit_per_s == 400


def test_pods_that_have_ended_hold_nothing_and_those_that_wait_hold_nothing_either() -> None:
    found = fleet(
        node("n1"),
        pod("a", on="n1", gpu=2),
        pod("b", on="n1", gpu=4, phase="Succeeded"),
        pod("c", on="n1", gpu=4, phase="Failed"),
        pod("d", phase="Pending", gpu=4),
    )
    assert dict(found.nodes[0].allocated) == {"nvidia.com/gpu": 2, "pods": 1}
    assert found.nodes[0].num_free_gpus == 6
    assert [one.name for one in found.pods] == ["a", "d"]


GROUPS = {
    "jobset.sigs.k8s.io/jobset-name": ({"jobset.sigs.k8s.io/jobset-name": "train"}, "team-a/train"),
    "a leader-worker set is a gang a group": (
        {"leaderworkerset.sigs.k8s.io/name": "llm", "leaderworkerset.sigs.k8s.io/group-index": "2"}, "team-a/llm-2"),
    "kueue's pod group": ({"kueue.x-k8s.io/pod-group-name": "g"}, "team-a/g"),
    "none": ({"app": "x"}, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", GROUPS)
def test_the_gang_of_a_pod(case: str) -> None:
    labels, workload = GROUPS[case]
    assert fleet(node("n1"), pod("a", on="n1", labels=labels)).pods[0].workload == workload


def test_the_gang_of_a_pod_that_joined_a_pod_group() -> None:
    made = pod("a")
    made["spec"]["schedulingGroup"] = {"podGroupName": "workers"}
    assert fleet(node("n1"), made).pods[0].workload == "team-a/workers"


CLAIM_RESOURCE = "deviceclass.resource.kubernetes.io/gpu.nvidia.com"


def resource_slice(name: str, host: str, count: int, generation: int = 1) -> Object:
    devices = [{"name": f"gpu-{index}", "attributes": {"type": {"string": "gpu"}}} for index in range(count)]
    devices.append({"name": "mig", "attributes": {"type": {"string": "mig"}}})
    pool = {"name": host, "generation": generation, "resourceSliceCount": 1}
    return named("resource.k8s.io/v1", "ResourceSlice", name,
                 spec={"driver": "gpu.nvidia.com", "nodeName": host, "pool": pool, "devices": devices})  # fmt: skip


def claim(name: str, host: str, count: int, *pods: str) -> Object:
    results = [{"driver": "gpu.nvidia.com", "pool": host, "device": f"gpu-{index}"} for index in range(count)]
    reserved = [{"resource": "pods", "name": one} for one in pods]
    return named("resource.k8s.io/v1", "ResourceClaim", name, "team-a",
                 status={"allocation": {"devices": {"results": results}}, "reservedFor": reserved})  # fmt: skip


def test_gpus_that_claims_hand_out_are_counted_once() -> None:
    found = fleet(
        node("n1", gpus=None),
        resource_slice("s", "n1", 8),
        resource_slice("old", "n1", 2, generation=0),
        claim("shared", "n1", 2, "b", "a"),
        claim("unreserved", "n1", 1),
        pod("a", on="n1"),
        pod("b", on="n1"),
    )
    (host,) = found.nodes
    assert host.gpu_resource == CLAIM_RESOURCE
    assert (host.num_gpus, host.num_free_gpus) == (8, 5)
    assert found.pods[0].requests[CLAIM_RESOURCE] == 2
    assert CLAIM_RESOURCE not in found.pods[1].requests


def test_a_pod_that_waits_for_its_claim_asks_for_what_the_claim_asks_for() -> None:
    request = {"name": "gpus", "exactly": {"deviceClassName": "gpu.nvidia.com", "count": 4}}
    waiting = named("resource.k8s.io/v1", "ResourceClaim", "c", "team-a", spec={"devices": {"requests": [request]}})
    waiting["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", "name": "a", "controller": True}]
    found = fleet(node("n1"), pod("a", phase="Pending"), waiting)
    assert found.pods[0].requests[CLAIM_RESOURCE] == 4
    assert found.nodes[0].num_free_gpus == 8
