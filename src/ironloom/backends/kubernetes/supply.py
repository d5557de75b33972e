"""What a cluster's pools of nodes can still give: read where pods wait for a node, as far as the rights go.

Nodes and pools belong to the cluster as a whole. Who may not list them is told so; what the autoscaler itself said of a
pod stands in the events of the pod's own namespace.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ironloom.backends.kubernetes import queue_wait
from ironloom.backends.kubernetes.client import NOT_JSON, Client
from ironloom.backends.kubernetes.discovery import Served, discover
from ironloom.backends.kubernetes.pods import GATED, UNSCHEDULABLE
from ironloom.backends.kubernetes.unlisted import NODES, supply_note
from ironloom.errors import ClusterError, ManifestError
from ironloom.fleet import objects, supply
from ironloom.fleet.build import build_fleet
from ironloom.fleet.model import NodePool
from ironloom.place.growth import outlook

KEPT_S: Final = 60.0
"""How long what was read of the pools counts, and how often a pod that still waits is looked at again."""
SOON_S: Final = 0.5
"""Before the second look at a pod that its queue has not judged; twice as long before each one that follows."""
LATE_S: Final = 4.0
"""The pause from which on it is told that a queue has not judged: a moment is no news."""
RETRY_AFTER_S: Final = 60.0
"""What a client is told whose request waited for a node in vain: nodes come in minutes."""
STATUS_PATH: Final = f"/api/v1/namespaces/kube-system/configmaps/{objects.AUTOSCALER_STATUS}"
SUPPLIERS: Final = ("cluster-autoscaler", "karpenter")
"""Who says in an event of a pod what it does for it.

Source: `reportingComponent` and `source` of https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/
"""
KINDS: Final = tuple(
    (group, kind)
    for group, _, kind in (
        one.partition("/")
        for one in (supply.COREWEAVE, supply.KARPENTER, supply.EC2_CLASS, *supply.CAPI, supply.OPENSHIFT)
    )
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pools:
    """What was read of a cluster's pools."""

    pools: tuple[NodePool, ...] = ()
    unlisted: tuple[str, ...] = ()
    """Kinds that are served and may not be listed: `nodes`, `nodepools.karpenter.sh`."""


async def read_pools(client: Client) -> Pools:
    """The pools of a cluster, as far as the rights go: none where nodes may not be listed. Raises ClusterError."""
    served = await discover(client)
    found: list[Any] = []
    unlisted: list[str] = []
    try:
        found += await _listed(client, served, "", "Node")
    except ClusterError as error:
        if error.status == 403:
            return Pools(unlisted=(NODES,))
        raise
    for group, kind in KINDS:
        try:
            found += await _listed(client, served, group, kind)
        except ClusterError as error:
            if error.status in {0, 401}:
                raise
            if error.status == 403 and (resource := served.find(group, kind)) is not None:
                unlisted.append(resource.full_name)
    try:
        found.append(msgspec.json.decode(await client.get(STATUS_PATH)))
    except ClusterError as error:
        if error.status in {0, 401}:
            raise
    except NOT_JSON:
        pass
    try:
        fleet = build_fleet(found, name=client.target.context, source=f"context {client.target.context}")
        return Pools(pools=fleet.pools, unlisted=tuple(unlisted))
    except ManifestError as error:
        raise ClusterError(error.message, hint=error.hint) from None


async def _listed(client: Client, served: Served, group: str, kind: str) -> list[Any]:
    resource = served.find(group, kind)
    found: list[Any] = []
    if resource is None:
        return found
    async for page in client.pages(resource.path, what=f"list {resource.full_name}"):
        if page.is_first:
            found.clear()
        for raw in page.items:
            try:
                found.append(objects.decode(raw, api_version=resource.api_version, kind=resource.kind))
            except (msgspec.MsgspecError, RecursionError) as error:
                raise ClusterError(objects.refused(error, "the API server", raw).message) from None
    return found


async def said_of(client: Client, namespace: str, pod: str) -> str:
    """What an autoscaler said last of a pod that waits: `cluster-autoscaler: pod triggered scale-up: …`. Empty where
    none said anything; where events may not be listed it says that. Raises ClusterError."""
    params = {"fieldSelector": f"involvedObject.kind=Pod,involvedObject.name={pod}"}
    try:
        body = await client.get(f"/api/v1/namespaces/{namespace}/events", params=params, what=f"list events of {pod}")
        return last_word(msgspec.json.decode(body).get("items") or ())
    except ClusterError as error:
        if error.status not in {403, 404}:
            raise
        return "what an autoscaler says of it is not known: events may not be listed" if error.status == 403 else ""
    except NOT_JSON:
        return ""


def last_word(events: Any) -> str:
    """Of the events of one pod, the newest that an autoscaler wrote."""
    found = [
        (str(one.get("lastTimestamp") or one.get("eventTime") or one["metadata"].get("creationTimestamp")), who, one)
        for one in events
        if (who := one.get("reportingComponent") or (one.get("source") or {}).get("component")) in SUPPLIERS
    ]
    if not found:
        return ""
    _, who, last = max(found, key=lambda one: one[0])
    return f"{who}: {' '.join(str(last.get('message')).split())}"


class Supply:
    """The pools as last read: one reading for all services whose pods wait at the same time."""

    def __init__(self, client: Client, *, now: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._now = now
        self._reading = asyncio.Lock()
        self._pools = Pools()
        self._read_s = float("-inf")

    async def outlook(self, pod: Mapping[str, Any]) -> str:
        """What may come for a pod that waits for a node, or why its queue holds it, in a line; empty where nothing is
        known. Raises ClusterError."""
        if queue_wait.is_held(pod):
            return await queue_wait.said_of(self._client, pod)
        metadata = pod["metadata"]
        async with self._reading:
            if self._now() - self._read_s >= KEPT_S:
                self._pools = await read_pools(self._client)
                self._read_s = self._now()
        could = str(outlook(pod.get("spec") or {}, self._pools.pools))
        unseen = supply_note(self._pools.unlisted)
        said = await said_of(self._client, metadata["namespace"], metadata["name"])
        return "; ".join(one for one in (could, unseen, said) if one)


class NodeWait:
    """Looks, for one service, at what may come for a pod of it that waits for a node or for its queue, again and again
    while it waits. `text` is what was found; `changed` is called when that is news."""

    def __init__(self, ask: Callable[[Mapping[str, Any]], Awaitable[str]], changed: Callable[[], None]) -> None:
        self.text = ""
        self._ask = ask
        self._changed = changed
        self._pod: Mapping[str, Any] | None = None
        self._task: asyncio.Task[None] | None = None

    def look(self, pod: Mapping[str, Any] | None) -> None:
        """A pod that waits now; None where none does."""
        is_news = pod is None or self._pod is None or queue_wait.is_held(pod) != queue_wait.is_held(self._pod)
        self._pod = pod
        if is_news:
            self.stop()
        if pod is None:
            return
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="node-supply")

    @property
    def begins(self) -> str:
        """How the phase of a pod begins that the text is of: not that of one which waits for something else."""
        return GATED if self._pod is not None and queue_wait.is_held(self._pod) else UNSCHEDULABLE

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self.text = ""

    async def _run(self) -> None:
        pause_s = SOON_S
        while self._pod is not None:
            try:
                found = await self._ask(self._pod)
            except ClusterError:
                found = self.text  # the next look may have an answer
            is_open = found.endswith(queue_wait.NOT_YET)
            if found != self.text and (not is_open or pause_s >= LATE_S):
                self.text = found
                self._changed()
            await asyncio.sleep(pause_s if is_open else KEPT_S)
            pause_s = min(KEPT_S, 2 * pause_s)
