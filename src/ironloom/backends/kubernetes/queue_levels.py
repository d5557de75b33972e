"""The topology of a queue: the levels by which Kueue places what it admits, and what is read to know them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ironloom.backends.kubernetes.client import NOT_JSON, Client
from ironloom.errors import ClusterError
from ironloom.fleet.build import build_fleet
from ironloom.fleet.model import ClusterQueue, Flavor, Fleet
from ironloom.fleet.objects import FleetObject, decode

HOST: Final = "kubernetes.io/hostname"
KUEUE: Final = "kueue.x-k8s.io"


def queue_levels(fleet: Fleet, namespace: str, queue: str) -> tuple[str, ...]:
    """Node labels of the topology of a LocalQueue's flavors, coarse to fine; of the first flavor that names one."""
    topologies = {one.name: one.levels for one in fleet.topologies}
    cluster = cluster_queue_of(fleet, namespace, queue)
    return next((topologies[one.topology] for one in flavors_of(fleet, cluster) if one.topology in topologies), ())


def cluster_queue_of(fleet: Fleet, namespace: str, queue: str) -> ClusterQueue | None:
    """The ClusterQueue of a LocalQueue; None where there is none, or it is not known."""
    name = next(
        (one.cluster_queue for one in fleet.local_queues if (one.namespace, one.name) == (namespace, queue)), ""
    )
    return next((one for one in fleet.cluster_queues if one.name == name), None)


def flavors_of(fleet: Fleet, queue: ClusterQueue | None) -> list[Flavor]:
    """Those that a ClusterQueue has quotas of, in its order."""
    by_name = {one.name: one for one in fleet.flavors}
    names = dict.fromkeys(quota.flavor for quota in queue.quotas) if queue is not None else ()
    return [by_name[name] for name in names if name in by_name]


def finest(levels: tuple[str, ...]) -> str:
    """The last level above the host; empty for none."""
    above = [one for one in levels if one != HOST]
    return above[-1] if above else ""


async def read_queues(client: Client, namespace: str, versions: Mapping[str, str]) -> Fleet:
    """A fleet of no nodes: a namespace's labels and LocalQueues, and Kueue's ClusterQueues, flavors and topologies, in
    the versions of the cluster's parts. What may not be read is left out. Raises ClusterError."""
    found: list[FleetObject] = []
    try:
        found.append(decode(await client.get(f"/api/v1/namespaces/{namespace}"), api_version="v1", kind="Namespace"))
    except NOT_JSON:
        pass
    except ClusterError as error:
        if error.status not in {403, 404}:
            raise
    for version, kind, path in _lists(namespace, versions):
        listed: list[FleetObject] = []
        try:
            async for page in client.pages(path):
                if page.is_first:
                    listed.clear()
                listed += [decode(item, api_version=version, kind=kind) for item in page.items]
        except ClusterError as error:
            if error.status not in {403, 404}:
                raise
        found += listed
    return build_fleet(found, name="", source="")


def _lists(namespace: str, versions: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """apiVersion, kind and path."""
    if "Kueue" in versions:
        version = f"{KUEUE}/{versions['Kueue']}"
        yield version, "LocalQueue", f"/apis/{version}/namespaces/{namespace}/localqueues"
        yield version, "ClusterQueue", f"/apis/{version}/clusterqueues"
        yield version, "ResourceFlavor", f"/apis/{version}/resourceflavors"
    if "Kueue topologies" in versions:
        version = f"{KUEUE}/{versions['Kueue topologies']}"
        yield version, "Topology", f"/apis/{version}/topologies"
