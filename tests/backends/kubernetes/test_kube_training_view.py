"""A run as it is in a cluster: its state with the reason, its pods by rank, and the room that it finds."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.backends.kubernetes.training_room import room_of
from ironloom.backends.kubernetes.training_view import newest, of_rank, state_of, waits_in_queue
from ironloom.fleet.model import ClusterQueue, Domain, Flavor, Fleet, FleetNode, FleetPod, LocalQueue, Quota
from ironloom.place.domains import Room

LEAF = "leaf"
INDEX = "batch.kubernetes.io/job-completion-index"


def condition(kind: str, status: str = "True", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "message": message}


def owner(kind: str = "Job", *, suspend: bool | None = None, num_pods: int = 2, **status: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"completions": num_pods, "parallelism": num_pods}
    if kind == "JobSet":
        spec = {"replicatedJobs": [{"name": "node", "replicas": 1, "template": {"spec": {"parallelism": num_pods}}}]}
    if suspend is not None:
        spec["suspend"] = suspend
    metadata = {"name": "tune", "namespace": "ml", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"apiVersion": "batch/v1", "kind": kind, "metadata": metadata, "spec": spec, "status": status}


def pod(rank: int, phase: str = "Running", *, made: int = 0, node: str = "n1", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"tune-{rank}-{made}",
            "uid": f"{rank}-{made}",
            "labels": {INDEX: str(rank)},
            "creationTimestamp": f"2026-01-01T00:00:{made:02}Z",
        },
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, **status},
    }


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    return {"containerStatuses": [{"name": "node", "state": {"terminated": {"exitCode": code, "reason": reason}}}]}


WAITS = {"status": {"conditions": [condition("QuotaReserved", "False", "couldn't assign flavors: no room")]}}


@pytest.mark.parametrize(
    ("obj", "pods", "workload", "state", "reason"),
    [
        (owner(), [pod(0), pod(1)], None, "running", ""),
        (owner(), [], None, "starting", "0 of 2 pods run"),
        (owner(), [pod(0), pod(1, "Pending", node="")], None, "starting",
         "1 of 2 pods run; tune-1-0 waits for a node"),
        (owner(), [pod(0), pod(1, "Failed", **ended(137, "OOMKilled"))], None, "starting",
         "1 of 2 pods run; tune-1-0 failed: exit status 137 (OOMKilled)"),
        (owner(suspend=True), [], WAITS, "queued", "couldn't assign flavors: no room"),
        (owner(suspend=True), [], {"status": {}}, "queued", "its queue has not looked at it yet"),
        (owner(suspend=True), [], None, "stopped", "it is suspended"),
        (owner(conditions=[condition("Complete")]), [pod(0, "Succeeded")], None, "succeeded", ""),
        (owner("JobSet", conditions=[condition("Completed")]), [], None, "succeeded", ""),
        (owner(conditions=[condition("Failed", message="too\nmany failures")]), [], None, "failed",
         "too many failures"),
        (owner("JobSet"), [pod(0, "Succeeded"), pod(1)], None, "running", ""),
    ],
)  # fmt: skip
def test_a_run_has_the_state_that_its_objects_show(
    obj: dict[str, Any], pods: list[dict[str, Any]], workload: dict[str, Any] | None, state: str, reason: str
) -> None:
    seen = state_of(obj, pods, workload)
    assert (seen.state, seen.reason) == (state, reason)


def test_a_run_that_is_being_deleted_says_so() -> None:
    obj = owner(conditions=[condition("Complete")])
    obj["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert state_of(obj, []).state == "deleting"


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ([condition("QuotaReserved", "False", "no quota")], "no quota"),
        ([condition("QuotaReserved"), condition("Admitted", "False", "a check waits")], "a check waits"),
        ([condition("QuotaReserved"), condition("Admitted")], "it is admitted"),
        ([condition("Evicted", "True", "preempted by b"), condition("QuotaReserved", "False", "no room")],
         "evicted: preempted by b; no room"),
        ([condition("Evicted", "True", "old"), condition("QuotaReserved"), condition("Admitted")], "it is admitted"),
    ],
)  # fmt: skip
def test_a_queue_says_what_it_waits_for(conditions: list[dict[str, str]], said: str) -> None:
    assert waits_in_queue({"status": {"conditions": conditions}}) == said


def test_a_rank_is_that_of_its_pod_also_where_another_has_none() -> None:
    pods = [pod(1), pod(2)]
    assert [found and found["metadata"]["name"] for found in (of_rank(pods, rank) for rank in (0, 1, 2, 3))] == [
        None, "tune-1-0", "tune-2-0", None
    ]  # fmt: skip
    unranked = [{"metadata": {"name": name}} for name in "ab"]
    assert [of_rank(unranked, rank) for rank in (1, 2)] == [unranked[1], None]


def test_of_a_rank_the_newest_pod_counts_and_those_that_failed_before_are_counted() -> None:
    pods = [pod(1, "Failed", made=1), pod(10, made=1), pod(0, made=1), pod(1, made=3), pod(1, "Failed", made=2)]
    assert [one["metadata"]["name"] for one in newest(pods)] == ["tune-0-1", "tune-1-3", "tune-10-1"]
    seen = state_of(owner(num_pods=3), pods)
    assert [(one.rank, one.num_failed) for one in seen.pods] == [(0, 0), (1, 2), (10, 0)]


def fleet(*, used: int = 0, cohort: str = "", pods: tuple[FleetPod, ...] = ()) -> Fleet:
    nodes = tuple(
        FleetNode(
            name=f"{leaf}{index}",
            labels={LEAF: leaf, "gpu": "h100"},
            allocatable={"nvidia.com/gpu": 8, "pods": 110},
            allocated={"nvidia.com/gpu": sum(8 for one in pods if one.node == f"{leaf}{index}")},
            gpu_resource="nvidia.com/gpu",
        )
        for leaf, number in (("a", 2), ("b", 3))
        for index in range(number)
    )
    return Fleet(
        name="t",
        source="test",
        nodes=nodes,
        pods=pods,
        root=Domain(value="t", level=None, nodes=nodes),
        local_queues=(LocalQueue(namespace="ml", name="gpus", cluster_queue="all"),),
        cluster_queues=(
            ClusterQueue(
                name="all",
                cohort=cohort,
                quotas=(Quota(flavor="h100", resource="nvidia.com/gpu", nominal=40, used=used),),
            ),
        ),
        flavors=(Flavor(name="h100", node_labels={"gpu": "h100"}),),
    )


def gang(num_pods: int, *, annotations: dict[str, str] | None = None, queue: str = "gpus") -> dict[str, Any]:
    pod_template = {
        "metadata": {"labels": {"ironloom.dev/run": "tune"}, "annotations": annotations or {}},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "node", "image": "i", "resources": {"limits": {"nvidia.com/gpu": "8"}}}],
        },
    }
    obj = owner(num_pods=num_pods)
    obj["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": queue}
    obj["spec"] |= {"completionMode": "Indexed", "template": pod_template}
    return obj


REQUIRED = {"kueue.x-k8s.io/podset-required-topology": LEAF}


def test_the_room_of_a_gang_is_that_of_the_domain_with_most() -> None:
    found = room_of(gang(4, annotations=REQUIRED), fleet(), "ml")
    assert (found.num_together, found.num_pods, found.level) == (3, 4, LEAF)
    assert next(iter(found.sentences())) == "room: b, the leaf with most room of 2, takes 3 of its 4 pods"
    assert room_of(gang(4), fleet(), "ml").num_together == 4
    assert list(room_of(gang(3, annotations=REQUIRED), fleet(), "ml").sentences()) == []


def test_a_pod_group_says_which_domain_its_pods_share() -> None:
    group = {"spec": {"schedulingConstraints": {"topology": [{"key": LEAF}]}}}
    found = room_of(gang(4, queue=""), fleet(), "ml", group=group)
    assert (found.num_together, found.level) == (3, LEAF)
    assert room_of(gang(4, queue=""), fleet(), "ml", group={"spec": {}}).num_together == 4


def test_its_own_pods_take_no_room_and_those_of_others_do() -> None:
    def at(name: str, run: str) -> FleetPod:
        return FleetPod(
            namespace="ml", name=name, node="b0", phase="Running", requests={"nvidia.com/gpu": 8},
            labels={"ironloom.dev/run": run},
        )  # fmt: skip

    assert room_of(gang(3, annotations=REQUIRED), fleet(pods=(at("x", "tune"),)), "ml").num_together == 3
    assert room_of(gang(3, annotations=REQUIRED), fleet(pods=(at("x", "other"),)), "ml").num_together == 2


def test_a_domain_that_another_jobset_is_in_has_no_room_for_one_that_wants_a_domain_to_itself() -> None:
    def at(node: str, run: str, phase: str = "Running") -> FleetPod:
        labels = {"ironloom.dev/run": run, "jobset.sigs.k8s.io/job-key": run}
        return FleetPod(namespace="ml", name=node, node=node, phase=phase, labels=labels)

    exclusive = job_set(2)
    assert room_of(exclusive, fleet(pods=(at("b0", "tune"),)), "ml").num_together == 2
    held = room_of(exclusive, fleet(pods=(at("a0", "x"), at("b0", "y"))), "ml")
    assert (held.num_together, held.num_domains) == (0, 2)
    assert "3 node(s) in a domain of another job's own" in held.refusals
    ended = fleet(pods=(at("a0", "x"), at("b0", "y", phase="Succeeded")))
    assert room_of(exclusive, ended, "ml").best == Room("b", 2, 2)


def job_set(num_pods: int) -> dict[str, Any]:
    """One that wants a leaf group to itself."""
    job = gang(num_pods, queue="")["spec"]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "tune", "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": LEAF}},
        "spec": {"replicatedJobs": [{"name": "node", "replicas": 1, "template": {"spec": job}}]},
    }


def test_quota_that_is_left_is_told_where_nothing_can_be_borrowed() -> None:
    found = room_of(gang(3), fleet(used=24), "ml")
    assert (found.num_left, found.num_wanted) == (16, 24)
    assert "quota: queue gpus has 16 nvidia.com/gpu left, and the run asks for 24" in found.sentences()
    over = room_of(gang(3), fleet(used=48), "ml")  # its quota was made smaller while it was held
    assert "quota: queue gpus has 0 nvidia.com/gpu left, and the run asks for 24" in over.sentences()
    assert room_of(gang(3), fleet(used=24, cohort="team"), "ml").num_left is None
    assert room_of(gang(3, queue="other"), fleet(used=24), "ml").num_left is None
