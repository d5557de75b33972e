"""What a cluster would be given for services, rendered here with the user's own rights: no gateway is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ironloom.workload.serving import Serving

if TYPE_CHECKING:
    from ironloom.backends.kubernetes.rendering import Rendered


def rendered(context: str, namespace: str | None, servings: Sequence[Serving]) -> list[Rendered]:
    """The objects of each service, and what is to be said. Raises EngineUnavailable and UsageError for a service that
    cannot run there, ClusterError for a cluster that cannot be read."""
    from ironloom.backends.kubernetes import capabilities
    from ironloom.backends.kubernetes.client import Client
    from ironloom.backends.kubernetes.discovery import discover
    from ironloom.backends.kubernetes.rendering import Renderer
    from ironloom.cli.install import cluster_of

    target = cluster_of(context, namespace)

    async def run() -> list[Rendered]:
        async with Client(target) as client:
            found = capabilities.of(await discover(client))
            renderer = Renderer(client, namespace=target.namespace, capabilities=found)
            made = [await renderer.render(serving, 1) for serving in servings]
            return [
                replace(one, notes=(*found.lost_of(serving.kind), *one.notes))
                for serving, one in zip(servings, made, strict=True)
            ]

    return asyncio.run(run())


def objects_of(found: Sequence[Rendered]) -> list[dict[str, Any]]:
    """All their objects, in the order of making them."""
    return [one for each in found for one in each.objects]
