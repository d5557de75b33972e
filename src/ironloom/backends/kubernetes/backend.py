"""The backend `kubernetes`: replicas are pods. One watch of all pods of Ironloom's services feeds their reports; a
service's objects are applied under one field manager, its scale under another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from ironloom.account.events import Event, EventKind, Left, StoredEvent
from ironloom.backends.kubernetes import capabilities, metrics
from ironloom.backends.kubernetes.applier import Applier, Put
from ironloom.backends.kubernetes.capabilities import Capabilities
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.counts import written_count
from ironloom.backends.kubernetes.discovery import discover
from ironloom.backends.kubernetes.group import Group
from ironloom.backends.kubernetes.installed import must_have
from ironloom.backends.kubernetes.inventory import Inventory
from ironloom.backends.kubernetes.names import SERVICE_LABEL
from ironloom.backends.kubernetes.pods import CANNOT_PARK, NOT_PARKED
from ironloom.backends.kubernetes.rendering import (
    PATHS,
    Rendered,
    Renderer,
    path_of,
    paths_of,
)
from ironloom.backends.kubernetes.service import ClusterService
from ironloom.backends.kubernetes.settle import settled
from ironloom.backends.kubernetes.starts import longest_start_s
from ironloom.backends.kubernetes.supply import Supply
from ironloom.backends.kubernetes.watch import Followed
from ironloom.errors import ClusterError, IronloomError, UsageError
from ironloom.serve.replica import Replica, ScaleOrder, ServiceReplicas, Trial
from ironloom.workload.serving import Serving

_logger = logging.getLogger(__name__)
"""By the manifest's kind: the parts without which something of it is lost."""
_SCALED = (
    ("Deployment", ""),
    ("LeaderWorkerSet", "LeaderWorkerSet"),
)
"""Kinds whose scale may be ours, and the part of the cluster that they come with."""


class KubernetesBackend:
    """See ReplicaBackend for what the methods promise. `namespace` is the one whose services it runs. The client
    is its own, and closed with it. With a `group` it is one of several gateways, and writes only while that leads."""

    name = "kubernetes"

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        record: Callable[[Event], None] = lambda _: None,
        left: Callable[[], Awaitable[Left]] | None = None,
        group: Group | None = None,
        history: Callable[[str], Awaitable[Sequence[StoredEvent]]] | None = None,
    ) -> None:
        """`record` takes what the event log is told of replicas, `left` gives what an earlier gateway told it last,
        `history` the last events of a service."""
        self._history = history
        self.group = group
        self._where = {"cluster": client.target.server, "namespace": namespace}
        self._record: Callable[[Event], None] = lambda event: record(replace(event, data={**event.data, **self._where}))
        self._left = left
        self._client = client
        self._namespace = namespace
        self._inventory = Inventory(client)
        self._applier = Applier(client, self._inventory)
        self._renderer = Renderer(client, namespace=namespace, capabilities=Capabilities(versions={}))
        self._supply = Supply(client)
        self._services: dict[str, ClusterService] = {}
        self._service_of: dict[str, str] = {}
        """By pod's name."""
        self._early: dict[str, ScaleOrder] = {}
        """Orders for services that are being applied: the scaler says a thing once."""
        self._declared: dict[str, tuple[Serving, int]] = {}
        """What each service is, by the last apply."""
        self._whole: dict[str, tuple[Serving, int]] = {}
        """The same, once all of it had been applied."""
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """By service: its objects are applied by one at a time."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_change: Callable[[ServiceReplicas], None]
        self._drain: Callable[[Replica], Awaitable[None]]

    @property
    def capabilities(self) -> Capabilities:
        """What the cluster has, read once when the backend is opened."""
        return self._renderer.capabilities

    @capabilities.setter
    def capabilities(self, found: Capabilities) -> None:
        self._renderer.capabilities = found

    async def open(
        self,
        *,
        on_change: Callable[[ServiceReplicas], None],
        drain: Callable[[Replica], Awaitable[None]],
    ) -> None:
        self._on_change, self._drain = on_change, drain
        # What does not pass by itself (no such server, no right to look) is an error now; later on it is waited out.
        path = f"/api/v1/namespaces/{self._namespace}/pods"
        try:
            await self._client.get(path, params={"limit": "1"}, what=f"list pods in namespace {self._namespace}")
            await must_have(self._client, self._namespace)
            self.capabilities = capabilities.of(await discover(self._client))
        except (ClusterError, UsageError):
            await self._client.close()
            raise
        self._pods = Followed(
            self._client,
            path,
            labels=SERVICE_LABEL,
            on_change=self._pod_changed,
            on_error=_told,
        )
        for line in self.capabilities.told():
            _logger.info("this cluster: %s", line)
        watching = asyncio.create_task(self._pods.run(), name="watch-pods")
        self._tasks.add(watching)
        await self._pods.listed.wait()
        if self._left is not None:
            left = await self._left()
            there = {name for _, name in self._pods.objects}
            for event in settled(
                left.events, there=there, where=self._where, last_seen_s=left.last_s, now_s=time.time()
            ):
                self._record(event)

    async def check(self, serving: Serving) -> None:
        self._renderer.check(serving)

    async def trial(self, serving: Serving, generation: int) -> Trial:
        rendered = await self._renderer.render(serving, generation, seen_start_s=await self._seen_start_s(serving.name))
        done = await self._put(serving, generation, rendered, is_trial=True)
        objects = tuple(as_file(one) for one in done.objects)
        return Trial(objects=objects, notes=rendered.notes, put_back=done.told)

    async def apply(self, serving: Serving, generation: int) -> tuple[str, ...]:
        async with self._changing[serving.name]:  # what is made again by itself is made as it was applied last
            self._declared[serving.name] = (serving, generation)
            rendered = await self._renderer.render(
                serving, generation, seen_start_s=await self._seen_start_s(serving.name)
            )
            try:
                done = await self._put(serving, generation, rendered)
            except ClusterError:
                self._know(serving, rendered)  # what is there of it is followed, scaled and deleted all the same
                raise
            await self._remove_all(serving.name, {path_of(one) for one in rendered.objects})
            self._whole[serving.name] = (serving, generation)
            service = self._know(serving, rendered, done.written)
            service.wanted = done.wanted
            if done.begins:
                service.begin_anew(done.written or 0)
            else:
                service.changed_by_hand = ()
            service.leave_for_later(done.later)
            self._tell(serving.name, done.told)
            counted = service.take_count(done.scaled) if done.scaled is not None else ""
            return (*done.told, counted) if counted and not service.other_writer else done.told

    async def _put(self, serving: Serving, generation: int, rendered: Rendered, *, is_trial: bool = False) -> Put:
        return await self._applier.put_all(
            rendered,
            owner=self.group.store.owner(serving.name) if self.group is not None else None,
            may_rest=not serving.scaling.min_replicas,
            was_whole=self._whole.get(serving.name) == (serving, generation),
            is_trial=is_trial,
        )

    async def _make_later(self, one: Mapping[str, Any]) -> None:
        """One of a service's objects that was left until it has a replica."""
        _, told = await self._applier.put(one, await self._applier.read(path_of(one)), was_whole=False)
        self._tell(one["metadata"]["labels"][SERVICE_LABEL], told)

    async def _make_again(self, service: str) -> None:
        """All of a service's objects, as they were applied last."""
        if (declared := self._declared.get(service)) is not None and self._may_write():
            await self.apply(*declared)

    def _tell(self, service: str, told: Sequence[str]) -> None:
        for said in told:
            self._record(Event(kind=EventKind.SERVICE_DRIFTED, service=service, reason="PutBack", message=said))

    async def adopt(self, serving: Serving, generation: int) -> None:
        """Know a service that another gateway applied: its pods are followed, and nothing is written."""
        self._declared[serving.name] = (serving, generation)
        self._know(serving, await self._renderer.find(serving, generation))

    async def _seen_start_s(self, service: str) -> float | None:
        """The longest start of its replicas, of those there are and of those that the event log knows."""
        pods = [one for one in self._pods.objects.values() if one["metadata"]["labels"].get(SERVICE_LABEL) == service]
        return longest_start_s(pods, await self._history(service) if self._history is not None else ())

    def _know(self, serving: Serving, rendered: Rendered, written: int | None = None) -> ClusterService:
        """`written` is the count that Ironloom wrote last, where that is known."""
        place = rendered.place
        service = self._services.get(serving.name)
        is_known = service is not None
        if service is None:
            service = ClusterService(
                name=serving.name,
                namespace=self._namespace,
                port=place.port,
                engine=serving.runtime or "vllm",
                client=self._client,
                drain=self._drain,
                changed=self._on_change,
                record=self._record,
                outlook=self._supply.outlook,
                may_write=self._may_write,
                make=self._make_later,
                make_again=partial(self._make_again, serving.name),
            )
            self._services[serving.name] = service
        service.port, service.notes, service.foreign_writer = place.port, rendered.notes, place.writer
        if (service.scaled, service.maker) != (place.scaled, place.maker):
            service.deployment, service.scaled, service.maker = place.name, place.scaled, place.maker
            service.written = None
        if service.written is None and service.order is None:
            service.written = written
        if not is_known:
            for name, its in self._service_of.items():
                if its == serving.name:
                    service.take(name, self._pods.objects[self._namespace, name])
            service.begin()
            if (order := self._early.pop(serving.name, None)) is not None:
                service.scale(order)
        service.report()
        return service

    def scale(self, service: str, order: ScaleOrder) -> None:
        found = self._services.get(service)
        if not self._may_write():
            return
        if found is None:
            self._early[service] = order
        else:
            found.scale(order)

    def _may_write(self) -> bool:
        return self.group is None or self.group.leads

    async def begin_to_lead(self) -> None:
        """Take over from another gateway: the counts that it wrote are known, and not written once more. Raises
        ClusterError."""
        self._inventory.forget()
        for kind, part in _SCALED:
            if part and not self.capabilities.has(part):
                continue
            path = PATHS[kind].format(namespace=self._namespace, name="").rstrip("/")
            async for page in self._client.pages(path):
                by_path = {service.path: service for service in self._services.values()}
                for item in page.items:
                    one = msgspec.json.decode(item)
                    found = by_path.get(f"{path}/{one['metadata']['name']}")
                    if found is not None and found.order is None:
                        found.written = written_count(one)

    def end_to_lead(self) -> None:
        """Another gateway decides now: orders of this one mean nothing any more."""
        for service in self._services.values():
            service.forget_order()

    def draining(self) -> dict[str, list[str]]:
        """By service, the replicas that get nothing new because they are to go."""
        return {name: sorted(one.draining) for name, one in self._services.items() if one.draining}

    def refused(self) -> dict[str, str]:
        """By service, why no replica of it can be made before somebody mends something."""
        return {name: why for name, one in self._services.items() if (why := one.refused)}

    def refuse_too(self, refused: Mapping[str, str]) -> None:
        """What the gateway that decides cannot have is told to those who wait here."""
        for name, service in self._services.items():
            if service.refusal != refused.get(name):
                service.refusal = refused.get(name)
                service.report()

    def drain_too(self, draining: Mapping[str, list[str]]) -> None:
        """What the gateway that decides drains gets nothing new here either."""
        for name, service in self._services.items():
            found = {replica for replica in draining.get(name, ()) if replica in service.pods}
            if found != service.draining:
                service.draining = found
                service.report()

    def forget(self, service: str) -> None:
        """A service that another gateway deleted."""
        found = self._services.pop(service, None)
        self._forget(service)
        if found is not None:
            ending = asyncio.create_task(found.end(), name=f"end-{service}")
            self._tasks.add(ending)
            ending.add_done_callback(self._tasks.discard)

    def notes(self, serving: Serving) -> tuple[str, ...]:
        told = (one.message for one in serving.notes_on(self._renderer.ground(serving)))
        notes = (*told, *self.capabilities.lost_of(serving.kind))
        if serving.scaling.park_for_s:
            notes = (*notes, NOT_PARKED)
        declared, made = self._declared.get(serving.name), self._services.get(serving.name)
        is_made = declared is not None and declared[0] is serving  # and not another manifest of the same name
        return (*notes, *made.lasting_notes) if made is not None and is_made else notes

    def can_park(self, service: str) -> str | None:  # noqa: ARG002
        return CANNOT_PARK

    async def delete(self, service: str) -> None:
        self._early.pop(service, None)
        found = self._services.get(service)
        if found is not None:
            await found.stop()  # known until it is gone: other gateways drain it too
        async with self._changing[service]:
            await self._remove_all(service, set())
        self._services.pop(service, None)
        self._forget(service)
        if found is not None:
            found.gone()

    def _forget(self, service: str) -> None:
        self._declared.pop(service, None)
        self._whole.pop(service, None)
        self._changing.pop(service, None)

    def metrics(self) -> bytes:
        """What it asks of the API server, in Prometheus' text format."""
        return metrics.render(self._client.traffic)

    async def logs(
        self, service: str, replica: str | None, *, follow: bool, tail: int
    ) -> AsyncIterator[tuple[str, str | IronloomError]]:
        found = self._services.get(service)
        names = [replica] if replica is not None else sorted(found.pods) if found is not None else []
        waiting: asyncio.Queue[tuple[str, str | IronloomError] | None] = asyncio.Queue(1000)

        async def read(name: str) -> None:
            path = f"/api/v1/namespaces/{self._namespace}/pods/{name}/log"
            params = {"tailLines": str(tail), "follow": str(follow).lower()}
            try:
                async with aclosing(self._client.lines(path, params=params, what=f"get pods/log {name}")) as lines:
                    async for line in lines:
                        await waiting.put((name, line.decode(errors="replace")))
            except IronloomError as error:
                await waiting.put((name, error))
            await waiting.put(None)

        readers = [asyncio.create_task(read(name)) for name in names]
        try:
            left = len(readers)
            while left:
                one = await waiting.get()
                if one is None:
                    left -= 1
                else:
                    yield one
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def close(self, *, stop_replicas: bool) -> None:
        for service in self._services.values():
            try:
                await (service.stop() if stop_replicas else service.end())
            except ClusterError as error:
                _logger.warning("%s keeps its pods: %s", service.name, error)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    def _pod_changed(self, key: tuple[str, str], pod: dict[str, Any] | None) -> None:
        _, name = key
        was = self._service_of.pop(name, None)
        now = pod["metadata"]["labels"].get(SERVICE_LABEL) if pod is not None else None
        if now is not None:
            self._service_of[name] = now
        if was is not None and was != now and (service := self._services.get(was)) is not None:
            service.take(name, None)
        if now is not None and (service := self._services.get(now)) is not None:
            service.take(name, pod)

    async def _remove_all(self, service: str, kept: set[str]) -> None:
        """Remove a service's objects but for those at some paths: what others made of that name stays, and so does what
        a controller made, which carries its owner's labels."""
        for path in paths_of(service, self._namespace, self.capabilities.has):
            if path in kept:
                continue
            folder, _, name = path.rpartition("/")
            one = await self._inventory.find(folder, name)
            if one is None or one.is_made_by_controller:
                continue
            if one.labels.get(SERVICE_LABEL) == service:
                await self._remove(path)

    async def _remove(self, path: str) -> None:
        self._inventory.note(path)
        try:
            await self._client.change("DELETE", path, {"propagationPolicy": "Background"})
        except ClusterError as error:
            if error.status != 404:
                raise


def as_file(one: Mapping[str, Any]) -> dict[str, Any]:
    """An object without what only the API server writes. A dry run allocates no address for a Service and tells the
    first of the range, which no apply may ask for."""
    metadata = {key: value for key, value in one["metadata"].items() if key not in _SERVERS_OWN}
    file = {**{key: value for key, value in one.items() if key != "status"}, "metadata": metadata}
    if one.get("kind") == "Service" and one["spec"].get("clusterIP") != "None":
        file["spec"] = {key: value for key, value in one["spec"].items() if key not in ("clusterIP", "clusterIPs")}
    return file


_SERVERS_OWN = frozenset(
    {"managedFields", "uid", "resourceVersion", "creationTimestamp", "generation", "ownerReferences"}
)
"""Owners too: their uids are one cluster's."""


def _told(error: ClusterError | None) -> None:
    if error is not None:
        _logger.warning("watching pods: %s", error)
    else:
        _logger.info("watching pods again")
