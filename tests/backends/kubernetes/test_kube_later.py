"""What is left until a service has a replica is made with the first one, once, and tried again where it was refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import pytest

from ironloom.backends.kubernetes import service as module
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.service import ClusterService
from ironloom.errors import ClusterError, EngineUnavailable, IronloomError
from ironloom.serve.replica import Replica, ScaleOrder

WITHIN_S = 30.0
SERVICE = {"kind": "Service", "metadata": {"name": "chat"}}


class Story:
    """A service at zero whose Service is left for later; `done` is what was written, in order."""

    def __init__(self, *refusals: str) -> None:
        self.done: list[str] = []
        self.news = asyncio.Event()
        self.leads = True
        self._refusals = list(refusals)
        self.service = ClusterService(
            name="chat",
            namespace="models",
            port=8000,
            engine="vllm",
            client=cast("Client", self),
            drain=self._drain,
            changed=lambda _: self.news.set(),
            may_write=lambda: self.leads,
            make=self._make,
        )

    async def _drain(self, replica: Replica) -> None: ...

    async def _make(self, one: Mapping[str, Any]) -> None:
        if self._refusals:
            raise ClusterError(self._refusals.pop(), status=403)
        self.tell(one["kind"])

    async def apply(self, path: str, body: Mapping[str, Any], **_: Any) -> bytes:
        self.tell(f"scale {body['spec']['replicas']}")
        return b"{}"

    async def get(self, path: str, **_: Any) -> bytes:
        return b'{"metadata": {}, "spec": {}}'

    def tell(self, what: str) -> None:
        self.done.append(what)
        self.news.set()

    async def until_so(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not is_so():
                self.news.clear()
                await self.news.wait()

    async def until(self, done: list[str]) -> None:
        await self.until_so(lambda: self.done == done)
        await self.settle()
        assert self.done == done

    async def settle(self) -> None:
        """What it would do now it does in the next turns of the loop: it has nothing to wait for."""
        for _ in range(20):
            await asyncio.sleep(0)


def told(story: Story, tell: Callable[[Story], Awaitable[None]]) -> None:
    async def run() -> None:
        story.service.begin_anew(0)
        story.service.begin()
        story.service.leave_for_later((SERVICE,))
        try:
            await tell(story)
        finally:
            await story.service.end()

    asyncio.run(run())


def test_at_zero_it_is_not_made_with_the_first_replica_it_is_and_never_again() -> None:
    async def tell(story: Story) -> None:
        story.service.scale(ScaleOrder(num_ready=0))
        await story.until([])
        for number in (1, 0, 2):
            story.service.scale(ScaleOrder(num_ready=number))
            await story.settle()
        await story.until(["scale 1", "Service", "scale 0", "scale 2"])

    told(Story(), tell)


def test_what_is_refused_is_told_and_tried_again_and_the_scale_is_not_written_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)

    async def tell(story: Story) -> None:
        story.service.scale(ScaleOrder(num_ready=1))
        await story.until_so(lambda: story.service.failure == "quota")
        await story.until(["scale 1", "Service"])
        assert story.service.failure is None

    told(Story("quota"), tell)


def test_what_cannot_be_rendered_any_more_is_told_and_the_scale_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)
    refusals: list[IronloomError] = [EngineUnavailable("LeaderWorkerSet is gone")]

    async def again() -> None:
        if refusals:
            raise refusals.pop()

    async def tell(story: Story) -> None:
        story.service.make_again, story.service.is_gone = again, True
        story.service.scale(ScaleOrder(num_ready=1))
        await story.until_so(lambda: story.service.failure == "LeaderWorkerSet is gone")
        assert story.service.failure_passes is False
        await story.until(["scale 1", "Service"])

    told(Story(), tell)


def test_a_service_that_has_ended_takes_pods_and_asks_nothing_of_them() -> None:
    async def asked(_: Mapping[str, Any]) -> str:
        raise AssertionError("nobody waits for it any more")

    async def tell(story: Story) -> None:
        story.service.scale(ScaleOrder(num_ready=1))
        await story.until(["scale 1", "Service"])
        await story.service.end()
        unplaced = {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/4 nodes"}]}
        for name in ("chat-1", "chat-2"):
            story.service.take(name, {"metadata": {"name": name}, "spec": {}, "status": unplaced})
        assert len(story.service.views()) == 2
        assert {one for one in asyncio.all_tasks() if one is not asyncio.current_task()} == set()

    story = Story()
    story.service.outlook = asked
    story.service.__post_init__()
    told(story, tell)


def test_a_gateway_that_decides_no_more_makes_nothing() -> None:
    async def tell(story: Story) -> None:
        story.leads = False
        story.service.scale(ScaleOrder(num_ready=1))
        await story.until([])

    told(Story(), tell)


def test_a_pod_that_somebody_else_ordered_brings_it_too() -> None:
    async def tell(story: Story) -> None:
        story.service.scale(ScaleOrder(num_ready=0))
        await story.until([])
        story.service.take("chat-1", {"metadata": {"name": "chat-1"}, "spec": {}, "status": {"phase": "Pending"}})
        await story.until_so(lambda: "Service" in story.done)

    told(Story(), tell)
