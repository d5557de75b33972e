"""How the documents of services are written: created where there was none, applied where there may be one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, cast

import pytest

from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.store import ClusterStore
from ironloom.errors import ClusterError


class FakeServer:
    """Its writes, in order; `refuses` are the statuses of the next creations."""

    def __init__(self, *refuses: int) -> None:
        self.asked: list[str] = []
        self._refuses = list(refuses)

    async def change(self, method: str, path: str, body: Any = None) -> bytes:
        self.asked.append(f"{method} {path.rpartition('/')[2] if body is None else body['metadata']['name']}")
        if method == "POST" and self._refuses:
            raise ClusterError("refused", status=self._refuses.pop(0))
        return b'{"metadata": {"uid": "1"}}'

    async def apply(self, path: str, _body: Mapping[str, Any], *, manager: str, forces: bool) -> bytes:
        assert (manager, forces) == ("ironloom", True)
        self.asked.append(f"PATCH {path.rpartition('/')[2]}")
        return b'{"metadata": {"uid": "1"}}'


def store_of(server: FakeServer) -> ClusterStore:
    return ClusterStore(cast("Client", server), namespace="models", on_error=lambda _: None)


def run(story: Awaitable[None]) -> None:
    asyncio.run(cast("Any", story))


def test_a_document_is_created_then_applied_and_created_again_once_it_was_removed() -> None:
    server = FakeServer()

    async def story() -> None:
        store = store_of(server)
        await store.save("a", {})
        await store.save("a", {"b": 1})
        await store.remove("a")
        await store.save("a", {})

    run(story())
    name = "ironloom-service-a"
    assert server.asked == [f"POST {name}", f"PATCH {name}", f"DELETE {name}", f"POST {name}"]


@pytest.mark.parametrize("status", [0, 409], ids=["a connection that breaks", "one that is there"])
def test_a_document_that_may_be_there_already_is_applied(status: int) -> None:
    server = FakeServer(status)
    run(store_of(server).save("a", {}))
    assert server.asked == ["POST ironloom-service-a", "PATCH ironloom-service-a"]


def test_a_creation_that_is_forbidden_is_told_and_tried_again_by_the_next_save() -> None:
    server = FakeServer(403)

    async def story() -> None:
        store = store_of(server)
        with pytest.raises(ClusterError):
            await store.save("a", {})
        await store.save("a", {})

    run(story())
    assert server.asked == ["POST ironloom-service-a"] * 2
