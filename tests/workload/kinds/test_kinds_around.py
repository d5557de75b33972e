"""What stands beside a workload: autoscalers, pod groups; and where its pods wish to stand together."""

from __future__ import annotations

import pytest
from tests.workload.kinds import manifests
from tests.workload.kinds.manifests import DEPLOYMENT, JOB, POD, found, only

from ironloom.workload.workload import TopologyWish

HPA = """\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
spec: {minReplicas: 2, maxReplicas: 9, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}}
"""
SCALED_OBJECT = """\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
spec: {idleReplicaCount: 0, minReplicaCount: 2, scaleTargetRef: {name: d}}
"""


@pytest.mark.parametrize(
    ("scaler", "low", "high", "decider"),
    [
        (HPA, 2, 9, "hpa"),
        (HPA.replace("minReplicas: 2, ", ""), 1, 9, "hpa"),
        (SCALED_OBJECT, 0, 100, "keda"),
        (SCALED_OBJECT.replace("idleReplicaCount: 0, ", ""), 2, 100, "keda"),
        (f"{HPA}---\n{SCALED_OBJECT}", 0, 100, "keda"),
        (HPA.replace("kind: Deployment", "kind: StatefulSet"), 3, 3, ""),
        (HPA.replace("name: d}", "name: other}"), 3, 3, ""),
        (HPA.replace("spec:", "metadata: {namespace: elsewhere}\nspec:"), 2, 9, "hpa"),
    ],
)
def test_an_autoscaler_decides_the_number_of_its_target(scaler: str, low: int, high: int, decider: str) -> None:
    (one,) = found(f"{DEPLOYMENT}---\n{scaler}").workloads
    assert (one.replicas.min, one.replicas.max, one.replicas.decider) == (low, high, decider)
    assert one.replicas.path == ("spec", "replicas")


def test_an_autoscaler_of_another_namespace_decides_nothing() -> None:
    target = DEPLOYMENT.replace("name: d}", "name: d, namespace: here}", 1)
    scaler = HPA.replace("spec:", "metadata: {namespace: elsewhere}\nspec:")
    assert found(f"{target}---\n{scaler}").workloads[0].replicas.decider == ""


def pod_with(spec: str) -> str:
    return POD.replace("spec:\n", f"spec:\n  {spec}\n", 1)


WORKLOAD = """\
apiVersion: scheduling.k8s.io/v1alpha1
kind: Workload
metadata: {name: w, namespace: team}
spec: {podGroups: [{name: workers, policy: {POLICY}}]}
"""
POD_GROUP = """\
apiVersion: scheduling.k8s.io/v1alpha2
kind: PodGroup
metadata: {name: g, namespace: team}
spec: {schedulingPolicy: {POLICY}, schedulingConstraints: {topology: [{key: rack}]}}
"""


@pytest.mark.parametrize(("policy", "is_gang"), [("gang: {minCount: 4}", True), ("basic: {}", False)])
def test_pods_of_a_workload_of_kubernetes_own(policy: str, is_gang: bool) -> None:
    pod = pod_with("workloadRef: {name: w, podGroup: workers}")
    assert found(f"{pod}---\n{WORKLOAD.replace('POLICY', policy)}").workloads[0].is_gang is is_gang


@pytest.mark.parametrize(("policy", "is_gang"), [("gang: {minCount: 4}", True), ("basic: {}", False)])
def test_pods_of_a_pod_group_of_kubernetes_own(policy: str, is_gang: bool) -> None:
    pod = pod_with("schedulingGroup: {podGroupName: g}")
    (one,) = found(f"{pod}---\n{POD_GROUP.replace('POLICY', policy)}").workloads
    (wish,) = one.pod_sets[0].topology
    assert one.is_gang is is_gang
    assert (wish.key, wish.is_required, wish.source) == ("rack", True, "workload-api")
    assert wish.path == ("spec", "schedulingGroup", "podGroupName"), "where the pod names the group"


def test_a_group_that_is_not_there_is_taken_for_a_gang() -> None:
    assert only(pod_with("workloadRef: {name: w, podGroup: workers}")).is_gang


@pytest.mark.parametrize(
    "metadata",
    [
        "labels: {scheduling.x-k8s.io/pod-group: g}",
        "labels: {pod-group.scheduling.sigs.k8s.io: g}",
        "annotations: {scheduling.k8s.io/group-name: g}",
    ],
)
def test_labels_and_annotations_that_name_a_group(metadata: str) -> None:
    assert only(POD.replace("namespace: team", metadata)).is_gang


def wishes(annotations: str) -> list[TopologyWish]:
    text = POD.replace("namespace: team", f"annotations: {{{annotations}}}")
    return list(only(text).pod_sets[0].topology)


KUEUE = "kueue.x-k8s.io/podset-"


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        (f"{KUEUE}required-topology: rack", [("rack", True, "kueue", "", 0)]),
        (f"{KUEUE}preferred-topology: rack", [("rack", False, "kueue", "", 0)]),
        (f"{KUEUE}unconstrained-topology: 'true'", [("", False, "kueue", "", 0)]),
        (f"{KUEUE}unconstrained-topology: 'false'", []),
        (
            f"{KUEUE}required-topology: block, {KUEUE}slice-required-topology: rack, {KUEUE}slice-size: '4'",
            [("block", True, "kueue", "rack", 4)],
        ),
        (
            f"{KUEUE}slice-required-topology: rack, {KUEUE}slice-size: '4'",
            [("", False, "kueue", "rack", 4)],
        ),
        (f"{KUEUE}slice-required-topology: rack, {KUEUE}slice-size: four", [("", False, "kueue", "rack", 0)]),
        (
            KUEUE
            + 'slice-required-topology-constraints: \'[{"topology":"rack","size":8},{"topology":"host","size":2}]\'',
            [("", False, "kueue", "rack", 8), ("", False, "kueue", "host", 2)],
        ),
        (f"{KUEUE}slice-required-topology-constraints: '[1'", []),
        ("kai.scheduler/topology-required-placement: rack", [("rack", True, "kai", "", 0)]),
        ("kai.scheduler/topology-preferred-placement: rack", [("rack", False, "kai", "", 0)]),
        ("other: rack", []),
    ],
)
def test_wishes_of_annotations(annotations: str, expected: list[tuple[str, bool, str, str, int]]) -> None:
    found = [(one.key, one.is_required, one.source, one.slice_key, one.slice_size) for one in wishes(annotations)]
    assert found == expected


def test_wishes_of_affinity() -> None:
    term = "{labelSelector: {matchLabels: {a: b}}, topologyKey: rack}"
    text = pod_with(
        f"affinity: {{podAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: [{term}], "
        f"preferredDuringSchedulingIgnoredDuringExecution: [{{weight: 1, podAffinityTerm: {term}}}]}}}}"
    )
    first, second = only(text).pod_sets[0].topology
    assert (first.key, first.is_required, first.source) == ("rack", True, "affinity")
    assert (second.key, second.is_required) == ("rack", False)


def test_kai_takes_its_annotations_from_the_object() -> None:
    text = JOB.replace("name: j,", "name: j, annotations: {kai.scheduler/topology-required-placement: rack},")
    found = [(one.key, one.source, one.path[0]) for one in only(text).pod_sets[0].topology]
    assert ("rack", "kai", "metadata") in found


def test_exclusive_topology_of_a_job_set_is_of_each_job() -> None:
    driver, workers = only(manifests.JOB_SET).pod_sets
    (wish,) = driver.topology
    assert (wish.key, wish.is_required, wish.slice_key, driver.num_jobs) == ("rack", True, "", 1)
    (wish,) = (one for one in workers.topology if one.source == "jobset")
    assert (wish.key, wish.is_required) == ("rack", True)
    assert (wish.slice_key, wish.slice_size, workers.num_jobs) == ("rack", 4, 2), (
        "two jobs of four pods, each in its rack"
    )


def test_exclusive_topology_of_a_leader_worker_set_is_of_the_group() -> None:
    for pods in only(manifests.LEADER_WORKER_SET).pod_sets:
        (wish,) = pods.topology
        assert (wish.key, wish.is_required, wish.source) == ("rack", True, "lws")
    text = manifests.LEADER_WORKER_SET.replace("sigs.k8s.io/exclusive", "sigs.k8s.io/subgroup-exclusive")
    text = text.replace("    size: 4\n", "    size: 4\n    subGroupPolicy: {subGroupSize: 2}\n")
    (wish,) = only(text).pod_sets[0].topology
    assert (wish.key, wish.slice_key, wish.slice_size) == ("", "rack", 2)


def test_a_workload_of_kueue_has_its_request() -> None:
    (wish,) = only(manifests.KUEUE_WORKLOAD).pod_sets[0].topology
    assert (wish.key, wish.is_required, wish.slice_key, wish.slice_size) == ("block", True, "rack", 2)


def test_volcanos_topology_is_a_tier() -> None:
    (wish,) = only(manifests.VOLCANO_JOB).pod_sets[0].topology
    assert (wish.key, wish.is_required, wish.source) == ("", True, "volcano")
