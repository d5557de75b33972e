"""The gateways of one namespace as a group: the Lease that says which decides, the services that all of them know, and
what the others tell the one that decides.

    follower ──► POST /api/v1/peers, once a second and at each hold ──► leader
             ◄── replicas that are being drained

A report is as large as the follower's services are many; one that does not come is forgotten after a few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec

from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.elector import Elector
from ironloom.backends.kubernetes.key_store import ClusterKeys
from ironloom.backends.kubernetes.roles import NAME
from ironloom.backends.kubernetes.store import ClusterStore
from ironloom.errors import ClusterError

PEERS_PATH: Final = "/api/v1/peers"
PUSH_EVERY_S: Final = 1.0
PUSH_PAUSE_S: Final = 0.05
"""Between two reports at least, however many requests are held in between."""
PUSH_TIMEOUT_S: Final = 3.0
_logger = logging.getLogger(__name__)


class Group:
    """This gateway among the others. The client is the backend's, and closed by it."""

    def __init__(self, client: Client, *, namespace: str, identity: str) -> None:
        self.store = ClusterStore(client, namespace=namespace, on_error=lambda error: _told("services", error))
        self.keys = ClusterKeys(client, namespace=namespace, on_error=lambda error: _told("keys", error))
        self._elector = Elector(client, namespace=namespace, name=NAME, identity=identity, on_change=self._changed)
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._on_lead: Callable[[bool], None] = lambda _: None

    @property
    def identity(self) -> str:
        return self._elector.identity

    @property
    def leads(self) -> bool:
        """Whether this gateway decides, and may write, now."""
        return self._elector.leads

    @property
    def leader(self) -> str:
        """Who decides as far as is known; empty for nobody."""
        record = self._elector.leader
        return record.holder if record is not None else ""

    def begin(
        self,
        *,
        url: str,
        key: str | None,
        on_lead: Callable[[bool], None],
        on_stored: Callable[[str, Any], None],
        on_keys: Callable[[dict[str, Any]], None],
        report: Callable[[], dict[str, Any]],
        answered: Callable[[dict[str, Any]], None],
    ) -> None:
        """Take part. `url` is where this gateway answers the others, `key` opens their control API. `on_lead` hears
        when it begins to decide and when it no longer does, `on_stored` of the services' documents, `on_keys` of those
        of all keys; `report` is what a leader is told, and `answered` takes what it says to it."""
        self._elector.url, self._on_lead = url, on_lead
        self._key, self._report, self._answered = key, report, answered
        self._tasks = [
            asyncio.create_task(self._elector.run(), name="lease"),
            asyncio.create_task(self.store.follow(on_stored), name="watch-services"),
            asyncio.create_task(self.keys.follow(on_keys), name="watch-keys"),
            asyncio.create_task(self._push(), name="peers"),
        ]

    def poke(self) -> None:
        """A request is held here: the leader hears of it now."""
        self._news.set()

    async def leave(self) -> None:
        """Decide no more; go on telling the next leader what is held here."""
        if self._tasks:
            elector = self._tasks[0]
            elector.cancel()
            await asyncio.gather(elector, return_exceptions=True)
        await self._elector.leave()
        if self._tasks:
            self._tasks[0] = asyncio.create_task(self._elector.run(), name="lease")  # it looks on, and takes no more

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _changed(self, leads: bool) -> None:
        self._on_lead(leads)

    async def _push(self) -> None:
        import httpx2

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        failing = False
        async with httpx2.AsyncClient(headers=headers, timeout=PUSH_TIMEOUT_S, trust_env=False) as http:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), PUSH_EVERY_S)
                self._news.clear()
                leader = self._elector.leader
                if self.leads or leader is None or not leader.url or leader.holder == self.identity:
                    continue
                try:
                    answer = await http.post(
                        f"{leader.url}{PEERS_PATH}",
                        content=msgspec.json.encode({"gateway": self.identity, **self._report()}),
                        headers={"Content-Type": "application/json"},
                    )
                    answer.raise_for_status()
                    self._answered(msgspec.json.decode(answer.content))
                    failing = False
                except Exception as error:  # the address is what stands in the Lease, and may be none
                    if not failing:
                        _logger.warning("the gateway %s at %s hears nothing: %r", leader.holder, leader.url, error)
                    failing = True
                await asyncio.sleep(PUSH_PAUSE_S)


def _told(what: str, error: ClusterError | None) -> None:
    if error is not None:
        _logger.warning("watching %s: %s", what, error)
    else:
        _logger.info("watching %s again", what)
