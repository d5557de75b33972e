"""The backend against a few paths in memory: what it leaves behind when something ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from ironloom.backends.kubernetes.backend import KubernetesBackend
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.kubeconfig import Target
from ironloom.backends.kubernetes.service import ClusterService
from ironloom.errors import ClusterError

WITHIN_S = 60.0
DEPLOYMENT = "/apis/apps/v1/namespaces/models/deployments/chat"
SERVICE = "/api/v1/namespaces/models/services/chat"


class Api:
    """Objects by path, and logs that never end."""

    def __init__(self) -> None:
        self.target = Target(context="prod", server="http://127.0.0.1:1", namespace="models")
        self.objects: dict[str, dict[str, Any]] = {}
        self.num_open_logs = 0
        self.refusal: ClusterError | None = None

    async def get(self, path: str, **_: Any) -> bytes:
        if path not in self.objects:
            raise ClusterError("not found", status=404)
        return json.dumps({"metadata": self.objects[path]}).encode()

    async def change(self, method: str, path: str, body: Any = None) -> bytes:
        assert method == "DELETE"
        del self.objects[path]
        return b"{}"

    async def lines(self, path: str, **_: Any) -> AsyncIterator[bytes]:
        self.num_open_logs += 1
        try:
            if self.refusal is not None:
                raise self.refusal
            while True:
                yield path.encode()
                await asyncio.sleep(0)
        finally:
            self.num_open_logs -= 1

    async def close(self) -> None: ...


def made(api: Api) -> KubernetesBackend:
    return KubernetesBackend(cast("Client", api), namespace="models")


def others() -> list[str]:
    return [one.get_name() for one in asyncio.all_tasks() if one is not asyncio.current_task()]


def test_a_service_that_was_not_taken_up_again_is_deleted_with_all_that_was_made_of_it() -> None:
    """Its deletion was begun by a daemon that ended meanwhile; what another one made of the name stays."""
    api = Api()
    api.objects[DEPLOYMENT] = {"name": "chat", "labels": {"ironloom.dev/service": "chat"}}
    api.objects[SERVICE] = {"name": "chat", "labels": {"app": "chat"}}
    asyncio.run(made(api).delete("chat"))
    assert api.objects.keys() == {SERVICE}


@pytest.mark.parametrize("num_read", [1, 5000])
def test_logs_that_nobody_reads_any_more_are_closed(num_read: int) -> None:
    """Be they read slower than they are written: the lines that wait are as many as may."""

    async def run() -> None:
        api = Api()
        backend = made(api)
        backend._services["chat"] = cast("ClusterService", type("Known", (), {"pods": {"a": {}, "b": {}}})())
        lines = backend.logs("chat", None, follow=True, tail=10)
        for _ in range(num_read):
            await anext(lines)
        for _ in range(3000):  # nobody reads, and the queue of lines fills
            await asyncio.sleep(0)
        assert api.num_open_logs == 2
        async with asyncio.timeout(WITHIN_S):
            await lines.aclose()  # type: ignore[attr-defined]
        assert (api.num_open_logs, others()) == (0, [])

    asyncio.run(run())


def test_logs_that_are_refused_end_with_why() -> None:
    async def run() -> list[Any]:
        api = Api()
        api.refusal = ClusterError("forbidden", status=403)
        return [one async for one in made(api).logs("chat", "chat-1", follow=False, tail=1)]

    assert [(name, str(said)) for name, said in asyncio.run(run())] == [("chat-1", "forbidden")]


def test_of_services_that_other_gateways_deleted_nothing_is_kept() -> None:
    class Known:
        async def end(self) -> None: ...

    async def run() -> None:
        backend = made(Api())
        for number in range(50):
            backend._services[f"s{number}"] = cast("ClusterService", Known())
            backend.forget(f"s{number}")
        for _ in range(100):
            await asyncio.sleep(0)
        assert backend._tasks == set()

    asyncio.run(run())
