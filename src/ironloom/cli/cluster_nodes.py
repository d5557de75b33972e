"""The nodes behind a service of a cluster, for `describe --context`: what its pools can still give, and what an empty
node costs. Read with the user's own rights, which may be more than the gateway's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ironloom.errors import ClusterError

if TYPE_CHECKING:
    from ironloom.backends.kubernetes.client import Client

_FOLDERS = (
    ("/api/v1/namespaces/{namespace}/pods", ()),
    ("/apis/apps/v1/namespaces/{namespace}/deployments", ("template",)),
    ("/apis/leaderworkerset.x-k8s.io/v1/namespaces/{namespace}/leaderworkersets",
     ("leaderWorkerTemplate", "workerTemplate")),
)  # fmt: skip
"""Where a pod of a service is found, or what one would be, and the way to it below spec."""


def nodes_told(context: str, namespace: str | None, service: str) -> tuple[str, ...]:
    """Sentences; one that says why where nothing is known. Raises what reading a kubeconfig raises."""
    from ironloom.backends.kubernetes.client import Client
    from ironloom.backends.kubernetes.supply import read_pools
    from ironloom.backends.kubernetes.unlisted import NODES
    from ironloom.cli.install import cluster_of
    from ironloom.place.growth import told

    target = cluster_of(context, namespace)

    async def ask() -> tuple[str, ...]:
        async with Client(target) as client:
            found = await read_pools(client)
            if NODES in found.unlisted:
                return ("What its nodes are, and whether more can come, is not known: you may not list nodes.",)
            unseen = f"More may come than is told: you may not list {', '.join(found.unlisted)}."
            spec = await _spec(client, target.namespace, service) if found.pools else None
            said = told(spec, found.pools) if spec is not None else ()
            return (*said, unseen) if found.unlisted else said

    try:
        return asyncio.run(ask())
    except ClusterError as error:
        return (f"What its nodes are is not known: {error.message}.",)


async def _spec(client: Client, namespace: str, service: str) -> Mapping[str, Any] | None:
    """Of a pod of the service, be there one or not; None where nothing says."""
    import msgspec

    from ironloom.backends.kubernetes.names import SERVICE_LABEL

    for folder, way in _FOLDERS:
        try:
            body = await client.get(
                folder.format(namespace=namespace), params={"labelSelector": f"{SERVICE_LABEL}={service}", "limit": "1"}
            )
        except ClusterError as error:
            if error.status not in {403, 404}:
                raise
            continue
        for one in msgspec.json.decode(body).get("items") or ():
            found: Any = one.get("spec") or {}
            for step in way:
                found = found.get(step) or {}
            if spec := found.get("spec") if way else found:
                return dict(spec)
    return None
