"""What a service does when there are other pods than it ordered: it looks at its object once, and tells, puts back or
leaves what it finds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import msgspec
import pytest

from ironloom.account.events import Event
from ironloom.backends.kubernetes import service as module
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.service import ClusterService
from ironloom.errors import ClusterError
from ironloom.serve.replica import Replica, ScaleOrder, ServiceReplicas

WITHIN_S = 30.0
MAKER = "/apis/serving.kserve.io/v1beta1/namespaces/models/inferenceservices/chat"


class FakeServer:
    """One Deployment and its pods: what a count makes of them is told to `pods_changed`."""

    def __init__(self) -> None:
        self.count = 0
        self.manager = "ironloom-scale"
        self.is_gone = False
        self.has_maker = True
        self.num_looks = 0
        self.pods_changed: Callable[[int], None]

    def scale(self, count: int, manager: str) -> None:
        self.count, self.manager = count, manager
        self.pods_changed(count)

    async def get(self, path: str, **_: Any) -> bytes:
        if path == MAKER:
            if not self.has_maker:
                raise ClusterError("not found", status=404)
            self.is_gone = False  # its controller is at work
            self.count, self.manager = 1, "manager"
            return b'{"metadata": {"name": "chat"}}'
        self.num_looks += 1
        if self.is_gone:
            raise ClusterError("not found", status=404)
        fields = {"manager": self.manager, "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
        metadata = {"name": "chat", "managedFields": [fields]}
        return msgspec.json.encode({"metadata": metadata, "spec": {"replicas": self.count}})

    async def apply(self, path: str, body: Mapping[str, Any], *, manager: str, forces: bool = False) -> bytes:
        await asyncio.sleep(0)
        if self.is_gone:
            raise ClusterError("not found", status=404)
        if self.manager not in {manager, "ironloom"} and not forces:
            raise ClusterError(f'conflict with "{self.manager}" using autoscaling/v1', status=409)
        self.scale(int(body["spec"]["replicas"]), manager)
        return b"{}"

    async def change(self, method: str, path: str, body: Any, **_: Any) -> bytes:
        """The deletion cost of a pod."""
        return b"{}"


class Story:
    """A service with its server, ordered to have one replica."""

    def __init__(self) -> None:
        self.server, self.events = FakeServer(), list[Event]()
        self.report = ServiceReplicas(service="chat")
        self.remakes = 0
        self.takes_away = False
        """What is made again is gone at once."""
        self.service = ClusterService(
            name="chat",
            namespace="models",
            port=8000,
            engine="vllm",
            client=cast("Client", self.server),
            drain=self._drain,
            changed=self._changed,
            record=self.events.append,
            make_again=self._make_again,
        )
        self.server.pods_changed = self._pods

    async def _drain(self, replica: Replica) -> None:
        """At once."""

    def _changed(self, report: ServiceReplicas) -> None:
        self.report = report

    async def _make_again(self) -> None:
        self.remakes += 1
        self.server.is_gone = self.takes_away
        self.server.count, self.server.manager = 0, "ironloom"
        self.service.begin_anew(0)

    def _pods(self, number: int) -> None:
        names = [f"chat-{at}" for at in range(number)]
        for name in {*self.service.pods} - {*names}:
            self.service.take(name, None)
        for name in names:
            pod = {"metadata": {"name": name, "labels": {}}, "spec": {"containers": []}, "status": {"phase": "Pending"}}
            self.service.take(name, pod)

    async def until(self, is_so: Callable[[], object]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not is_so():  # noqa: ASYNC110 (conditions of all kinds)
                await asyncio.sleep(0)

    @property
    def told(self) -> list[str]:
        return [one.reason for one in self.events if one.kind.value == "service.drifted"]


def play(monkeypatch: pytest.MonkeyPatch, told: Callable[[Story], Awaitable[None]]) -> None:
    monkeypatch.setattr(module, "LOOK_AFTER_S", 0.0)

    async def run() -> None:
        story = Story()
        story.service.written = 0
        story.service.begin()
        story.service.scale(ScaleOrder(num_ready=1))
        await story.until(lambda: story.server.count == 1)
        await told(story)
        await story.service.end()

    asyncio.run(run())


@pytest.mark.parametrize("number", [0, 3])
def test_a_count_that_a_person_wrote_is_put_back_and_told_until_the_next_order(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def told(story: Story) -> None:
        story.server.scale(number, "kubectl")
        await story.until(lambda: story.server.count == 1)
        assert story.told == ["CountPutBack"]
        await story.until(lambda: any(f"set to {number} by kubectl" in note for note in story.report.notes))
        assert story.server.manager == "ironloom-scale"
        story.service.scale(ScaleOrder(num_ready=1, reason="another reason for the same"))
        await story.until(lambda: story.server.count == 1)
        assert story.report.notes
        story.service.scale(ScaleOrder(num_ready=2))
        await story.until(lambda: story.server.count == 2 and not story.report.notes)

    play(monkeypatch, told)


def test_a_count_that_an_autoscaler_writes_is_left_until_it_has_another_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    async def told(story: Story) -> None:
        story.server.scale(3, "keda")
        await story.until(lambda: story.told)
        assert story.told == ["CountLeftAlone"]
        assert "its scale is left alone: keda writes it" in story.report.notes
        assert story.server.count == 3
        looks = story.server.num_looks
        story.server.scale(4, "keda")
        await story.until(lambda: story.server.num_looks > looks)
        assert (story.server.count, story.told) == (4, ["CountLeftAlone"])
        story.server.scale(5, "kubectl")
        await story.until(lambda: story.server.count == 1)
        assert story.told == ["CountLeftAlone", "CountPutBack"]

    play(monkeypatch, told)


def test_an_object_that_is_gone_is_made_again_and_given_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    async def told(story: Story) -> None:
        story.server.is_gone = True
        story.server.pods_changed(0)
        await story.until(lambda: story.remakes == 1 and story.server.count == 1)
        assert story.report.failure is None
        story.service.scale(ScaleOrder(num_ready=0))
        await story.until(lambda: story.server.count == 0)
        story.server.is_gone = True  # nobody sees it
        story.service.scale(ScaleOrder(num_ready=2))
        await story.until(lambda: story.remakes == 2 and story.server.count == 2)

    play(monkeypatch, told)


@pytest.mark.parametrize("has_maker", [True, False], ids=["its controller makes it", "it is gone with its maker"])
def test_an_object_that_a_controller_makes_is_waited_for_or_made_again_with_its_maker(
    monkeypatch: pytest.MonkeyPatch, has_maker: bool
) -> None:
    async def told(story: Story) -> None:
        story.service.maker = MAKER
        story.service.scale(ScaleOrder(num_ready=2))
        await story.until(lambda: story.server.count == 2)
        story.server.is_gone, story.server.has_maker = True, has_maker
        story.server.scale(0, "nobody")
        await story.until(lambda: (story.server.count, story.server.manager) == (2, "ironloom-scale"))
        assert story.remakes == (0 if has_maker else 1)
        assert story.report.failure is None

    play(monkeypatch, told)


def test_what_is_taken_away_again_and_again_is_not_made_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    async def told(story: Story) -> None:
        story.takes_away = story.server.is_gone = True
        story.server.pods_changed(0)
        await story.until(lambda: story.remakes)
        for _ in range(300):
            await asyncio.sleep(0)
        assert story.remakes == 1

    play(monkeypatch, told)


def test_more_pods_than_ordered_by_a_rollout_cost_one_look_and_as_many_as_ordered_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def told(story: Story) -> None:
        await story.until(lambda: story.service._looking is None or story.service._looking.done())
        looks = story.server.num_looks
        story.server.pods_changed(2)
        await story.until(lambda: story.server.num_looks == looks + 1)
        story.server.pods_changed(2)
        for _ in range(100):
            await asyncio.sleep(0)
        story.server.pods_changed(1)
        for _ in range(100):
            await asyncio.sleep(0)
        assert story.server.num_looks == looks + 1
        assert story.told == []

    play(monkeypatch, told)


def test_who_does_not_decide_looks_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def told(story: Story) -> None:
        await story.until(lambda: story.service._looking is None or story.service._looking.done())
        story.service.may_write = lambda: False
        looks = story.server.num_looks
        story.server.scale(3, "kubectl")
        for _ in range(100):
            await asyncio.sleep(0)
        assert (story.server.num_looks, story.server.count) == (looks, 3)

    play(monkeypatch, told)
