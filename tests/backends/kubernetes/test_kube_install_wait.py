"""Waiting for an installed gateway: when it works, and what is said of one that does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.backends.kubernetes.conftest import kubeconfig_of
from tests.fakes.kube_api import Answer, KubeApi, status

from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.install_apply import Done
from ironloom.backends.kubernetes.install_wait import NotYet, Works, judge, until_it_works
from ironloom.backends.kubernetes.installed import POD_SELECTOR
from ironloom.backends.kubernetes.kubeconfig import Target
from ironloom.backends.kubernetes.lease import Record
from ironloom.cli import install
from ironloom.cli.main import main
from ironloom.errors import ClusterError

DEPLOYMENT = "/apis/apps/v1/namespaces/models/deployments/ironloom"
PODS = "/api/v1/namespaces/models/pods"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/models/leases/ironloom"
UP = {"observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 2}
OLD = {"observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 2}
READY = {"conditions": [{"type": "Ready", "status": "True"}]}
UNPLACED = {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/4 nodes are available"}]}
QUOTA = {"type": "ReplicaFailure", "status": "True", "message": "pods is forbidden: exceeded quota: small"}


def form(status: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": {**status, **more}}


def pod(name: str, status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}, "spec": {}, "status": status}


TWO = [pod("a", READY), pod("b", READY)]
LEAVES = pod("old", READY, deletionTimestamp="2031-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("of", "pods", "holder", "is_renewed", "found"),
    [
        pytest.param(form(UP), TWO, "b", False, Works("b"), id="all are ready and one of them decides"),
        pytest.param(form(UP), TWO, None, False, "none of them decides yet", id="there is no Lease yet"),
        pytest.param(form(UP), TWO, "", False, "none of them decides yet", id="the last one let it go"),
        pytest.param(form(UP), TWO, "gone", False, "still names gone", id="the last one was lost with its Lease"),
        pytest.param(form(UP), TWO, "else", True, Works("else"), id="a gateway elsewhere renews it"),
        pytest.param(form(UP), [*TWO, LEAVES], "old", True, "still names old", id="the one that decides is leaving"),
        pytest.param(form(UP), None, "b", False, "still names b", id="pods may not be seen: a Lease may be old"),
        pytest.param(form(UP), None, "b", True, Works("b"), id="pods may not be seen, and the Lease is renewed"),
        pytest.param(
            form(OLD), [*TWO, pod("c", UNPLACED)], "b", True, "pod c: waits for a node: 0/4 nodes are available",
            id="a rollout: an old pod that answers is no news, the new one's words are",
        ),
        pytest.param(form(OLD), TWO, "b", True, "its pods are being made", id="a rollout that has just begun"),
        pytest.param(form({}, conditions=[QUOTA]), [], None, False, "exceeded quota: small", id="no pod may be made"),
    ],
)  # fmt: skip
def test_it_works_once_all_its_pods_are_ready_and_one_decides(
    of: dict[str, Any], pods: list[dict[str, Any]] | None, holder: str | None, is_renewed: bool, found: Works | str
) -> None:
    record = Record(holder=holder) if holder is not None else None
    got = judge(of, pods, record, is_renewed=is_renewed)
    if isinstance(found, Works):
        assert got == found
    else:
        assert isinstance(got, NotYet)
        assert found in got.why


class Cluster:
    """An API server whose gateway a test changes at each look that found something missing."""

    def __init__(self, api: KubeApi) -> None:
        self.api = api
        self.said: list[str] = []
        self.show(form({}), [pod("a", UNPLACED)])

    def show(self, of: dict[str, Any], pods: list[dict[str, Any]], holder: str | None = None) -> None:
        self.api.always[DEPLOYMENT] = Answer(200, json.dumps(of).encode())
        self.api.always[PODS] = Answer(200, json.dumps({"items": pods}).encode())
        lease = {"metadata": {}, "spec": {"holderIdentity": holder}}
        self.api.always[LEASE] = Answer(200, json.dumps(lease).encode()) if holder else status(404, "NotFound", "none")

    def waited(self, on_wait: Callable[[int], None], within_s: float) -> Works | NotYet:
        def heard(why: str) -> None:
            self.said.append(why)
            on_wait(len(self.said))

        async def run() -> Works | NotYet:
            async with Client(Target(context="prod", server=self.api.url, namespace="models")) as client:
                return await until_it_works(
                    client, "Deployment", "models", within_s=within_s, on_wait=heard, look_s=0.01
                )

        return asyncio.run(run())


def test_it_is_waited_for_through_its_pods_and_its_election_and_a_cluster_that_is_away_for_a_moment() -> None:
    api = KubeApi()
    cluster = Cluster(api)

    def next_scene(number: int) -> None:
        if number == 1:
            api.always[DEPLOYMENT] = status(500, "InternalError", "etcdserver: leader changed")
        elif number == 2:
            cluster.show(form(UP), TWO)
        else:
            cluster.show(form(UP), TWO, "a")

    with api.running():
        assert cluster.waited(next_scene, 300.0) == Works("a")
    waits, away, elects = cluster.said
    assert "0/4 nodes are available" in waits
    assert "leader changed" in away
    assert "none of them decides yet" in elects


def test_what_is_missing_when_the_time_is_over_comes_back() -> None:
    api = KubeApi()
    with api.running():
        cluster = Cluster(api)
        found = cluster.waited(lambda _: None, 0.0)
    assert isinstance(found, NotYet)
    assert "0/4 nodes are available" in found.why
    assert cluster.said == []


@pytest.mark.parametrize("holder", ["a", None])
def test_the_command_ends_with_who_decides_or_with_what_is_missing_and_tells_no_progress_off_a_terminal(
    holder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def applied(*_: Any, **__: Any) -> list[tuple[Done, Any]]:
        return [(Done(kind="Deployment", name="ironloom", action="created"), form({}))]

    monkeypatch.setattr(install, "_applied", applied)
    api = KubeApi()
    Cluster(api).show(form(UP), TWO, holder)
    (tmp_path / "config").write_text(json.dumps(kubeconfig_of(api.url, namespace="models")))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with api.running():
        status = main(["install", "--context", "prod", "--image", "ironloom:1", "--wait", "--timeout", "0"])
    told = capsys.readouterr()
    assert (status, told.out) == (0 if holder else 1, "deployment/ironloom created\n")
    assert {one.params["labelSelector"] for one in api.asked if one.path == PODS} == {POD_SELECTOR}
    assert "Waiting" not in told.err
    if holder:
        assert told.err.endswith("It works: a decides.\n")
    else:
        assert "The gateway does not work after 0ms: its pods are ready, and none of them decides yet." in told.err
        assert "hint: it stays installed, and the same command waits on; `kubectl --context prod -n models " in told.err
    assert "its pods do not answer yet" not in told.err


@pytest.mark.parametrize("code", [403, 404])
def test_what_may_not_be_looked_at_and_what_is_gone_end_the_waiting(code: int) -> None:
    api = KubeApi()
    with api.running():
        cluster = Cluster(api)
        api.always[DEPLOYMENT] = status(code, "Reason", "not this one")
        with pytest.raises(ClusterError, match="deployment"):
            cluster.waited(lambda _: None, 300.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--wait", "--dry-run"], "--wait waits for what is installed, and this installs nothing"),
        (["--wait", "--helm", "chart"], "--wait waits for what is installed, and this installs nothing"),
        (["--wait", "--dry-run=server"], "--wait waits for what is installed, and this installs nothing"),
        (["--timeout", "1m"], "--timeout says nothing without --wait"),
        (["--wait", "--timeout", "soon"], "'soon' is not a duration"),
    ],
)
def test_options_that_contradict_each_other_are_told_and_no_cluster_is_asked(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config").write_text(json.dumps(kubeconfig_of("http://127.0.0.1:1", namespace="models")))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    assert main(["install", "--context", "prod", *arguments]) == 2
    told = capsys.readouterr()
    assert (told.out, said in told.err) == ("", True), told.err
    assert not (tmp_path / "chart").exists()
