"""Training runs against a real API server, scheduler and controller manager: what one manifest becomes, and how it goes
on when a pod fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kube.cluster import Cluster, missing
from tests.kube.needs import need_programs
from tests.kube.training_runs import JOBS, NAMESPACE, Command, all_gone, manifest, played, pods_of, state, wait_until

pytestmark = pytest.mark.kube


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One of its own: what its nodes offer decides how pods are wired."""
    need_programs(missing())
    with Cluster(tmp_path_factory.mktemp("training")) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def nodes(cluster: Cluster) -> None:
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    cluster.request("POST", "/api/v1/namespaces", space)
    for number in range(3):
        cluster.add_node(f"trains-{number}", allocatable={"nvidia.com/gpu": "8", "rdma/ib": "1"})


@pytest.fixture
def command(cluster: Cluster, tmp_path: Path) -> Command:
    return Command(cluster, tmp_path)


def test_a_manifest_becomes_an_indexed_job_whose_pods_know_their_rank_and_their_master(
    cluster: Cluster, command: Command
) -> None:
    shown = command.train(manifest("gang"), "--dry-run", "-o", "yaml")
    job, service = yaml.safe_load_all(shown.stdout)
    assert (job["kind"], service["kind"], service["spec"]["clusterIP"]) == ("Job", "Service", "None")
    assert "no JobSet" in shown.stderr
    asked = command.train(manifest("gang"), "--dry-run=server")
    assert asked.stdout.splitlines() == ["job/gang created (server dry run)", "service/gang created (server dry run)"]
    assert cluster.request("GET", JOBS)["items"] == []

    done = command.train(manifest("gang"), "--no-wait")
    assert "job/gang created" in done.stderr
    wait_until(lambda: sum(bool(pod["spec"].get("nodeName")) for pod in pods_of(cluster, "gang")) == 3)
    pods = pods_of(cluster, "gang")
    assert [pod["spec"]["hostname"] for pod in pods] == ["gang-0", "gang-1", "gang-2"]
    assert {pod["spec"]["subdomain"] for pod in pods} == {"gang"}
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 3
    env = {one["name"]: one for one in pods[1]["spec"]["containers"][0]["env"]}
    assert env["PET_MASTER_ADDR"]["value"] == "gang-0.gang"
    assert (env["PET_NNODES"]["value"], env["PET_NPROC_PER_NODE"]["value"]) == ("3", "8")
    index = env["PET_NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert pods[1]["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] == "1"
    # Its nodes' fabric is asked for, with what NCCL and the kernel want of it.
    container = pods[1]["spec"]["containers"][0]
    assert container["resources"]["limits"]["rdma/ib"] == "1"
    assert container["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]

    again = command.train(manifest("gang"), "--no-wait", "-o", "json")
    assert "job/gang unchanged" in again.stderr
    assert json.loads(again.stdout)[0]["num_pods"] == 3
    owner = cluster.request("GET", f"/api/v1/namespaces/{NAMESPACE}/services/gang")["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("Job", "gang")
    refused = command.train(manifest("gang", image="example.com/train:2"), "--no-wait", status=None)
    assert refused.returncode != 0
    assert "a run's pods cannot be changed" in refused.stderr
    assert command.verb("get", "runs").stdout.splitlines()[1].split()[:4] == ["gang", "Job", "starting", "0/3"]
    for pod in pods:
        played(cluster, pod, phase="Running")
    page = command.verb("describe", "gang").stdout
    assert "State:       running" in page
    assert "gang-2" in page
    assert command.verb("delete", "gang").stdout == "run/gang deleted\n"
    wait_until(lambda: all_gone(cluster, "gang"))
    gone = command.verb("describe", "gang", status=None)
    assert gone.returncode == 2
    assert gone.stderr.startswith(f"There is no training run gang in namespace {NAMESPACE}, and no such service: ")


def test_a_pod_that_fails_is_made_anew_until_the_restarts_are_spent_and_an_evicted_one_costs_none(
    cluster: Cluster, command: Command
) -> None:
    command.train(manifest("mends", nodes=2, gpus=4), "--no-wait")
    wait_until(lambda: sum(bool(pod["spec"].get("nodeName")) for pod in pods_of(cluster, "mends")) == 2)
    for pod in pods_of(cluster, "mends"):
        played(cluster, pod, phase="Running")
    assert state(cluster, "mends").state == "running"
    first = {pod["metadata"]["name"] for pod in pods_of(cluster, "mends")}
    for pod in pods_of(cluster, "mends"):
        played(cluster, pod, phase="Failed", exit_code=1)
    wait_until(lambda: state(cluster, "mends").restarts == 2)

    def new_pods() -> list[Any]:
        return [pod for pod in pods_of(cluster, "mends") if pod["metadata"]["name"] not in first]

    wait_until(lambda: sum(bool(pod["spec"].get("nodeName")) for pod in new_pods()) == 2, within_s=90)
    seen = state(cluster, "mends")
    assert [(pod.rank, pod.num_failed) for pod in seen.pods] == [(0, 1), (1, 1)]
    assert seen.state == "starting"
    for pod in new_pods():
        played(cluster, pod, phase="Succeeded", exit_code=0)
    wait_until(lambda: state(cluster, "mends").state == "succeeded")


def test_an_apply_that_waits_ends_with_the_run(cluster: Cluster, command: Command) -> None:
    with command.training(manifest("waits", nodes=1, gpus=1), ("apply", "-y", "--wait")) as process:
        wait_until(lambda: any(pod["spec"].get("nodeName") for pod in pods_of(cluster, "waits")))
        [pod] = pods_of(cluster, "waits")
        played(cluster, pod, phase="Succeeded", exit_code=0)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "waits: succeeded" in said
    command.verb("delete", "waits")
