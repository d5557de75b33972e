"""The daemon as one of several gateways: who decides, what the others declared, and what the one that decides is told.

Which services there are lies in the cluster, and every gateway has them. The one that decides changes them, scales
them, and hears the load of the others; the others forward, hold, and follow. When it changes, the new one finishes what
the last one may have left half done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from ironloom.errors import IronloomError
from ironloom.serve.gateway.keys import Shelf
from ironloom.serve.replica import Replica
from ironloom.server.control import PeerAnswer, PeerReport, not_leader
from ironloom.server.declare import declared_services
from ironloom.server.peers import Peers, load_of
from ironloom.server.service import Service
from ironloom.server.service_store import Documents, SharedStore, StoredService, stored_of
from ironloom.workload.serving import Serving

RETRY_S = 1.0
TAKES_OVER_WITHIN_S = 10.0
"""How long a change waits for a gateway that has just been elected to know what there is."""
KEYS_WITHIN_S = 5.0
"""How long a gateway waits for the first word of keys before it takes requests: without the right to see them it does
so without them."""
_logger = logging.getLogger(__name__)


class Keys(Shelf, Protocol):
    """The shelf of the keys, and when what is on it is known."""

    listed: asyncio.Event


class Group(Protocol):
    """The gateways that this one is among. See backends.kubernetes.group."""

    @property
    def store(self) -> Documents: ...
    @property
    def keys(self) -> Keys: ...
    @property
    def identity(self) -> str: ...
    @property
    def leads(self) -> bool: ...
    @property
    def leader(self) -> str: ...
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
    ) -> None: ...
    def poke(self) -> None: ...
    async def leave(self) -> None: ...
    async def close(self) -> None: ...


class SharedBackend(Protocol):
    """What a backend does besides for one of several gateways."""

    async def apply(self, serving: Serving, generation: int) -> tuple[str, ...]: ...
    async def adopt(self, serving: Serving, generation: int) -> None: ...
    async def begin_to_lead(self) -> None: ...
    def end_to_lead(self) -> None: ...
    def draining(self) -> dict[str, list[str]]: ...
    def drain_too(self, draining: Mapping[str, list[str]]) -> None: ...
    def refused(self) -> dict[str, str]: ...
    def refuse_too(self, refused: Mapping[str, str]) -> None: ...
    def forget(self, service: str) -> None: ...


class Host(Protocol):
    """What it asks of the daemon."""

    def add(self, serving: Serving, stored: StoredService, *, was_ready: bool) -> Service: ...
    def declare(self, service: Service) -> None: ...
    def undeclare(self, name: str) -> None: ...
    def forget(self, name: str) -> None: ...
    async def finish_delete(self, service: Service, why: str = "") -> None: ...


class Shared:
    """`services` is the daemon's own table, and `changing` its lock: one change of the set of services at a time."""

    def __init__(
        self,
        group: Group,
        backend: SharedBackend,
        *,
        host: Host,
        services: Mapping[str, Service],
        changing: asyncio.Lock,
    ) -> None:
        self.peers = Peers()
        self.store = SharedStore(group.store)
        self._group, self._backend, self._host = group, backend, host
        self._services, self._changing = services, changing
        self._changes: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._has_taken_over = asyncio.Event()
        """Set while it leads and knows what there is."""
        self._task: asyncio.Task[None] | None = None
        self._leading: asyncio.Task[None] | None = None

    @property
    def decides(self) -> bool:
        return self._has_taken_over.is_set() and self._group.leads

    def must_decide(self) -> None:
        """Raises `not_leader` where another gateway decides."""
        if not self.decides:
            leader = self._group.leader
            raise not_leader("" if leader == self._group.identity else leader)

    async def deciding(self) -> None:
        """Until this gateway decides, where it is about to: it has the Lease and takes over, or nobody has it. Raises
        `not_leader` at once where another gateway decides, and after TAKES_OVER_WITHIN_S."""
        if self._group.leader in {"", self._group.identity}:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._has_taken_over.wait(), TAKES_OVER_WITHIN_S)
        self.must_decide()

    async def know(self, service: Service) -> None:
        """A service that was found at the start: followed, until this gateway decides."""
        await self._backend.adopt(service.serving, service.stored.generation)
        if not service.stored.deleting:
            self._host.declare(service)

    def begin(self, *, url: str, key: str | None, on_keys: Callable[[dict[str, Any]], None]) -> None:
        """Take part: `url` is where the others reach this gateway, `key` what opens their control API; `on_keys` hears
        of the keys that there are."""
        self._task = asyncio.create_task(self._follow(), name="declared")
        self._group.begin(
            url=url,
            key=key,
            on_lead=self._on_lead,
            on_stored=lambda name, document: self._changes.put_nowait((name, document)),
            on_keys=on_keys,
            report=self._report,
            answered=self._answered,
        )

    async def keys_known(self) -> None:
        """Until this gateway has heard of the keys that there are: a key that was made elsewhere is good at once."""
        try:
            await asyncio.wait_for(self._group.keys.listed.wait(), KEYS_WITHIN_S)
        except TimeoutError:
            _logger.warning("keys that were made elsewhere are not known yet")

    # --- the shelf of keys: the gateway that decides writes ---

    async def save(self, key_id: str, document: Any) -> None:
        await self.deciding()
        await self._group.keys.save(key_id, document)

    async def remove(self, key_id: str) -> None:
        await self.deciding()
        await self._group.keys.remove(key_id)

    def held(self, service: Service) -> None:
        """A request is held here: decide, or have the one that decides hear of it now."""
        if self.decides:
            service.poke()
        else:
            self._group.poke()

    async def drained(self, replica: Replica, until_s: float) -> None:
        """Until no other gateway has anything in flight in a replica that is to go, or `until_s` (monotonic)."""
        await self.peers.drained(replica.service, replica.id, until_s)

    def take(self, report: PeerReport) -> PeerAnswer:
        """Another gateway's load. Raises `not_leader`."""
        self.must_decide()
        self.peers.take(report)
        for name, load in report.services.items():
            service = self._services.get(name)
            if load.held and service is not None:
                service.poke()
        return PeerAnswer(draining=self._backend.draining(), refused=self._backend.refused())

    async def leave(self) -> None:
        """Decide no more; another gateway may at once."""
        await self._group.leave()

    async def close(self) -> None:
        await self._group.close()
        tasks = [task for task in (self._task, self._leading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- following ---

    def _report(self) -> dict[str, Any]:
        now_s = time.monotonic()
        found = {
            name: load_of(service.pool, self._in_flight_of_draining(service), now_s)
            for name, service in self._services.items()
        }
        return {"services": msgspec.to_builtins({name: load for name, load in found.items() if _says(load)})}

    def _in_flight_of_draining(self, service: Service) -> dict[str, int]:
        return {
            replica: service.pool.in_flight_of(replica) for replica in self._backend.draining().get(service.name, ())
        }

    def _answered(self, answer: dict[str, Any]) -> None:
        if not self._group.leads:
            told = msgspec.convert(answer, PeerAnswer)
            self._backend.drain_too(told.draining)
            self._backend.refuse_too(told.refused)

    async def _follow(self) -> None:
        while True:
            name, document = await self._changes.get()
            async with self._changing:
                try:
                    await (self._heard if self.decides else self._take_declaration)(name, document)
                except IronloomError as error:
                    _logger.warning("the service %s as another gateway declared it: %s", name, error)
                except Exception:  # one declaration's fault must not keep the others from being heard
                    _logger.exception("the service %s as another gateway declared it was not taken", name)

    async def _heard(self, name: str, document: Any) -> None:
        """A change of a declaration, while this gateway decides: it was written here, unless a person took it away.
        Then the service goes, as its objects do; what was only spoilt is written anew."""
        known = self._services.get(name)
        if document is not None or known is None or known.stored.deleting:
            return
        if await self.store.has(name):
            await self.store.save(known.stored)
        else:
            await self._host.finish_delete(known, "its declaration was taken out of the cluster")

    async def _take_declaration(self, name: str, document: Any) -> None:
        known = self._services.get(name)
        if document is None:
            if known is not None:
                self._host.forget(name)
                self._backend.forget(name)
            return
        stored = stored_of(name, document)
        if stored is None or (known is not None and known.stored == stored):
            return
        serving = declared_services(stored.manifests, stored.pvc)[0].serving
        if known is None:
            known = self._host.add(serving, stored, was_ready=True)
        else:
            known.update(serving, stored)
        await self._backend.adopt(serving, stored.generation)
        if stored.deleting:
            self._host.undeclare(name)
        else:
            self._host.declare(known)

    # --- deciding ---

    def _on_lead(self, leads: bool) -> None:
        if self._leading is not None:
            self._leading.cancel()
            self._leading = None
        if leads:
            self._leading = asyncio.create_task(self._begin_to_lead(), name="take-over")
            return
        self._has_taken_over.clear()
        self._backend.end_to_lead()
        for service in self._services.values():
            service.begin_anew()

    async def _begin_to_lead(self) -> None:
        """Know what there is, decide, and then finish what the last one may have left half done."""
        while self._group.leads:
            try:
                async with self._changing:
                    stored = {one.name: one for one in await self.store.load()}
                    for name in [*self._services]:
                        if name not in stored:
                            await self._take_declaration(name, None)
                    for name, one in stored.items():
                        await self._take_declaration(name, msgspec.to_builtins(one))
                    await self._backend.begin_to_lead()
                    self._has_taken_over.set()
                break
            except IronloomError as error:
                _logger.warning("taking over: %s", error)
            except Exception:  # who has the Lease and does not take over keeps all others from deciding
                _logger.exception("taking over failed")
            await asyncio.sleep(RETRY_S)
        for service in self._services.values():
            service.begin_anew()
            service.scaler.tick(time.monotonic())
        for service in [*self._services.values()]:
            if not self._group.leads:
                return
            try:
                async with self._changing:
                    if service.stored.deleting:
                        await self._host.finish_delete(service)
                    elif service.name in self._services:
                        await self._backend.apply(service.serving, service.stored.generation)
            except IronloomError as error:
                _logger.warning("taking over %s: %s", service.name, error)


def _says(load: Any) -> bool:
    """Whether a load is worth telling."""
    return bool(load.in_flight or load.held or load.draining or load.concurrency or load.rps)
