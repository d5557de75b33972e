"""Which services there are, and how that changes: declared, taken up, scaled, deleted, one change of the set at a time.

Pools count, scalers decide, the backend runs replicas; here is what belongs together of one service, and the order in
which its parts hear of a change.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from ironloom.account.events import Event, EventKind
from ironloom.account.log import EventLog
from ironloom.errors import ClusterError, IronloomError, RequestError
from ironloom.serve.gateway.app import Gateway
from ironloom.serve.pool import ServicePool
from ironloom.serve.replica import Replica, ReplicaBackend, ServiceReplicas
from ironloom.server.control import AppliedService, AppliedView, ServiceView, name_taken, service_not_found
from ironloom.server.declare import Declared, declared_services, declared_workloads, process_of
from ironloom.server.peers import SharedLoad
from ironloom.server.runs import Runs
from ironloom.server.service import Service
from ironloom.server.service_store import Store, StoredService
from ironloom.server.shared import Shared
from ironloom.server.together import together
from ironloom.workload.serving import Serving

PARK_ON_GPU_S = 600.0
"""How long a service at zero stays parked where it holds a GPU, unless its manifest says otherwise."""
NUM_A_TURN = 20
"""Scalers that decide one after the other: about a millisecond."""
_logger = logging.getLogger(__name__)


class Services:
    """The owner of the set. Implements what `Shared` asks of a host. `store` keeps what was declared; `shared` is set
    where this is one of several gateways."""

    def __init__(
        self, *, backend: ReplicaBackend, gateway: Gateway, log: EventLog, runs: Runs, store: Store, has_gpus: bool
    ) -> None:
        self.by_name: dict[str, Service] = {}
        self.changing = asyncio.Lock()
        """One change of the set at a time."""
        self.store = store
        self.shared: Shared | None = None
        self.url = ""
        """Where clients reach the daemon, once it listens."""
        self.namespace = ""
        """Of a cluster, where replicas are its pods: a backend has one, whatever a manifest leaves out."""
        self._backend, self._gateway, self._log, self._runs = backend, gateway, log, runs
        self._has_gpus = has_gpus

    def __len__(self) -> int:
        return len(self.by_name)

    def __contains__(self, name: object) -> bool:
        return name in self.by_name

    async def take_up(self) -> None:
        """The services that were declared, with what still runs of them. Opens the backend; raises what that raises,
        and ClusterError where the cluster goes away meanwhile: the backend is closed then."""
        is_open = False
        try:
            for stored in await self.store.load():
                declared = declared_services(stored.manifests, stored.pvc)[0]
                self.add(declared.serving, stored, was_ready=True)
            await self._backend.open(on_change=self._observe, drain=self._drain)
            is_open = True
            services = list(self.by_name.values())
            if self.shared is None:
                await together([partial(self._take_up_one, service) for service in services])
                return
            for service in services:
                await self.shared.know(service)
        except BaseException as error:
            if is_open or isinstance(error, ClusterError):  # a store in the cluster is asked by the backend's client
                await self._backend.close(stop_replicas=False)
            raise

    async def _take_up_one(self, service: Service) -> None:
        if service.stored.deleting:
            await self.finish_delete(service)
            return
        try:
            await self._backend.apply(service.serving, service.stored.generation)
        except IronloomError as error:  # one service's fault must not keep the others from being taken up
            if _is_away(error):
                raise
            _logger.warning("taking up %s: %s", service.name, error)
            service.observe(replace(service.report, failure=str(error), passes=False))
        self.declare(service)
        service.scaler.tick(time.monotonic())

    def known(self, name: str) -> Service:
        """Raises `service_not_found`."""
        service = self.by_name.get(name)
        if service is None:
            raise service_not_found(name, list(self.by_name))
        return service

    def views(self) -> list[ServiceView]:
        return [self.view(name) for name in sorted(self.by_name)]

    def view(self, name: str) -> ServiceView:
        return self.known(name).view(f"{self.url}/v1", self.namespace)

    async def tick(self) -> None:
        """Have every scaler decide, a few in a turn of the event loop: requests wait for no more than those."""
        for number, service in enumerate(list(self.by_name.values())):
            if number % NUM_A_TURN == 0:
                await asyncio.sleep(0)
            if self.shared is not None and not self.shared.decides:
                return
            if self.by_name.get(service.name) is not service or service.stored.deleting:
                continue
            try:
                service.scaler.tick(time.monotonic())
            except Exception:  # one service's fault must not stop the scaling of the others
                _logger.exception("the autoscaler of %s failed", service.name)

    def count_tokens(self, name: str, num_tokens: int) -> None:
        """A request of a service has ended."""
        service = self.by_name.get(name)
        if service is not None:
            service.rates.add(time.monotonic(), num_tokens)

    def _observe(self, report: ServiceReplicas) -> None:
        service = self.by_name.get(report.service)
        if service is not None:
            service.observe(report)

    async def _drain(self, replica: Replica) -> None:
        service = self.by_name.get(replica.service)
        if service is None:
            return
        until_s = time.monotonic() + service.serving.timeout_s
        await service.pool.drain(replica, until_s)
        if self.shared is not None:
            await self.shared.drained(replica, until_s)

    async def drain_requests(self) -> None:
        """Wait for what is in flight and held, each as long as its service's timeout lets it."""
        patience_s = max((service.serving.timeout_s for service in self.by_name.values()), default=0.0)
        give_up_s = time.monotonic() + patience_s
        while time.monotonic() < give_up_s:
            if not any(service.pool.in_flight + service.pool.num_held for service in self.by_name.values()):
                return
            for service in self.by_name.values():
                if service.pool.num_held:
                    service.pool.on_hold()
            await asyncio.sleep(0.05)

    # --- orders ---

    async def _deciding(self) -> None:
        if self.shared is not None:
            await self.shared.deciding()

    async def apply(self, manifests: Sequence[dict[str, Any]], pvc: Mapping[str, str], *, dry_run: bool) -> AppliedView:
        """See `Control.apply`."""
        pvc = dict(pvc)
        declared, jobs = declared_workloads(manifests, pvc)
        await self._deciding()
        async with self.changing:
            for name in [one.serving.name for one in declared if one.serving.name in self._runs]:
                raise name_taken(name, "run")
            for name in [job.name for job in jobs if job.name in self]:
                raise name_taken(name, "service")
            plans = [self._plan(one, pvc) for one in declared]
            for job in jobs:
                await self._runs.check(job, beside=jobs)
            for serving, _, action in plans:
                if action != "unchanged":
                    await self._backend.check(serving)
            if dry_run:
                return AppliedView(services=[await self._tried(*plan) for plan in plans])
            await self.store.save(*(stored for _, stored, action in plans if action != "unchanged"))
            return AppliedView(
                services=await together([partial(self._declare, *plan) for plan in plans]),
                runs=[await self._runs.apply(job) for job in jobs],
            )

    def _plan(self, one: Declared, pvc: dict[str, str]) -> tuple[Serving, StoredService, str]:
        service = self.by_name.get(one.serving.name)
        if service is None:
            stored = StoredService(
                name=one.serving.name, generation=1, manifests=one.manifests, pvc=pvc, created_s=time.time()
            )
            return one.serving, stored, "created"
        if service.stored.deleting:
            raise RequestError(
                409,
                f"the service {one.serving.name!r} is being deleted",
                code="service_deleting",
                source="gateway",
                retry_after_s=1.0,
                hint="apply it again once it is gone",
            )
        if service.stored.manifests == one.manifests and service.stored.pvc == pvc:
            return one.serving, service.stored, "unchanged"
        # A new generation rolls replicas out; what only the gateway and the scaler read does not need one.
        same_process = process_of(service.serving) == process_of(one.serving)
        generation = service.stored.generation + (0 if same_process else 1)
        return (
            one.serving,
            replace(service.stored, generation=generation, manifests=one.manifests, pvc=pvc),
            "configured",
        )

    async def _declare(self, serving: Serving, stored: StoredService, action: Any) -> AppliedService:
        service = self.by_name.get(serving.name)
        if service is None:
            service = self.add(serving, stored, was_ready=False)
        elif action == "configured":
            service.update(serving, stored)
        if action != "unchanged":
            self._gateway.declare(serving, service.pool, created_s=stored.created_s)
        has_failed = service.report.is_final
        put_back = await self._backend.apply(serving, stored.generation)
        if action != "unchanged":
            self._log.event(
                Event(
                    kind=EventKind.SERVICE_APPLIED,
                    service=serving.name,
                    reason=action.capitalize(),
                    message=f"{serving.kind} of {serving.model_uri}",
                    data={"generation": stored.generation},
                )
            )
        if action != "unchanged" or has_failed:
            service.scaler.tick(time.monotonic())
        action = "configured" if put_back and action == "unchanged" else action
        told = self._told(serving, stored, action)
        return msgspec.structs.replace(told, notes=list(dict.fromkeys((*put_back, *told.notes))))

    async def _tried(self, serving: Serving, stored: StoredService, action: Any) -> AppliedService:
        trial = await self._backend.trial(serving, stored.generation)
        action = "configured" if trial.put_back and action == "unchanged" else action
        told = self._told(serving, stored, action)
        notes = list(dict.fromkeys((*trial.put_back, *told.notes, *trial.notes)))
        return msgspec.structs.replace(told, notes=notes, objects=list(trial.objects))

    def _told(self, serving: Serving, stored: StoredService, action: Any) -> AppliedService:
        notes = list(self._backend.notes(serving))
        return AppliedService(
            name=serving.name, action=action, generation=stored.generation, url=f"{self.url}/v1", notes=notes
        )

    async def scale(self, name: str, replicas: int | None, *, park: bool) -> ServiceView:
        """See `Control.scale`."""
        await self._deciding()  # what there is, it may know only then
        service = self.known(name)
        pinned = replicas or None
        if pinned != service.stored.pinned:  # written first: what cannot be written changes nothing
            await self.store.save(replace(service.stored, pinned=pinned))
        if replicas == 0:
            service.to_zero_now(park=park)
        else:
            service.pin(replicas)
        return self.view(name)

    async def delete(self, name: str) -> None:
        """See `Control.delete`."""
        await self._deciding()  # what there is, it may know only then
        service = self.known(name)
        async with self.changing:
            await self.finish_delete(service)

    # --- what `Shared` asks of it ---

    def add(self, serving: Serving, stored: StoredService, *, was_ready: bool) -> Service:
        """One more; the gateway and the backend have not heard of it yet."""
        pool = ServicePool(serving)
        service = Service(
            serving,
            stored,
            pool=pool,
            backend=self._backend,
            record=self._log.event,
            default_park_for_s=PARK_ON_GPU_S if self._has_gpus and serving.resources.num_gpus else 0.0,
            was_ready=was_ready,
            now=time.monotonic,
            load=SharedLoad(pool, self.shared.peers) if self.shared is not None else None,
        )
        shared = self.shared
        pool.on_hold = service.poke if shared is None else lambda: shared.held(service)
        self.by_name[serving.name] = service
        return service

    def declare(self, service: Service) -> None:
        self._gateway.declare(service.serving, service.pool, created_s=service.stored.created_s)

    def undeclare(self, name: str) -> None:
        self._gateway.forget(name)

    def forget(self, name: str) -> None:
        self._gateway.forget(name)
        self.by_name.pop(name, None)

    async def finish_delete(self, service: Service, why: str = "") -> None:
        service.stored = replace(service.stored, deleting=True)
        await self.store.save(service.stored)
        self._gateway.forget(service.name)
        await self._backend.delete(service.name)
        await self.store.remove(service.name)
        self.by_name.pop(service.name, None)
        self._log.event(Event(kind=EventKind.SERVICE_DELETED, service=service.name, message=why))


def _is_away(error: IronloomError) -> bool:
    """Whether nobody answered, or not for reasons of this service: nothing else can be taken up then either."""
    return isinstance(error, ClusterError) and (error.status in {0, 401, 429} or error.status >= 500)
