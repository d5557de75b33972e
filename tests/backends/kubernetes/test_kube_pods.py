"""A pod as a replica."""

from __future__ import annotations

from typing import Any

import pytest

from ironloom.backends.kubernetes.pods import failure_of, port_of, prefix_of, view, waits_for
from ironloom.serve.replica import ReplicaState


def pod(*, node: str = "n1", deleted: bool = False, **status: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": "a-x",
        "labels": {"ironloom.dev/generation": "3"},
        "creationTimestamp": "2026-11-28T00:00:00Z",
    }
    if deleted:
        metadata["deletionTimestamp"] = "2026-11-28T01:00:00Z"
    container = {"name": "engine", "resources": {"limits": {"nvidia.com/gpu": "2", "memory": "8Gi"}}}
    return {"metadata": metadata, "spec": {"nodeName": node, "containers": [container]}, "status": status}


def condition(kind: str, status: str, **words: str) -> dict[str, str]:
    return {"type": kind, "status": status, **words}


def waiting(reason: str, **words: Any) -> list[dict[str, Any]]:
    last = words.pop("last", None)
    return [
        {
            "name": "engine",
            "image": "img:1",
            "state": {"waiting": {"reason": reason, **words}},
            **({"lastState": {"terminated": last}} if last else {}),
        }
    ]


READY = condition("Ready", "True", lastTransitionTime="2026-11-28T00:00:10Z")
CASES: dict[str, tuple[dict[str, Any], ReplicaState]] = {
    "a pod without a node is starting": (pod(node="", phase="Pending"), ReplicaState.STARTING),
    "a ready pod with an address is ready": (
        pod(phase="Running", podIP="10.0.0.1", conditions=[READY]),
        ReplicaState.READY,
    ),
    "a ready pod without an address is not ready yet": (
        pod(phase="Running", conditions=[READY]),
        ReplicaState.STARTING,
    ),
    "a pod whose containers are ready and whose readiness gate is not open is starting": (
        pod(
            phase="Running",
            podIP="10.0.0.1",
            conditions=[
                condition("ContainersReady", "True"),
                condition("Ready", "False", reason="ReadinessGatesNotReady"),
            ],
        ),
        ReplicaState.STARTING,
    ),
    "a pod that is being deleted is stopping, ready or not": (
        pod(deleted=True, phase="Running", podIP="10.0.0.1", conditions=[READY]),
        ReplicaState.STOPPING,
    ),
    "a pod whose containers ended has failed": (pod(phase="Failed", reason="Evicted"), ReplicaState.FAILED),
}


@pytest.mark.parametrize("name", CASES)
def test_the_state_of_a_replica(name: str) -> None:
    made, state = CASES[name]
    assert view(made, service="a", port=8000, engine="vllm").replica.state is state


def test_a_replica_has_what_the_gateway_needs() -> None:
    made = pod(phase="Running", podIP="10.0.0.1", conditions=[READY])
    replica = view(made, service="a", port=8000, engine="vllm").replica
    assert (replica.id, replica.host, replica.port, replica.generation) == ("a-x", "10.0.0.1", 8000, 3)
    assert replica.devices == ("n1/gpu", "n1/gpu")
    assert replica.since_s == 1795824010.0
    assert replica.pid is None


def test_one_that_is_drained_takes_no_requests_though_it_is_ready() -> None:
    made = pod(phase="Running", podIP="10.0.0.1", conditions=[READY])
    assert view(made, service="a", port=1, engine="", draining=True).replica.state is ReplicaState.STOPPING


HELD_GROUP = (
    "pod group is unschedulable, 0/2 placements are available, first placement status: minCount (4) cannot be "
    "satisfied: 3 scheduled, 0 remaining"
)
WAITS = {
    "for a node, with the scheduler's own words": (
        pod(
            node="",
            conditions=[condition("PodScheduled", "False", reason="Unschedulable", message="0/2 nodes are available")],
        ),
        "waits for a node: 0/2 nodes are available",
    ),
    "for a node, without the scheduler's words on preemption": (
        pod(
            node="",
            conditions=[
                condition(
                    "PodScheduled",
                    "False",
                    message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu. no new claims to deallocate, "
                    "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
                )
            ],
        ),
        "waits for a node: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu",
    ),
    "for a place for its gang, said once and without the words on preemption": (
        pod(
            node="",
            conditions=[
                condition(
                    "PodScheduled",
                    "False",
                    message=f"pod group is unschedulable, {HELD_GROUP}, pod group preemption: No victims found",
                )
            ],
        ),
        f"waits for a node: {HELD_GROUP}",
    ),
    "for admission, while its gates are not lifted": (
        pod(node="", conditions=[condition("PodScheduled", "False", reason="SchedulingGated")]),
        "waits for admission: its scheduling gates are not lifted",
    ),
    "for its image": (
        pod(containerStatuses=waiting("ContainerCreating")),
        "container engine: ContainerCreating",
    ),
    "for its readiness": (
        pod(containerStatuses=[{"name": "engine", "ready": False, "state": {"running": {}}}]),
        "container engine runs and is not ready",
    ),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_a_pod_waits_for(name: str) -> None:
    made, words = WAITS[name]
    assert waits_for(made) == words
    assert failure_of(made) is None


FAILURES = {
    "an image that cannot be pulled is named": (
        waiting("ImagePullBackOff", message='Back-off pulling image "img:1"'),
        'pod a-x: its image cannot be pulled img:1: Back-off pulling image "img:1"',
    ),
    "a container that ends again and again tells its exit status": (
        waiting("CrashLoopBackOff", message="back-off 10s", last={"exitCode": 137}),
        "pod a-x: its container ends again and again (exit status 137): back-off 10s",
    ),
    "a Secret that is not there is told in the kubelet's words": (
        waiting("CreateContainerConfigError", message='secret "x" not found'),
        'pod a-x: its container cannot be made: secret "x" not found',
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_why_a_pod_will_not_get_ready(name: str) -> None:
    statuses, words = FAILURES[name]
    assert failure_of(pod(containerStatuses=statuses)) == words


def test_the_engine_is_kserves_container_and_says_itself_where_it_answers() -> None:
    aside = {"name": "agent", "ports": [{"containerPort": 9081}]}
    engine = {"name": "kserve-container", "ports": [{"containerPort": 8080}]}
    assert port_of({"spec": {"containers": [aside, engine]}}, 8000) == 8080
    assert port_of({"spec": {"containers": [{"name": "engine"}]}}, 8000) == 8000


@pytest.mark.parametrize(
    ("image", "prefix"),
    [("kserve/huggingfaceserver:v0.20.0-gpu", "/openai"), ("vllm/vllm-openai:v0.26.0", "")],
)
def test_the_hugging_face_server_of_kserve_has_its_paths_under_openai(image: str, prefix: str) -> None:
    made = {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "kserve-container", "image": image}]}}
    assert prefix_of(made) == prefix
    assert view(made, service="a", port=8080, engine="vllm").replica.path_prefix == prefix


def test_an_engine_that_answers_over_tls_alone_takes_no_requests_and_this_is_said_at_once() -> None:
    made = pod(phase="Running", podIP="10.0.0.1", conditions=[READY])
    made["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"scheme": "HTTPS", "port": 8000}}
    found = view(made, service="a", port=8000, engine="vllm")
    assert (found.replica.state, found.is_stuck) == (ReplicaState.STARTING, True)
    assert "over TLS alone" in str(found.failure)
