"""When a gateway takes changes, and what the one that decides does when somebody else changes what was declared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ironloom.errors import ClusterError, RequestError
from ironloom.server import shared as of_several
from ironloom.server.service_store import StoredService
from ironloom.server.shared import Shared

WITHIN_S = 30.0
CHAT = StoredService(name="chat", generation=1, manifests=({"kind": "InferenceService"},))


class Documents:
    """Those of a cluster; None is one that nobody can read."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}
        self.saved: list[str] = []

    async def load(self) -> dict[str, Any]:
        return {}

    async def has(self, name: str) -> bool:
        return name in self.kept

    async def save(self, name: str, document: Any) -> None:
        self.kept[name] = document
        self.saved.append(name)

    async def remove(self, name: str) -> None:
        self.kept.pop(name, None)


class Group:
    """One gateway, which leads unless another one does."""

    identity = "gateway-0"

    def __init__(self, leader: str = "gateway-0") -> None:
        self.leader = leader
        self.leads = leader == self.identity
        self.store = Documents()
        self.tell: Callable[[str, Any], None]
        self.lead: Callable[[bool], None]

    def begin(self, *, on_lead: Callable[[bool], None], on_stored: Callable[[str, Any], None], **_: Any) -> None:
        self.lead, self.tell = on_lead, on_stored

    async def close(self) -> None:
        pass


class Host:
    """Deletes at once."""

    def __init__(self, services: dict[str, Any]) -> None:
        self.services = services
        self.deleted: list[tuple[str, str]] = []

    async def finish_delete(self, service: Any, why: str = "") -> None:
        self.deleted.append((service.name, why))
        del self.services[service.name]


class Backend:
    def __init__(self, *faults: Exception) -> None:
        self.faults = [*faults]

    async def begin_to_lead(self) -> None:
        if self.faults:
            raise self.faults.pop()


def story(told: Callable[[Group, Host], Any], *faults: Exception) -> None:
    """With a gateway that decides and has the service `chat`. Its backend's `faults` are in the way of that first."""

    async def play() -> None:
        services: dict[str, Any] = {}
        group, host = Group(), Host(services)
        changing = asyncio.Lock()
        backend = cast("Any", Backend(*faults))
        shared = Shared(cast("Any", group), backend, host=cast("Any", host), services=services, changing=changing)
        shared.begin(url="", key=None, on_keys=lambda _: None)
        group.lead(True)
        async with asyncio.timeout(WITHIN_S):
            while not shared.decides:  # noqa: ASYNC110 (it has no event for it)
                await asyncio.sleep(0)
            services["chat"] = SimpleNamespace(name="chat", stored=CHAT)
            group.store.kept["chat"] = asdict(CHAT)
            await told(group, host)
            async with changing:
                pass
        await shared.close()

    asyncio.run(play())


async def heard(is_so: Callable[[], object]) -> None:
    while not is_so():  # noqa: ASYNC110 (conditions of all kinds)
        await asyncio.sleep(0)


def test_a_service_whose_declaration_was_taken_away_is_deleted() -> None:
    async def told(group: Group, host: Host) -> None:
        del group.store.kept["chat"]
        group.tell("chat", None)
        await heard(lambda: host.deleted)
        assert host.deleted == [("chat", "its declaration was taken out of the cluster")]
        assert group.store.saved == []

    story(told)


def test_a_declaration_that_was_spoilt_is_written_anew() -> None:
    async def told(group: Group, host: Host) -> None:
        group.store.kept["chat"] = None
        group.tell("chat", None)
        await heard(lambda: group.store.saved)
        assert group.store.kept["chat"] == asdict(CHAT)
        assert host.deleted == []

    story(told)


def test_what_was_written_here_and_what_is_not_known_any_more_changes_nothing() -> None:
    async def told(group: Group, host: Host) -> None:
        group.tell("chat", asdict(CHAT))
        group.tell("gone", None)
        del group.store.kept["chat"]
        group.tell("chat", None)  # the last one that is heard
        await heard(lambda: host.deleted)
        assert [name for name, _ in host.deleted] == ["chat"]
        assert group.store.saved == []

    story(told)


def test_a_gateway_that_has_the_lease_takes_over_whatever_was_in_the_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(of_several, "RETRY_S", 0.001)

    async def told(group: Group, host: Host) -> None:
        assert group.leads

    story(told, ClusterError("away"), KeyError("spec"))
    assert ["away" in one.getMessage() or one.exc_info is not None for one in caplog.records] == [True, True]


def test_a_declaration_that_breaks_what_hears_it_keeps_no_other_from_being_heard() -> None:
    async def told(group: Group, host: Host) -> None:
        has = group.store.has

        async def breaks(name: str) -> bool:
            group.store.has = has  # type: ignore[method-assign]
            raise KeyError(name)

        group.store.has = breaks  # type: ignore[method-assign]
        del group.store.kept["chat"]
        for _ in range(2):
            group.tell("chat", None)
        await heard(lambda: host.deleted)

    story(told)


def asked(leader: str, meanwhile: Callable[[Group], Any]) -> None:
    """A change is asked for, and `meanwhile` happens while it waits."""

    async def play() -> None:
        group = Group(leader)
        services: dict[str, Any] = {}
        shared = Shared(
            cast("Any", group),
            cast("Any", Backend()),
            host=cast("Any", Host(services)),
            services=services,
            changing=asyncio.Lock(),
        )
        shared.begin(url="", key=None, on_keys=lambda _: None)
        async with asyncio.timeout(WITHIN_S):
            change = asyncio.create_task(shared.deciding())
            await asyncio.sleep(0)
            meanwhile(group)
            await change
        assert shared.decides
        await shared.close()

    asyncio.run(play())


def test_a_change_waits_for_a_gateway_that_has_the_lease_and_takes_over() -> None:
    asked("gateway-0", lambda group: group.lead(True))


def test_a_change_waits_where_nobody_decides_yet() -> None:
    def elected(group: Group) -> None:
        group.leader, group.leads = group.identity, True
        group.lead(True)

    asked("", elected)


def test_a_change_is_refused_at_once_where_another_gateway_decides() -> None:
    with pytest.raises(RequestError, match="this gateway does not decide; gateway-1 does"):
        asked("gateway-1", lambda group: None)


def test_a_change_is_refused_where_nobody_decides_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_several, "TAKES_OVER_WITHIN_S", 0.001)
    with pytest.raises(RequestError, match="no gateway decides at the moment"):
        asked("", lambda group: None)
