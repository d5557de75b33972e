"""What is told of a pod that its queue holds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.backends.kubernetes.conftest import WriteKubeconfig
from tests.fakes.kube_api import KINDS, Answer, KubeApi

from ironloom.backends.kubernetes import queue_wait, supply
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.kubeconfig import load
from ironloom.backends.kubernetes.supply import NodeWait, Supply

WORKLOADS = "/apis/kueue.x-k8s.io/v1beta2/namespaces/team-a/workloads"
GATED = {
    "metadata": {"name": "a-x", "namespace": "team-a", "uid": "u1", "labels": {"kueue.x-k8s.io/queue-name": "gpus"}},
    "spec": {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}], "containers": []},
}
SHORT = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor h100"
SERVED = {"/apis/kueue.x-k8s.io/v1beta2/workloads": ("Workload", True)}


def workload(name: str = "pod-a-x", **condition: str) -> dict[str, Any]:
    conditions = [{"type": "QuotaReserved", "status": "False", **condition}] if condition else []
    return {"metadata": {"name": name}, "spec": {"queueName": "gpus"}, "status": {"conditions": conditions}}


def listed(*there: dict[str, Any]) -> dict[str, Answer]:
    return {WORKLOADS: Answer(200, json.dumps({"kind": "WorkloadList", "metadata": {}, "items": there}).encode())}


def told(write: WriteKubeconfig, pod: dict[str, Any], always: dict[str, Answer], *, has_kueue: bool = True) -> str:
    async def ask(url: str) -> str:
        async with Client(load([write(url)]).target("prod")) as client:
            return await Supply(client).outlook(pod)

    with KubeApi(kinds={**KINDS, **(SERVED if has_kueue else {})}).running() as api:
        api.always.update(always)
        return asyncio.run(ask(api.url))


def test_a_held_pod_is_told_with_its_queue_and_kueues_own_words(write_kubeconfig: WriteKubeconfig) -> None:
    assert told(write_kubeconfig, GATED, listed(workload(message=SHORT))) == f"queue gpus: {SHORT}"


@pytest.mark.parametrize("place", ["labels", "annotations"])
def test_a_pod_of_a_group_is_told_what_holds_its_group(place: str, write_kubeconfig: WriteKubeconfig) -> None:
    named = {"kueue.x-k8s.io/pod-group-name": "a-0"}
    of_group = {**GATED, "metadata": {"name": "a-0-1", "namespace": "team-a", place: named}}
    found = Answer(200, json.dumps(workload("a-0", message=SHORT)).encode())
    assert told(write_kubeconfig, of_group, {f"{WORKLOADS}/a-0": found}) == f"queue gpus: {SHORT}"


@pytest.mark.parametrize("there", [[], [workload()]], ids=["no Workload yet", "one that nobody has judged"])
def test_one_that_its_queue_has_not_looked_at_says_so(
    there: list[dict[str, Any]], write_kubeconfig: WriteKubeconfig
) -> None:
    assert told(write_kubeconfig, GATED, listed(*there)) == "queue gpus has not looked at it yet"


def test_without_the_right_to_see_workloads_the_queue_alone_is_named(write_kubeconfig: WriteKubeconfig) -> None:
    forbidden = Answer(403, b'{"kind":"Status","reason":"Forbidden","message":"no"}')
    assert told(write_kubeconfig, GATED, {WORKLOADS: forbidden}) == "queue gpus has not looked at it yet"


def test_gates_of_others_and_clusters_without_kueue_are_told_nothing_of(write_kubeconfig: WriteKubeconfig) -> None:
    others = {**GATED, "spec": {"schedulingGates": [{"name": "example.com/wait"}], "containers": []}}
    assert not queue_wait.is_held(others)
    assert told(write_kubeconfig, GATED, {}, has_kueue=False) == ""


def test_what_a_queue_said_is_not_told_of_a_pod_that_then_waits_for_a_node() -> None:
    asked: list[bool] = []
    news = asyncio.Event()

    async def ask(pod: Any) -> str:
        asked.append(queue_wait.is_held(pod))
        return "its queue" if asked[-1] else "a pool"

    async def story() -> None:
        wait = NodeWait(ask, news.set)
        wait.look(GATED)
        async with asyncio.timeout(30):
            await news.wait()
        assert (wait.text, wait.begins) == ("its queue", "waits for admission: ")
        news.clear()
        wait.look({**GATED, "spec": {"containers": []}})
        assert wait.text == ""
        async with asyncio.timeout(30):
            await news.wait()
        assert (wait.text, wait.begins, asked) == ("a pool", "waits for a node: ", [True, False])
        wait.look(None)

    asyncio.run(story())


@pytest.mark.parametrize("late_s", [4.0, 0.0])
def test_a_pod_that_its_queue_has_not_judged_is_looked_at_again_soon_and_told_of_when_that_lasts(
    late_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supply, "SOON_S", 0.0)
    monkeypatch.setattr(supply, "LATE_S", late_s)
    not_yet, judged = f"queue gpus {queue_wait.NOT_YET}", f"queue gpus: {SHORT}"
    answers = iter([not_yet, not_yet, judged])
    told: list[str] = []
    done = asyncio.Event()

    async def ask(_: Any) -> str:
        return next(answers)

    def changed() -> None:
        told.append(wait.text)
        if wait.text == judged:
            done.set()

    wait = NodeWait(ask, changed)

    async def story() -> None:
        wait.look(GATED)
        async with asyncio.timeout(30):
            await done.wait()
        wait.look(None)

    asyncio.run(story())
    assert told == ([judged] if late_s else [not_yet, judged])
