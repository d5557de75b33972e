"""Training runs in the queues of the real Kueue, through the real JobSet, on simulated nodes of two leaf groups."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kube.cluster import Cluster
from tests.kube.controllers import define
from tests.kube.queueing import LEAF, QUEUE, gpus_used
from tests.kube.training_runs import NAMESPACE, Command, manifest, played, pods_of, state, sweep, wait_until

from ironloom.backends.kubernetes.reader import read_fleet
from ironloom.backends.kubernetes.render.training import Gang, Setting, Target, objects
from ironloom.backends.kubernetes.training_pods import run_pods
from ironloom.backends.kubernetes.training_room import RunRoom, room_of
from ironloom.backends.kubernetes.training_view import newest

pytestmark = pytest.mark.kube
JOB_SETS = f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/{NAMESPACE}/jobsets"


@pytest.fixture
def command(queued: Cluster, tmp_path: Path) -> Command:
    return Command(queued, tmp_path)


def leaves_of(cluster: Cluster, name: str) -> set[str]:
    """The leaf groups that a run's pods are bound in."""
    bound = [pod["spec"]["nodeName"] for pod in pods_of(cluster, name) if pod["spec"].get("nodeName")]
    return {node[0] for node in bound}


def num_bound(cluster: Cluster, name: str) -> int:
    return sum(bool(pod["spec"].get("nodeName")) for pod in pods_of(cluster, name))


def room(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, name: str) -> RunRoom:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    return room_of(cluster.request("GET", f"{JOB_SETS}/{name}") | {"kind": "JobSet", "apiVersion":
        "jobset.x-k8s.io/v1alpha2"}, read_fleet(context="test"), NAMESPACE)  # fmt: skip


def held_as_counted_here(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, name: str) -> RunRoom:
    """A run that Kueue holds, with the count that it gives, is one that we count so too."""
    wait_until(lambda: re.search(r"\d+ out of \d+", state(cluster, name).reason) is not None)
    held = state(cluster, name)
    assert held.state == "queued"
    assert pods_of(cluster, name) == []
    counted = re.search(r"(\d+) out of (\d+)", held.reason)
    assert counted is not None
    ours = room(cluster, monkeypatch, name)
    assert (ours.num_together, ours.num_pods) == (int(counted[1]), int(counted[2]))
    assert f"takes {counted[1]} of its {counted[2]} pods" in " ".join(ours.sentences())
    return ours


def delete(cluster: Cluster, name: str) -> None:
    cluster.request("DELETE", f"{JOB_SETS}/{name}", {"propagationPolicy": "Background"})
    wait_until(lambda: all(one["metadata"]["name"] != name for one in cluster.request("GET", JOB_SETS)["items"]))


def finish(cluster: Cluster, name: str) -> None:
    for pod in pods_of(cluster, name):
        played(cluster, pod, phase="Succeeded", exit_code=0)
    wait_until(lambda: state(cluster, name).state == "succeeded")


def test_a_gang_goes_to_one_leaf_group_and_one_too_large_is_held_with_the_count_that_kueue_has(
    queued: Cluster, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--queue", QUEUE, "--topology", LEAF, "--no-wait")
    done = command.train(manifest("three"), *where)
    assert f"queue {QUEUE}, all pods in one {LEAF}" in done.stderr
    assert "jobset/three created" in done.stderr
    wait_until(lambda: num_bound(queued, "three") == 3)
    assert len(leaves_of(queued, "three")) == 1
    env = {one["name"]: one.get("value") for one in pods_of(queued, "three")[2]["spec"]["containers"][0]["env"]}
    assert env["PET_MASTER_ADDR"] == "three-node-0-0.three"
    assert gpus_used(queued) == 24

    # No leaf group has five nodes, however long it waits.
    refused = command.train(manifest("five", nodes=5), *where, status=2)
    assert "no domain of it is large enough" in refused.stderr
    command.train(manifest("five", nodes=5), *where, "--force")
    held_as_counted_here(queued, monkeypatch, "five")
    delete(queued, "five")

    # Four nodes are free in the other group: three more start there, and then one is left.
    command.train(manifest("more"), *where)
    wait_until(lambda: num_bound(queued, "more") == 3)
    assert leaves_of(queued, "three") | leaves_of(queued, "more") == {"a", "b"}
    command.train(manifest("late"), *where)
    assert held_as_counted_here(queued, monkeypatch, "late").num_together == 1

    # The quota and the nodes come back when a run ends, and what waited goes on.
    finish(queued, "three")
    wait_until(lambda: num_bound(queued, "late") == 3)
    assert leaves_of(queued, "late") == {"b"}
    finish(queued, "late")
    finish(queued, "more")
    wait_until(lambda: gpus_used(queued) == 0)


def test_a_run_that_asks_for_more_than_the_quota_waits_and_says_by_how_much(
    queued: Cluster, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = command.train(manifest("eleven", nodes=11), "--queue", QUEUE, "--no-wait", status=2)
    assert "can have at most 80 nvidia.com/gpu" in refused.stderr
    command.train(manifest("eleven", nodes=11), "--queue", QUEUE, "--no-wait", "--force")
    wait_until(lambda: "quota" in state(queued, "eleven").reason)
    ours = room(queued, monkeypatch, "eleven")
    assert (ours.num_left, ours.num_wanted) == (80, 88)
    assert "has 80 nvidia.com/gpu left, and the run asks for 88" in " ".join(ours.sentences())
    delete(queued, "eleven")


def test_a_pod_that_fails_has_all_pods_of_the_run_made_anew(queued: Cluster, command: Command) -> None:
    command.train(manifest("mends", nodes=2), "--queue", QUEUE, "--no-wait")
    wait_until(lambda: num_bound(queued, "mends") == 2)
    first = {pod["metadata"]["uid"] for pod in pods_of(queued, "mends")}
    for pod in pods_of(queued, "mends"):
        played(queued, pod, phase="Running")
    assert state(queued, "mends").state == "running"
    played(queued, pods_of(queued, "mends")[1], phase="Failed", exit_code=1)

    def anew() -> list[Any]:
        return [pod for pod in pods_of(queued, "mends") if pod["metadata"]["uid"] not in first]

    def two_anew() -> bool:
        sweep(queued, "mends")
        return sum(bool(pod["spec"].get("nodeName")) for pod in anew()) == 2

    wait_until(two_anew)
    assert state(queued, "mends").restarts == 1
    for pod in anew():
        played(queued, pod, phase="Succeeded", exit_code=0)
    wait_until(lambda: state(queued, "mends").state == "succeeded")
    wait_until(lambda: gpus_used(queued) == 0)


def nodes_by_rank(cluster: Cluster, name: str) -> list[str]:
    """Of those of a run's pods that are bound."""
    return [pod["spec"]["nodeName"] for pod in newest(pods_of(cluster, name)) if pod["spec"].get("nodeName")]


def as_a_job(name: str, *, nodes: int) -> dict[str, Any]:
    """What a cluster without JobSet gets: an indexed Job, preferably in one leaf group."""
    setting = Setting(
        target=Target.JOB, namespace=NAMESPACE, gang=Gang.KUEUE, queue=QUEUE, topology_key=LEAF
    )  # fmt: skip
    [job, _] = objects(run_pods(manifest(name, nodes=nodes)), setting)
    return job


def test_ranks_fill_one_leaf_group_after_the_other_in_a_run_that_no_single_one_holds_and_again_when_it_starts_anew(
    queued: Cluster, command: Command
) -> None:
    done = command.train(manifest("wide", nodes=6), "--queue", QUEUE, "--no-wait")
    assert "ranks in the order of" in done.stderr
    wait_until(lambda: len(nodes_by_rank(queued, "wide")) == 6)
    first = nodes_by_rank(queued, "wide")
    assert len({node[0] for node in first}) == 2
    assert first == sorted(first), "their names begin with their leaf group"
    for pod in pods_of(queued, "wide"):
        played(queued, pod, phase="Running")
    ended = {pod["metadata"]["uid"] for pod in pods_of(queued, "wide")}
    played(queued, pods_of(queued, "wide")[1], phase="Failed", exit_code=1)

    def are_anew() -> bool:
        sweep(queued, "wide")
        there = pods_of(queued, "wide")
        return len(nodes_by_rank(queued, "wide")) == 6 and not ended & {pod["metadata"]["uid"] for pod in there}

    wait_until(are_anew)
    assert nodes_by_rank(queued, "wide") == first
    finish(queued, "wide")

    queued.request("POST", f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", as_a_job("plain", nodes=6))
    wait_until(lambda: len(nodes_by_rank(queued, "plain")) == 6)
    assert nodes_by_rank(queued, "plain") == sorted(nodes_by_rank(queued, "plain"))
    finish(queued, "plain")
    wait_until(lambda: gpus_used(queued) == 0)


def test_without_a_queue_jobset_gives_each_gang_a_leaf_group_of_its_own(
    queued: Cluster, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("--topology", LEAF, "--no-wait")
    done = command.train(manifest("own"), *where)
    assert f"JobSet gives it one {LEAF} to itself; its pods are still placed one by one" in done.stderr
    command.train(manifest("other"), *where)
    wait_until(lambda: num_bound(queued, "own") == num_bound(queued, "other") == 3)
    assert len(leaves_of(queued, "own")) == 1
    assert leaves_of(queued, "own") | leaves_of(queued, "other") == {"a", "b"}
    # Small enough for the node that is left of a leaf group, which is another's.
    command.train(manifest("third", nodes=2, gpus=4), *where)
    wait_until(lambda: "waits for a node" in state(queued, "third").reason)
    assert num_bound(queued, "third") == 0
    ours = room(queued, monkeypatch, "third")
    assert (ours.num_together, ours.num_domains) == (0, 2)
    assert "1 node(s) in a domain of another job's own" in ours.refusals
    finish(queued, "own")
    wait_until(lambda: num_bound(queued, "third") == 2)
    assert leaves_of(queued, "third") == leaves_of(queued, "own")
    for name in ("other", "third"):
        finish(queued, name)


def test_a_train_job_is_taken_by_trainers_own_definitions_and_its_runtime_decides(
    queued: Cluster, command: Command
) -> None:
    """Last: from here on the cluster serves TrainJobs. Trainer's controller is not there, so that nothing comes of
    them."""
    define(queued, "trainer")
    without = command.train(manifest("tuned"), "--queue", QUEUE, "--dry-run", "-o", "yaml")
    assert yaml.safe_load(without.stdout)["kind"] == "JobSet"
    assert "no ClusterTrainingRuntime torch-distributed" in without.stderr
    runtime = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "ClusterTrainingRuntime",
        "metadata": {"name": "torch-distributed"},
        "spec": {"template": {"spec": {"replicatedJobs": []}}},
    }
    queued.request("POST", "/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes", runtime)
    done = command.train(manifest("tuned"), "--queue", QUEUE, "--topology", LEAF, "--no-wait")
    assert "trainjob/tuned created" in done.stderr
    path = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs/tuned"
    made = queued.request("GET", path)
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == QUEUE
    trainer = made["spec"]["trainer"]
    assert trainer["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": 8, "rdma/ib": "1"}
    assert {"name": "NCCL_SOCKET_IFNAME", "value": "eth0"} in trainer["env"]
    [patch] = made["spec"]["runtimePatches"]
    template = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert template["metadata"]["annotations"] == {"kueue.x-k8s.io/podset-required-topology": LEAF}
    assert template["spec"]["containers"][0]["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]
    assert command.train(manifest("tuned"), "--queue", QUEUE, "--topology", LEAF, "--no-wait").stderr.count("unchanged")
