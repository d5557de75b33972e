"""Which nodes take a pod, and why the others do not, in kube-scheduler's words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ironloom.check.rules.examples import GPU, fleet, leaf_groups, node
from ironloom.fleet.model import Condition, Fleet, FleetNode, FleetPod, Lifecycle, Taint
from ironloom.place.domains import largest, rooms, values
from ironloom.place.fit import fit, fit_ever, room, untolerated
from ironloom.workload.workload import Container, PodSet, Role

LEAF = "backend.coreweave.cloud/leafgroup"
HOST = "kubernetes.io/hostname"


def pods(spec: dict[str, Any] | None = None, *, labels: dict[str, str] | None = None, **requests: int) -> PodSet:
    asked = {"nvidia.com/gpu" if name == "gpus" else name: amount for name, amount in requests.items()}
    container = Container(name="main", path=(), requests=asked, spec={})
    return PodSet(
        name="main",
        role=Role.TRAINING,
        num_pods=1,
        path=(),
        metadata_path=(),
        spec=spec or {},
        labels=labels or {},
        containers=(container,),
    )


def test_the_reasons_stand_in_the_words_of_kube_scheduler() -> None:
    #  8 nodes full | 32 nodes of another kind
    full = [node(f"full{index}", used_gpus=8) for index in range(8)]
    other = [node(f"other{index}", labels={"pool": "other"}) for index in range(32)]
    found = fit(pods({"nodeSelector": {"gpu.nvidia.com/class": "H100_NVLINK_80GB", "pool": "train"}}, gpus=8), fleet())
    assert str(found) == "0/0 nodes are available"
    train = [
        FleetNode(
            name=one.name,
            labels={**one.labels, "pool": "train"},
            allocatable=one.allocatable,
            allocated=one.allocated,
            gpu_resource=GPU,
        )
        for one in full
    ]
    found = fit(pods({"nodeSelector": {"pool": "train"}}, gpus=8), fleet(*train, *other))
    assert str(found) == (
        "0/40 nodes are available: 32 node(s) didn't match Pod's node affinity/selector, 8 Insufficient nvidia.com/gpu"
    )


def test_a_node_short_of_two_resources_counts_under_both() -> None:
    found = fit(pods(gpus=8, cpu=200_000), fleet(node("n1", used_gpus=1)))
    assert found.excluded == {"Insufficient nvidia.com/gpu": 1, "Insufficient cpu": 1}


@pytest.mark.parametrize(
    ("lifecycle", "taint", "tolerations", "reason"),
    [
        (Lifecycle.CORDONED, None, [], "node(s) were unschedulable"),
        (Lifecycle.CORDONED, None, [{"operator": "Exists"}], ""),
        (Lifecycle.NOT_READY, None, [], "node(s) had untolerated taint {node.kubernetes.io/not-ready: }"),
        (Lifecycle.NOT_READY, None, [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}], ""),
        (
            Lifecycle.READY,
            Taint(key="gpu", value="yes", effect="NoSchedule"),
            [],
            "node(s) had untolerated taint {gpu: yes}",
        ),
        (Lifecycle.READY, Taint(key="gpu", value="yes", effect="NoExecute"), [{"key": "gpu", "value": "yes"}], ""),
        (Lifecycle.READY, Taint(key="gpu", value="yes", effect="PreferNoSchedule"), [], ""),
    ],
)
def test_cordons_and_taints_keep_pods_off(
    lifecycle: Lifecycle, taint: Taint | None, tolerations: list[dict[str, str]], reason: str
) -> None:
    here = fleet(node("n1", lifecycle=lifecycle, taints=(taint,) if taint else ()))
    found = fit(pods({"tolerations": tolerations}, gpus=1), here)
    assert list(found.excluded) == ([reason] if reason else [])


def test_what_passes_does_not_count_for_ever() -> None:
    not_ready = Taint(key="node.kubernetes.io/not-ready", effect="NoSchedule")
    here = fleet(node("n1", used_gpus=8, lifecycle=Lifecycle.CORDONED), node("n2", taints=(not_ready,)))
    assert fit(pods(gpus=8), here).pods_by_node == {}
    assert fit_ever(pods(gpus=8), here).pods_by_node == {"n1": 1, "n2": 1}


def test_a_node_that_does_not_report_is_as_one_with_the_taint_that_it_will_have() -> None:
    unknown = Condition(type="Ready", status="Unknown")
    here = fleet(replace(node("n1", lifecycle=Lifecycle.NOT_READY), conditions=(unknown,)), node("n2"))
    found = fit(pods(gpus=8), here)
    assert found.pods_by_node == {"n2": 1}
    assert list(found.excluded) == ["node(s) had untolerated taint {node.kubernetes.io/unreachable: }"]
    assert fit_ever(pods(gpus=8), here).pods_by_node == {"n1": 1, "n2": 1}


def test_daemon_sets_keep_their_share_for_ever() -> None:
    daemon = FleetPod(namespace="kube-system", name="d", node="n1", owner="DaemonSet/d", requests={"cpu": 2000})
    here = fleet(node("n1"), pods=(daemon,))
    assert fit_ever(pods(cpu=126_000), here).num_pods == 1
    assert fit_ever(pods(cpu=127_000), here).excluded == {"Insufficient cpu": 1}


def test_on_gke_a_pod_tolerates_the_taint_of_what_it_asks_for() -> None:
    taint = Taint(key="nvidia.com/gpu", value="present", effect="NoSchedule")
    gke = node("n1", taints=(taint,), labels={"cloud.google.com/gke-nodepool": "a3"})
    assert untolerated(pods(gpus=1), gke) is None
    assert untolerated(pods(cpu=1), gke) == taint
    assert untolerated(pods(gpus=1), node("n2", taints=(taint,))) == taint


def test_pods_that_refuse_each_other_stand_one_on_a_node() -> None:
    anti = {
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": HOST, "labelSelector": {"matchLabels": {"app": "x"}}}
            ]
        }
    }
    here = fleet(node("n1"), node("n2"))
    assert fit(pods({"affinity": anti}, labels={"app": "x"}, gpus=1), here).num_pods == 2
    assert fit(pods({"affinity": anti}, labels={"app": "y"}, gpus=1), here).num_pods == 16


def affinity(key: str) -> dict[str, Any]:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": {"app": "x"}}}
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def test_the_first_pod_of_its_own_group_is_let_through_where_the_key_is() -> None:
    here = fleet(*leaf_groups(a=2), node("lone"))
    own = fit(pods({"affinity": affinity(LEAF)}, labels={"app": "x"}, gpus=8), here)
    assert sorted(own.pods_by_node) == ["a0", "a1"]
    other = fit(pods({"affinity": affinity(LEAF)}, gpus=8), here)
    assert other.excluded == {"node(s) didn't match pod affinity rules": 3}


def test_later_pods_go_where_the_first_one_is() -> None:
    first = FleetPod(namespace="default", name="p", node="b0", phase="Running", labels={"app": "x"})
    here = fleet(*leaf_groups(a=2, b=2), pods=(first,))
    assert sorted(fit(pods({"affinity": affinity(LEAF)}, gpus=8), here).pods_by_node) == ["b0", "b1"]
    assert fit(pods({"affinity": affinity(LEAF)}, gpus=8), here, namespace="other").num_pods == 0


def test_a_hard_spread_keeps_its_skew() -> None:
    spread = {
        "topologySpreadConstraints": [
            {
                "topologyKey": LEAF,
                "maxSkew": 1,
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "x"}},
            }
        ]
    }
    first = FleetPod(namespace="default", name="p", node="a0", phase="Running", labels={"app": "x"})
    here = fleet(*leaf_groups(a=1, b=1), node("lone"), pods=(first,))
    found = fit(pods(spread, labels={"app": "x"}, gpus=1), here)
    assert list(found.pods_by_node) == ["b0"]
    assert found.excluded == {
        "node(s) didn't match pod topology spread constraints": 1,
        "node(s) didn't match pod topology spread constraints (missing required label)": 1,
    }


def test_the_workload_s_own_pods_can_be_looked_over() -> None:
    own = FleetPod(namespace="default", name="p", node="n1", labels={"app": "x"}, requests={GPU: 8})
    here = fleet(node("n1", used_gpus=8), pods=(own,))
    assert fit(pods(gpus=8), here).num_pods == 0
    assert fit(pods(gpus=8), here, ignored=lambda pod: pod.labels.get("app") == "x").num_pods == 1


def test_the_largest_domain_is_the_one_that_takes_most_pods() -> None:
    here = fleet(*leaf_groups(a=3, b=5), node("lone"))
    found = fit(pods(gpus=4), here)
    assert [(one.value, one.num_pods, one.num_nodes) for one in rooms(here, LEAF, found)] == [("b", 10, 5), ("a", 6, 3)]
    assert largest(here, "absent", found).num_pods == 0
    sliced = rooms(here, LEAF, found, slice_key=LEAF, slice_size=4)
    assert [(one.value, one.num_pods) for one in sliced] == [("b", 8), ("a", 4)]
    assert values(here, LEAF) == {"a": 3, "b": 5}


amounts = st.integers(min_value=0, max_value=20)


@given(
    asked=st.dictionaries(st.sampled_from("abc"), amounts),
    has=st.dictionaries(st.sampled_from("abc"), amounts),
    used=st.dictionaries(st.sampled_from("abc"), amounts),
)
def test_room_never_oversubscribes_and_names_what_is_short(
    asked: dict[str, int], has: dict[str, int], used: dict[str, int]
) -> None:
    number, short = room(asked, has, used)
    wanted = {name: amount for name, amount in asked.items() if amount}
    if not wanted:
        assert not short
        return
    free = {name: max(0, has.get(name, 0) - used.get(name, 0)) for name in wanted}
    assert all(number * amount <= free[name] for name, amount in wanted.items())
    assert any((number + 1) * amount > free[name] for name, amount in wanted.items())
    assert (number == 0) == bool(short)


@given(st.permutations(range(6)))
def test_the_order_of_the_nodes_changes_nothing(order: list[int]) -> None:
    nodes = [node(f"n{index}", used_gpus=index) for index in range(6)]
    here: Fleet = fleet(*[nodes[index] for index in order])
    assert fit(pods(gpus=3), here).pods_by_node == {"n0": 2, "n1": 2, "n2": 2, "n3": 1, "n4": 1, "n5": 1}
