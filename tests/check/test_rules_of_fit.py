"""Rules that look for room: what a fleet has, what it has free, and what its pools could bring."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.fakes.checking import findings, patched

from ironloom.check.rules.examples import GPU, fleet, leaf_groups, node, pool
from ironloom.fleet.model import FleetPod, Lifecycle, Taint

LEAF = "backend.coreweave.cloud/leafgroup"


def pod(extra: str = "", resources: str = "nvidia.com/gpu: 8") -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata:
  name: llama
  labels: {{app: llama}}
spec:{extra}
  containers:
  - name: main
    image: nvcr.io/nvidia/pytorch:25.09-py3
    resources:
      limits:
        {resources}
"""


def gang(num_pods: int, key: str = LEAF, kind: str = "required", more: str = "") -> str:
    return f"""\
apiVersion: batch/v1
kind: Job
metadata:
  name: train
spec:
  parallelism: {num_pods}
  completions: {num_pods}
  completionMode: Indexed
  template:
    metadata:
      annotations:
        kueue.x-k8s.io/podset-{kind}-topology: {key}{more}
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: nvcr.io/nvidia/pytorch:25.09-py3
        resources:
          limits:
            nvidia.com/gpu: 8
"""


def selector(value: str, key: str = "gpu.nvidia.com/class") -> str:
    return f"\n  nodeSelector:\n    {key}: {value}"


def test_a_label_that_a_pool_may_bring_is_not_unknown() -> None:
    here = fleet(*leaf_groups(a=2))
    assert findings(pod(selector("H200", "node.kubernetes.io/instance-type")), "IL101", fleet=here)
    could = replace(pool("h200", num_nodes=0, max_nodes=4), labels={"node.kubernetes.io/instance-type": "H200"})
    grown = fleet(*leaf_groups(a=2), pools=(could,))
    assert not findings(pod(selector("H200", "node.kubernetes.io/instance-type")), "IL101", fleet=grown)


def test_a_missing_label_value_names_the_one_of_the_same_gpu() -> None:
    [one] = findings(pod(selector("H100_PCIE")), "IL101", fleet=fleet(*leaf_groups(a=3)))
    assert one.help == "did you mean H100_NVLINK_80GB?"
    assert (one.line, one.column) == (8, 27)
    assert "gpu.nvidia.com/class: H100_NVLINK_80GB\n" in patched(pod(selector("H100_PCIE")), one.patch)
    assert one.patch is not None
    assert not one.patch.is_safe, "which GPU is meant a person decides"


def test_labels_that_stand_on_different_nodes_are_counted_each() -> None:
    here = fleet(node("a", labels={"pool": "x"}), node("b", labels={"tier": "y"}))
    text = pod("\n  nodeSelector:\n    pool: x\n    tier: y")
    [one] = findings(text, "IL101", fleet=here)
    assert one.evidence == ("pool=x: 1 node", "tier=y: 1 node")


def test_one_of_two_alternative_terms_is_enough() -> None:
    terms = """
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions:
          - {key: pool, operator: In, values: [nowhere]}
        - matchExpressions:
          - {key: pool, operator: In, values: [x]}"""
    assert not findings(pod(terms), "IL101", fleet=fleet(node("a", labels={"pool": "x"})))


def test_a_taint_is_tolerated_by_the_patch() -> None:
    here = fleet(node("a", taints=(Taint(key="gpu", value="yes", effect="NoSchedule"),)))
    [one] = findings(pod(), "IL104", fleet=here)
    assert one.evidence == ("0/1 nodes are available: 1 node(s) had untolerated taint {gpu: yes}",)
    assert not findings(patched(pod(), one.patch), "IL104", fleet=here)


def test_a_taint_on_some_nodes_only_is_no_fault() -> None:
    here = fleet(node("a", taints=(Taint(key="gpu", value="yes", effect="NoSchedule"),)), node("b"))
    assert not findings(pod(), "IL104", fleet=here)


def test_a_cordon_and_a_taint_that_passes_are_no_fault_of_the_manifest() -> None:
    not_ready = Taint(key="node.kubernetes.io/not-ready", effect="NoSchedule")
    here = fleet(node("a", lifecycle=Lifecycle.CORDONED), node("b", taints=(not_ready,)))
    assert not findings(pod(), "IL101", "IL104", "IL122", "IL123", fleet=here)
    [waits] = findings(pod(), "IL125", fleet=here)
    assert waits.severity == "note"


def test_what_daemon_sets_keep_counts_against_the_largest_request() -> None:
    daemon = FleetPod(namespace="kube-system", name="d", node="a", owner="DaemonSet/d", requests={"cpu": 3000})
    here = fleet(node("a"), pods=(daemon,))
    [one] = findings(pod(resources='cpu: "126"'), "IL123", fleet=here)
    assert one.evidence[0] == "a: 128 cpu allocatable, less 3 cpu of its DaemonSets"
    assert not findings(pod(resources='cpu: "125"'), "IL123", fleet=here)


def test_a_degraded_node_is_named_when_only_it_is_too_small() -> None:
    degraded = replace(node("a", gpus=7), expected_num_gpus=8)
    [one] = findings(pod(), "IL122", fleet=fleet(degraded))
    assert one.evidence[-1] == "a should have 8: it is degraded"


@pytest.mark.parametrize(
    ("cpu", "is_stranding"),
    [("32", False), ("33", True), ("64", True), ("16", False)],
)
def test_cpus_above_the_share_of_the_gpus_strand_the_others(cpu: str, is_stranding: bool) -> None:
    text = pod(resources=f'nvidia.com/gpu: 2\n        cpu: "{cpu}"')
    assert bool(findings(text, "IL124", fleet=fleet(node("a", cpu=128)))) is is_stranding


def test_stranding_is_told_with_its_division() -> None:
    text = pod(resources='nvidia.com/gpu: 2\n        cpu: "60"')
    [one] = findings(text, "IL124", fleet=fleet(node("a", cpu=128)))
    assert one.evidence == (
        "128 cpu ÷ 60 cpu: 2 pods a node",
        "its 8 GPUs could hold 4",
        "the share of 2 GPUs is 32 cpu",
    )


def test_pods_of_the_workload_itself_do_not_stand_in_its_way() -> None:
    own = FleetPod(namespace="default", name="p", node="a", labels={"app": "llama"}, requests={GPU: 8})
    assert not findings(pod(), "IL125", fleet=fleet(node("a", used_gpus=8), pods=(own,)))


@pytest.mark.parametrize(
    ("num_pods", "kind", "says"),
    [(8, "required", None), (9, "required", "IL205"), (9, "preferred", None)],
)
def test_a_required_domain_must_hold_the_gang(num_pods: int, kind: str, says: str | None) -> None:
    found = findings(gang(num_pods, kind=kind), "IL205", "IL206", fleet=fleet(*leaf_groups(a=4, b=8)))
    assert [one.rule for one in found] == ([says] if says else [])


def test_the_largest_domains_are_counted() -> None:
    [one] = findings(gang(9), "IL205", fleet=fleet(*leaf_groups(a=4, b=8, c=1)))
    assert one.evidence == (
        (
            "the largest of 3 domains holds 8 pods, 9 are needed: leafgroup b: 8 pods on 8 nodes, "
            "leafgroup a: 4 pods on 4 nodes, leafgroup c: 1 pod on 1 node"
        ),
        "13/13 nodes are available",
    )


def test_a_gang_that_waits_for_a_domain_is_told_of_the_room_elsewhere() -> None:
    #  a: 2 of 3 nodes free | b: 2 of 3 nodes free
    nodes = [
        node(f"{group}{index}", labels={LEAF: group}, used_gpus=8 if index == 0 else 0)
        for group in "ab"
        for index in range(3)
    ]
    [one] = findings(gang(3), "IL206", fleet=fleet(*nodes))
    assert one.evidence[1] == "the fleet has room for 4 such pods in all"


@pytest.mark.parametrize(("size", "is_short"), [(2, False), (3, True)])
def test_slices_must_each_fit_a_finer_domain(size: int, is_short: bool) -> None:
    #  fabric f: leaf groups of 4, 2 and 2 nodes: 4 slices of 2 pods, and 1 of 3
    fabric = "backend.coreweave.cloud/fabric"
    start = "\n        kueue.x-k8s.io/podset-slice-"
    text = gang(6, key=fabric, more=f'{start}required-topology: {LEAF}{start}size: "{size}"')
    nodes = [replace(one, labels={**one.labels, fabric: "f"}) for one in leaf_groups(a=4, b=2, c=2)]
    found = [one.evidence[0] for one in findings(text, "IL205", fleet=fleet(*nodes))]
    slices = f"in slices of 3 in one {LEAF}"
    said = f"the largest of 1 domain holds 3 pods {slices}, 6 are needed: fabric f: 3 pods on 8 nodes"
    assert found == ([said] if is_short else [])


def test_a_key_in_another_spelling_is_named() -> None:
    [one] = findings(gang(2, key="backend.coreweave.cloud/leaf-group"), "IL204", fleet=fleet(*leaf_groups(a=2)))
    assert one.help == f"did you mean {LEAF}?"


def test_nothing_is_said_of_an_empty_fleet_and_of_one_that_grows() -> None:
    grown = fleet(pools=(pool("h100", num_nodes=0, max_nodes=8),))
    assert not [one for one in findings(gang(4), fleet=grown) if one.rule.startswith(("IL1", "IL2"))]
    assert not [one for one in findings(pod(selector("H100_NVLINK_80GB")), fleet=grown) if one.rule == "IL101"]


def test_each_job_of_an_exclusive_set_needs_a_domain_of_its_own() -> None:
    text = f"""\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: train
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: {LEAF}
spec:
  replicatedJobs:
  - name: workers
    replicas: 3
    template:
      spec:
        parallelism: 4
        completions: 4
        template:
          spec:
            restartPolicy: Never
            containers:
            - name: main
              image: nvcr.io/nvidia/pytorch:25.09-py3
              resources:
                limits:
                  nvidia.com/gpu: 8
"""
    [one] = findings(text, "IL205", fleet=fleet(*leaf_groups(a=4, b=5, c=3)))
    assert one.evidence[:2] == (
        "2 of the 3 domains that are needed hold 4 pods",
        (
            "the largest of 3 domains holds 5 pods, 4 are needed: leafgroup b: 5 pods on 5 nodes, "
            "leafgroup a: 4 pods on 4 nodes, leafgroup c: 3 pods on 3 nodes"
        ),
    )
    assert not findings(text, "IL205", fleet=fleet(*leaf_groups(a=4, b=5, c=4)))


def test_what_a_service_selects_is_its_writers_though_a_controller_makes_the_pod() -> None:
    service = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
spec:
  predictor:{selector}
    model:
      modelFormat:
        name: huggingface
      storageUri: hf://Qwen/Qwen3-8B
      resources:
        limits:
          nvidia.com/gpu: 1
"""
    found = findings(
        service.format(selector="\n    nodeSelector:\n      gpu.nvidia.com/class: H1000"),
        "IL101",
        fleet=fleet(*leaf_groups(a=2)),
    )
    assert [finding.line for finding in found] == [8]
    assert findings(service.format(selector=""), "IL101", fleet=fleet(*leaf_groups(a=2))) == []
