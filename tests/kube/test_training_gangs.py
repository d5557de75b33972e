"""A training run held together by the scheduler itself, on a cluster without add-ons whose gates for gangs are on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tests.kube.cluster import Cluster, missing
from tests.kube.needs import need_programs
from tests.kube.training_runs import JOBS, NAMESPACE, Command, all_gone, manifest, pods_of, wait_until

from ironloom.backends.kubernetes.reader import read_fleet
from ironloom.backends.kubernetes.training_room import RunRoom, room_of

pytestmark = pytest.mark.kube
LEAF = "backend.coreweave.cloud/leafgroup"
GROUPS = f"/apis/scheduling.k8s.io/v1beta1/namespaces/{NAMESPACE}/podgroups"


@pytest.fixture(scope="module")
def gangs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    need_programs(missing())
    with Cluster(tmp_path_factory.mktemp("gangs"), has_gangs=True) as cluster:
        cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        for name in (f"{leaf}{index}" for leaf in "ab" for index in range(3)):
            cluster.add_node(name, labels={LEAF: name[0]}, allocatable={"nvidia.com/gpu": "8"})
        yield cluster


@pytest.fixture
def command(gangs: Cluster, tmp_path: Path) -> Command:
    return Command(gangs, tmp_path)


def test_a_pod_group_puts_a_gang_into_one_leaf_group_and_holds_one_that_fits_none_with_the_count_that_we_have(
    gangs: Cluster, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = command.train(manifest("three"), "--topology", LEAF, "--dry-run", "-o", "yaml")
    assert [one["kind"] for one in yaml.safe_load_all(shown.stdout)] == ["Job", "Service", "PodGroup"]
    assert "a PodGroup holds its 3 pods together" in shown.stderr
    # Four pods fit the cluster and no leaf group: that is said first, and forced, none is bound.
    refused = command.train(manifest("four", nodes=4), "--topology", LEAF, "--no-wait", status=2)
    assert "no domain of it is large enough" in refused.stderr
    command.train(manifest("four", nodes=4), "--topology", LEAF, "--no-wait", "--force")
    held = held_as_counted_here(gangs, monkeypatch, "four")
    assert (held.num_placements, held.num_pods) == (2, 3)
    done = command.train(manifest("three"), "--topology", LEAF, "--no-wait")
    assert "orders ranks" not in done.stderr, "in one leaf group no order is lost"
    wait_until(lambda: num_bound(gangs, "three") == 3)
    assert len(leaves_of(gangs, "three")) == 1
    # What is left is a leaf group, which takes the next one, and then there is room for none.
    command.train(manifest("next"), "--topology", LEAF, "--no-wait")
    wait_until(lambda: num_bound(gangs, "next") == 3)
    assert leaves_of(gangs, "three") | leaves_of(gangs, "next") == {"a", "b"}
    assert num_bound(gangs, "four") == 0
    page = command.verb("describe", "four").stdout
    assert "State:       starting: 0 of 4 pods run" in page

    # The groups go with their runs.
    for name in ("three", "next", "four"):
        command.verb("delete", name)
        wait_until(lambda name=name: all_gone(gangs, name))
    wait_until(lambda: gangs.request("GET", GROUPS)["items"] == gangs.request("GET", JOBS)["items"] == [])


def test_a_trial_says_that_groups_of_pods_are_taken(gangs: Cluster, command: Command) -> None:
    lines = command("fleet", "--context", "test", "--namespace", NAMESPACE, "--parts").stdout.splitlines()
    at = lines.index("pod groups v1beta1: gangs without an add-on")
    assert lines[at + 1].strip() == (
        f"a trial in namespace {NAMESPACE} was taken: runs of several pods are held together by one"
    )
    assert "ironloom-trial" not in str(gangs.request("GET", GROUPS)), "nothing of it stays"


def test_a_pod_group_without_a_topology_is_held_with_the_count_of_all_nodes(
    gangs: Cluster, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = command.train(manifest("seven", nodes=7), "--no-wait", "--force")
    assert f"nobody orders ranks by {LEAF}" in done.stderr
    held = held_as_counted_here(gangs, monkeypatch, "seven")
    assert (held.num_placements, held.num_pods) == (1, 6)
    command.verb("delete", "seven")
    wait_until(lambda: all_gone(gangs, "seven"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What the scheduler says of a group that it holds."""

    num_placements: int
    """Domains that it tried."""
    num_pods: int
    """Of the group, that one of these takes."""

    @classmethod
    def of(cls, room: RunRoom) -> Held:
        return cls(num_placements=room.num_domains, num_pods=room.num_together)


def held_of(cluster: Cluster, name: str) -> Held | None:
    """None while nobody has looked."""
    said = cluster.request("GET", f"{GROUPS}/{name}").get("status", {}).get("conditions") or ()
    found = re.search(r"0/(\d+) placements are available.*?: (\d+) scheduled", " ".join(one["message"] for one in said))
    return Held(num_placements=int(found[1]), num_pods=int(found[2])) if found is not None else None


def held_as_counted_here(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, name: str) -> Held:
    """A group that the scheduler holds, with the count that it gives, is one that we count so too."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    # New nodes have a taint for a moment.
    wait_until(lambda: held_of(cluster, name) == Held.of(room(cluster, name)))
    ours = room(cluster, name)
    assert f"{ours.num_together} of its {ours.num_pods} pods" in " ".join(ours.sentences())
    return Held.of(ours)


def room(cluster: Cluster, name: str) -> RunRoom:
    job = cluster.request("GET", f"{JOBS}/{name}") | {"kind": "Job", "apiVersion": "batch/v1"}
    return room_of(job, read_fleet(context="test"), NAMESPACE, group=cluster.request("GET", f"{GROUPS}/{name}"))


def num_bound(cluster: Cluster, name: str) -> int:
    return sum(bool(pod["spec"].get("nodeName")) for pod in pods_of(cluster, name))


def leaves_of(cluster: Cluster, name: str) -> set[str]:
    """The leaf groups that a run's pods are bound in."""
    return {pod["spec"]["nodeName"][0] for pod in pods_of(cluster, name) if pod["spec"].get("nodeName")}
