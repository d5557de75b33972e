"""The gateways of a namespace as a group: what keeps one from telling the leader what it holds, and what does not."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from ironloom.backends.kubernetes import group as module
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.group import Group
from ironloom.backends.kubernetes.lease import Record, Seen

WITHIN_S = 60.0


@pytest.mark.parametrize("url", ["http://[1", "http://127.0.0.1:1"])
def test_an_address_in_the_lease_that_leads_nowhere_is_said_once_and_tried_on(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PUSH_EVERY_S", 0.001)
    monkeypatch.setattr(module, "PUSH_PAUSE_S", 0.0)
    reports: list[int] = []
    thrice = asyncio.Event()

    def report() -> dict[str, object]:
        reports.append(1)
        if len(reports) == 3:
            thrice.set()
        return {}

    async def run() -> None:
        made = Group(cast("Client", None), namespace="models", identity="a")
        made._elector._seen = Seen(record=Record(holder="b", url=url))
        made._key, made._report, made._answered = None, report, lambda _: None
        pushing = asyncio.create_task(made._push())
        waiting = asyncio.create_task(thrice.wait())
        async with asyncio.timeout(WITHIN_S):
            await asyncio.wait([pushing, waiting], return_when=asyncio.FIRST_COMPLETED)
        assert not pushing.done()
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)

    asyncio.run(run())
    assert [one.getMessage().startswith("the gateway b at ") for one in caplog.records] == [True]
