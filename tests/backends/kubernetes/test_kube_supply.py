"""What is told of nodes while a pod waits for one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from tests.backends.kubernetes.conftest import WriteKubeconfig, node
from tests.fakes.kube_api import Answer, KubeApi, Objects

from ironloom.backends.kubernetes import supply
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.kubeconfig import load
from ironloom.backends.kubernetes.supply import NodeWait, Supply, last_word, read_pools
from ironloom.errors import ClusterError

POOL = {"metadata": {"name": "h100"}, "spec": {"instanceType": "gd-8xh100ib-i128", "autoscaling": True, "maxNodes": 3}}
KARPENTER = "/apis/karpenter.sh/v1/nodepools"
POD = {
    "metadata": {"name": "a-x", "namespace": "team-a"},
    "spec": {"containers": [{"name": "a", "resources": {"limits": {"nvidia.com/gpu": "8"}}}]},
}


def event(who: str, message: str, when: str = "2026-11-28T10:00:00Z") -> dict[str, Any]:
    return {"metadata": {"name": "e"}, "source": {"component": who}, "message": message, "lastTimestamp": when}


def test_the_last_word_is_the_newest_of_an_autoscaler() -> None:
    events = [
        event("default-scheduler", "0/1 nodes", "2026-11-28T10:09:00Z"),
        event("cluster-autoscaler", "pod didn't trigger scale-up: 1 max node group size reached"),
        event("cluster-autoscaler", "pod triggered scale-up: [{h100 1->2 (max: 3)}]", "2026-11-28T10:05:00Z"),
    ]
    assert last_word(events) == "cluster-autoscaler: pod triggered scale-up: [{h100 1->2 (max: 3)}]"
    assert last_word([event("default-scheduler", "0/1 nodes")]) == ""
    assert last_word([]) == ""


def asked(objects: Objects, write_kubeconfig: WriteKubeconfig, **always: Answer) -> str:
    async def ask(url: str) -> str:
        async with Client(load([write_kubeconfig(url)]).target("prod")) as client:
            return await Supply(client).outlook(POD)

    with KubeApi(objects).running() as api:
        for path, answer in always.items():
            api.always[path] = answer
        return asyncio.run(ask(api.url))


def test_pools_and_the_autoscalers_own_words_are_one_line(write_kubeconfig: WriteKubeconfig) -> None:
    objects: Objects = {
        "/api/v1/nodes": [node("m1", **{"compute.coreweave.com/node-pool": "h100"})],
        "/apis/compute.coreweave.com/v1alpha1/nodepools": [POOL],
    }
    events = Answer(200, json.dumps({"items": [event("cluster-autoscaler", "pod triggered scale-up")]}).encode())
    said = asked(objects, write_kubeconfig, **{"/api/v1/namespaces/team-a/events": events})
    assert "pool h100 (coreweave) can still give 2 nodes; 1 node is there" in said
    assert said.endswith("; cluster-autoscaler: pod triggered scale-up")


def test_who_may_not_list_nodes_is_told_so_and_what_gives_the_right(write_kubeconfig: WriteKubeconfig) -> None:
    objects: Objects = {"/api/v1/nodes": [node("m1")], "/apis/compute.coreweave.com/v1alpha1/nodepools": [POOL]}
    forbidden = Answer(403, b'{"kind":"Status","reason":"Forbidden","message":"no"}')
    said = asked(objects, write_kubeconfig, **{"/api/v1/nodes": forbidden})
    assert said.startswith("what may come is not known: nodes may not be listed; `ironloom install --cluster-reads`")


def test_events_that_may_not_be_listed_are_told_so(write_kubeconfig: WriteKubeconfig) -> None:
    forbidden = Answer(403, b'{"kind":"Status","reason":"Forbidden","message":"no"}')
    said = asked({"/api/v1/nodes": []}, write_kubeconfig, **{"/api/v1/namespaces/team-a/events": forbidden})
    assert said == "what an autoscaler says of it is not known: events may not be listed"


def test_a_pool_that_may_not_be_listed_is_told_as_one_and_a_server_that_is_away_is_an_error(
    write_kubeconfig: WriteKubeconfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects: Objects = {"/api/v1/nodes": [node("m1")], KARPENTER: [POOL]}
    forbidden = Answer(403, b'{"kind":"Status","reason":"Forbidden","message":"no"}')
    said = asked(objects, write_kubeconfig, **{KARPENTER: forbidden})
    assert said.startswith("more may come than is told: nodepools.karpenter.sh may not be listed; `ironloom install")

    async def ask() -> None:
        async with Client(load([write_kubeconfig("http://127.0.0.1:1")]).target("prod")) as client:
            with pytest.raises(ClusterError):
                await read_pools(client)

    asyncio.run(ask())


def test_a_pod_that_waits_is_looked_at_again_until_it_waits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply, "KEPT_S", 0.0)
    answers = iter(["one may come", ClusterError("away"), "one may come", "one comes"])
    told: list[str] = []
    done = asyncio.Event()

    async def ask(_: Mapping[str, Any]) -> str:
        found = next(answers, None)
        if isinstance(found, ClusterError):
            raise found
        return found or "one comes"

    def changed() -> None:
        told.append(wait.text)
        if wait.text == "one comes":
            done.set()

    wait = NodeWait(ask, changed)

    async def story() -> None:
        wait.look(POD)
        wait.look(POD)
        async with asyncio.timeout(30):
            await done.wait()
        wait.look(None)
        assert wait.text == ""

    asyncio.run(story())
    assert told == ["one may come", "one comes"]
