"""A live cluster, read only: the objects that a fleet is made of, each kind a paged list, several at a time.

Of kinds of which the name is enough (Secret, ConfigMap, …) the API server is asked for names alone, so that no secret
travels. A kind that may not be listed is unknown, and said so; without nodes and pods there is no fleet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from ironloom.backends.kubernetes import failures, kubeconfig
from ironloom.backends.kubernetes.client import JSON, NAMES_ONLY, NOT_JSON, Client
from ironloom.backends.kubernetes.discovery import Resource, Served, discover
from ironloom.errors import ClusterError
from ironloom.fleet import objects
from ironloom.fleet.build import build_fleet
from ironloom.fleet.model import Fleet
from ironloom.fleet.objects import FleetObject

NEEDED = (("", "Node"), ("", "Pod"))
"""Without these nothing that a fleet says would be true."""
NAMED = (
    ("", "ConfigMap"),
    ("", "PersistentVolumeClaim"),
    ("", "Secret"),
    ("", "Service"),
    ("", "ServiceAccount"),
    ("kueue.x-k8s.io", "AdmissionCheck"),
    ("kueue.x-k8s.io", "WorkloadPriorityClass"),
    ("node.k8s.io", "RuntimeClass"),
    ("resource.k8s.io", "DeviceClass"),
    ("serving.kserve.io", "ClusterServingRuntime"),
    ("serving.kserve.io", "ClusterStorageContainer"),
    ("serving.kserve.io", "LLMInferenceServiceConfig"),
    ("serving.kserve.io", "ServingRuntime"),
    ("storage.k8s.io", "StorageClass"),
    ("trainer.kubeflow.org", "ClusterTrainingRuntime"),
    ("trainer.kubeflow.org", "TrainingRuntime"),
)
"""Groups and kinds of which the names are read: manifests refer to them."""
NUM_AT_ONCE = 8
"""Lists that are read at the same time. The API server's own fairness gives a user more than that."""
_METRICS = "metrics.k8s.io"
"""Aggregated APIs of metrics are often away, and nothing is decided by them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unread:
    """A kind that could not be listed: nothing follows from its absence."""

    kind: str
    """As kubectl names it: `secrets`, `clusterqueues.kueue.x-k8s.io`."""
    why: str

    def __str__(self) -> str:
        return f"{self.kind} are unknown: {self.why}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What is known of a cluster beside its objects."""

    context: str
    taken_at: str
    """RFC 3339."""
    version: str
    """Of the API server: v1.37.2."""
    kinds_served: frozenset[str] | None
    """`group/version/Kind`; None where a part of the API did not say."""
    kinds_listed: tuple[str, ...]
    """`group/Kind` of which all objects were read, be it none."""
    unread: tuple[Unread, ...]


class Sink(Protocol):
    """Who gets the objects. Called from the event loop, one at a time, so it must not wait."""

    def begin(self, resource: Resource) -> None:
        """The objects of this kind come from here on; what came of it before is void (its list was begun anew)."""
        ...

    def add(self, resource: Resource, raw: bytes) -> None:
        """One object's JSON; it may lack apiVersion and kind, as items of a list do. Of a kind in NAMED it has the
        name and the namespace alone."""
        ...


Progress = Callable[[str, int, int | None], None]
"""(kind as kubectl names it, objects more, objects that remain of it): called once a page."""


def read_fleet(
    *,
    context: str,
    levels: Sequence[str] = (),
    tell: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Fleet:
    """The fleet of a kubeconfig's context, now. `levels` are node labels, coarse to fine; `tell` hears what is unknown.

    Raises UsageError for a context that is not there or a label that no node has, ManifestError for a kubeconfig or an
    object that cannot be read, ClusterError for a cluster that cannot.
    """
    found = _Decoded()
    reading = read_objects(found, context=context, progress=progress)
    for one in reading.unread if tell is not None else ():
        assert tell is not None
        tell(str(one))
    return build_fleet(
        found.all(),
        name=context,
        source=f"context {context}",
        levels=levels,
        taken_at=reading.taken_at,
        version=reading.version,
        kinds_served=reading.kinds_served,
        kinds_listed=reading.kinds_listed,
    )


def read_objects(sink: Sink, *, context: str, progress: Progress | None = None) -> Reading:
    """Hand every object that a fleet is made of to `sink`. Raises as `read_fleet` does."""
    target = kubeconfig.load().target(context)

    async def run() -> Reading:
        async with Client(target) as client:
            return await read(client, sink, progress)

    return asyncio.run(run())


async def read(client: Client, sink: Sink, progress: Progress | None = None) -> Reading:
    """The same over an open client."""
    taken_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    version = await _version(client)  # alone: what is wrong with the way there is found once
    served = await discover(client)
    wanted = list(_wanted(served))
    slots = asyncio.Semaphore(NUM_AT_ONCE)

    async def one(resource: Resource) -> Unread | None:
        async with slots:
            return await _list(client, resource, sink, progress)

    tasks = [asyncio.ensure_future(one(resource)) for resource in wanted]
    try:
        unread = [found for found in await asyncio.gather(*tasks) if found is not None]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    failed = {found.kind for found in unread}
    return Reading(
        context=client.target.context,
        taken_at=taken_at,
        version=version,
        kinds_served=served.kinds if all(_is_metrics(one) for one in served.unread) else None,
        kinds_listed=tuple(f"{one.group}/{one.kind}" for one in wanted if one.full_name not in failed),
        unread=tuple(unread),
    )


def _wanted(served: Served) -> Iterator[Resource]:
    """What to list. A kind that is not served has no objects, and `kinds_served` says so."""
    for group, kind in (*NEEDED, *sorted(objects.KINDS_READ_WHOLE), *NAMED):
        resource = served.find(group, kind)
        if resource is not None:
            yield resource
        elif (group, kind) in NEEDED:
            raise ClusterError(
                f"The API server serves no {kind}s", hint="is its address that of a Kubernetes API server?"
            )


async def _list(client: Client, resource: Resource, sink: Sink, progress: Progress | None) -> Unread | None:
    is_named = (resource.group, resource.kind) in NAMED
    try:
        async for page in client.pages(
            resource.path, accept=NAMES_ONLY if is_named else JSON, what=f"list {resource.full_name}"
        ):
            if page.is_first:
                sink.begin(resource)
            for raw in page.items:
                sink.add(resource, await _named(raw, resource, client) if is_named else raw)
            if progress is not None:
                progress(resource.full_name, len(page.items), page.num_remaining)
    except ClusterError as error:
        if error.status in {0, 401} or (resource.group, resource.kind) in NEEDED:
            raise
        sink.begin(resource)
        return Unread(kind=resource.full_name, why=error.message)
    return None


class _Meta(msgspec.Struct, frozen=True, gc=False):
    name: str = ""
    namespace: str = ""


class _Named(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()


_names = msgspec.json.Decoder(_Named)


async def _named(raw: bytes, resource: Resource, client: Client) -> bytes:
    """An object's name and namespace, whatever the server sent with them; the one ConfigMap that a fleet is read from
    whole."""
    try:
        meta = _names.decode(raw).metadata
    except NOT_JSON:
        raise failures.no_json(client.target, f"list {resource.full_name}") from None
    if resource.kind == "ConfigMap" and meta.name == objects.AUTOSCALER_STATUS:
        with suppress(ClusterError):
            return await client.get(f"/api/v1/namespaces/{meta.namespace}/configmaps/{meta.name}")
    metadata = {"name": meta.name, **({"namespace": meta.namespace} if meta.namespace else {})}
    return msgspec.json.encode({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata})


class _Version(msgspec.Struct, frozen=True):
    gitVersion: str = ""  # noqa: N815 (the API's name)


_decode_version = msgspec.json.Decoder(_Version).decode


async def _version(client: Client) -> str:
    try:
        return _decode_version(await client.get("/version", what="get its version")).gitVersion
    except NOT_JSON:
        raise failures.no_json(client.target, "get its version") from None
    except ClusterError as error:
        if error.status in {403, 404}:  # /version can be closed to those who may list
            return ""
        raise


def _is_metrics(group_version: str) -> bool:
    return group_version.partition("/")[0].endswith(_METRICS)


class _Decoded:
    """Objects with just the fields that a fleet is read from."""

    def __init__(self) -> None:
        self._by_kind: dict[str, list[FleetObject]] = {}

    def begin(self, resource: Resource) -> None:
        self._by_kind[resource.full_name] = []

    def add(self, resource: Resource, raw: bytes) -> None:
        try:
            found = objects.decode(raw, api_version=resource.api_version, kind=resource.kind)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise objects.refused(error, "the API server", raw) from error
        self._by_kind[resource.full_name].append(found)

    def all(self) -> Iterator[FleetObject]:
        for found in self._by_kind.values():
            yield from found
