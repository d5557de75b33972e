"""A training run held together by the scheduler itself, on a cluster without add-ons whose gates for gangs are on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.kube.cluster import Cluster, missing
from tests.kube.needs import need_programs
from tests.kube.training_runs import JOBS, NAMESPACE, Command, all_gone, manifest, pods_of, wait_until

pytestmark = pytest.mark.kube
LEAF = "backend.coreweave.cloud/leafgroup"
GROUPS = f"/apis/scheduling.k8s.io/v1beta1/namespaces/{NAMESPACE}/podgroups"


@pytest.fixture(scope="module")
def gangs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    need_programs(missing())
    with Cluster(tmp_path_factory.mktemp("gangs"), has_gangs=True) as cluster:
        cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        for leaf, number in {"a": 2, "b": 3}.items():
            for index in range(number):
                cluster.add_node(f"{leaf}{index}", labels={LEAF: leaf}, allocatable={"nvidia.com/gpu": "8"})
        yield cluster


@pytest.fixture
def command(gangs: Cluster, tmp_path: Path) -> Command:
    return Command(gangs, tmp_path)


def test_a_pod_group_puts_a_gang_into_one_leaf_group_and_holds_one_that_fits_none(
    gangs: Cluster, command: Command
) -> None:
    shown = command.train(manifest("three"), "--topology", LEAF, "--dry-run", "-o", "yaml")
    assert [one["kind"] for one in yaml.safe_load_all(shown.stdout)] == ["Job", "Service", "PodGroup"]
    assert "a PodGroup holds its 3 pods together" in shown.stderr
    # Four pods fit the cluster and no leaf group: that is said first, and forced, none is bound.
    refused = command.train(manifest("four", nodes=4), "--topology", LEAF, "--no-wait", status=2)
    assert "no domain of it is large enough" in refused.stderr
    command.train(manifest("four", nodes=4), "--topology", LEAF, "--no-wait", "--force")
    wait_until(lambda: len(pods_of(gangs, "four")) == 4 and "Unschedulable" in reason_of(gangs, "four"))
    command.train(manifest("three"), "--topology", LEAF, "--no-wait")
    wait_until(lambda: sum(bool(pod["spec"].get("nodeName")) for pod in pods_of(gangs, "three")) == 3)
    assert {pod["spec"]["nodeName"][0] for pod in pods_of(gangs, "three")} == {"b"}
    assert not any(pod["spec"].get("nodeName") for pod in pods_of(gangs, "four"))
    page = command.verb("describe", "four").stdout
    assert "State:       starting: 0 of 4 pods run" in page

    # The group goes with its run.
    command.verb("delete", "three")
    wait_until(lambda: all_gone(gangs, "three"))
    wait_until(lambda: all(one["metadata"]["name"] != "three" for one in gangs.request("GET", GROUPS)["items"]))
    assert [one["metadata"]["name"] for one in gangs.request("GET", JOBS)["items"]] == ["four"]


def reason_of(cluster: Cluster, name: str) -> str:
    """Why a group is not scheduled yet; empty while nobody has looked."""
    found = cluster.request("GET", f"{GROUPS}/{name}").get("status", {}).get("conditions") or ()
    return next((one["reason"] for one in found if one["status"] == "False"), "")
