"""A list of a real API server is followed through what ends watches for good: a history that is no longer kept, a
server that says nothing more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.kube.cluster import Cluster, kubectl
from tests.kube.test_backend import until

from ironloom.backends.kubernetes import watch
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.kubeconfig import load
from ironloom.backends.kubernetes.watch import Followed, Object
from ironloom.errors import ClusterError

pytestmark = pytest.mark.kube
NAMESPACE = "watched"
MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
LABELS = "tests.ironloom.dev/watched=yes"


@pytest.fixture(scope="module", autouse=True)
def namespace(cluster: Cluster) -> Iterator[None]:
    kubectl(cluster, "create", "namespace", NAMESPACE)
    yield
    kubectl(cluster, "delete", "namespace", NAMESPACE, "--wait=false")


def make(cluster: Cluster, name: str) -> None:
    key, _, value = LABELS.partition("=")
    cluster.request("POST", MAPS, {"metadata": {"name": name, "labels": {key: value}}})


class Told:
    """What a following tells, in order: `+a`, `-a`, `failed`, `over`."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def change(self, key: tuple[str, str], one: Object | None) -> None:
        self.lines.append(f"{'-' if one is None else '+'}{key[1]}")

    def error(self, error: ClusterError | None) -> None:
        self.lines.append("failed" if error is not None else "over")

    async def until(self, *lines: str) -> None:
        await until(lambda: all(line in self.lines for line in lines))


@asynccontextmanager
async def going(followed: Followed) -> AsyncIterator[None]:
    task = asyncio.create_task(followed.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def forget_the_past(cluster: Cluster) -> None:
    """etcd keeps no history but from now on, and an API server that begins anew has none of its own.

    Source: https://etcd.io/docs/latest/dev-guide/api_grpc_gateway/
    """

    def ask(path: str, body: object) -> dict[str, dict[str, str]]:
        url = f"http://127.0.0.1:{cluster.etcd_port}{path}"
        request = urllib.request.Request(url, data=json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, dict[str, str]] = json.loads(answer.read())
        return found

    revision = ask("/v3/kv/range", {"key": "AA=="})["header"]["revision"]
    ask("/v3/kv/compaction", {"revision": revision, "physical": True})
    cluster.end("kube-apiserver")
    cluster.start_api_server()


async def status_of_watch(client: Client, version: str) -> int:
    """What a watch from a version on is answered: 0 where it begins."""
    params = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "1"}
    try:
        async for line in client.lines(MAPS, params=params):
            event = json.loads(line)
            return int(event["object"].get("code", 0)) if event["type"] == "ERROR" else 0
    except ClusterError as error:
        return error.status
    return 0


def test_a_version_that_is_no_longer_kept_is_listed_anew_and_what_is_gone_is_told(cluster: Cluster) -> None:
    for name in ("stays", "goes", "changes"):
        make(cluster, name)

    async def story() -> None:
        told = Told()
        async with Client(load([cluster.kubeconfig]).target("test")) as client:
            followed = Followed(client, MAPS, labels=LABELS, on_change=told.change, on_error=told.error)
            async with going(followed):
                await told.until("+stays", "+goes", "+changes")
            version = followed._version
            assert await status_of_watch(client, version) == 0
            # While nobody looks, as where a laptop sleeps.
            cluster.request("DELETE", f"{MAPS}/goes")
            change = {"data": {"a": "b"}}
            cluster.request("PATCH", f"{MAPS}/changes", change, content="application/merge-patch+json")
            make(cluster, "comes")
            await asyncio.to_thread(forget_the_past, cluster)
            assert await status_of_watch(client, version) == 410
            told.lines.clear()
            async with going(followed):
                await told.until("-goes", "+changes", "+comes")
                assert {name for _, name in followed.objects} == {"stays", "changes", "comes"}
                assert "+stays" not in told.lines, "it is as it was"
                make(cluster, "later")
                await told.until("+later")
            assert "failed" not in told.lines

    asyncio.run(story())


def test_a_server_that_stands_still_is_told_and_followed_again_once_it_goes_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "SILENCE_S", 1.0)

    async def story() -> None:
        told = Told()
        async with Client(load([cluster.kubeconfig]).target("test")) as client:
            followed = Followed(client, MAPS, labels=LABELS, on_change=told.change, on_error=told.error)
            async with going(followed):
                await asyncio.wait_for(followed.listed.wait(), 30)
                server = cluster.processes["kube-apiserver"]
                server.send_signal(signal.SIGSTOP)
                try:
                    await told.until("failed")
                    known = set(followed.objects)
                finally:
                    server.send_signal(signal.SIGCONT)
                await told.until("over")
                assert set(followed.objects) == known, "what was known last stays"
                await asyncio.to_thread(make, cluster, "awake")
                await told.until("+awake")

    asyncio.run(story())
