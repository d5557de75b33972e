"""What a cluster would be given for services, rendered here with the user's own rights: no gateway is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from ironloom.errors import ClusterError
from ironloom.workload.serving import Serving

if TYPE_CHECKING:
    from ironloom.backends.kubernetes.client import Client
    from ironloom.backends.kubernetes.rendering import Rendered

NUM_SINGLY = 4
"""Objects of a folder that are asked for one by one; of more, the folder is listed."""


class _Metadata(msgspec.Struct):
    name: str


class _Named(msgspec.Struct):
    metadata: _Metadata


_name_of = msgspec.json.Decoder(_Named).decode


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
                replace(one, notes=(*found.lost_of(serving.kind), *_not_parked(serving), *one.notes))
                for serving, one in zip(servings, made, strict=True)
            ]

    return asyncio.run(run())


def _not_parked(serving: Serving) -> tuple[str, ...]:
    from ironloom.backends.kubernetes.pods import NOT_PARKED

    return (NOT_PARKED,) if serving.scaling.park_for_s else ()


def put_back(context: str, namespace: str | None, made: Mapping[str, Rendered]) -> dict[str, tuple[str, ...]]:
    """By service, what others changed of its objects and an apply would put back, a sentence each; read with the user's
    own rights, so that nothing is sent to be judged. Raises ClusterError for an object that cannot be read."""
    from ironloom.backends.kubernetes.client import Client
    from ironloom.backends.kubernetes.drift import told
    from ironloom.backends.kubernetes.rendering import path_of
    from ironloom.cli.install import cluster_of

    async def run() -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        async with Client(cluster_of(context, namespace)) as client:
            there = await _there(client, [path_of(wanted) for one in made.values() for wanted in one.objects])
            for name, one in made.items():
                said: list[str] = []
                for wanted in one.objects:
                    if (live := there[path_of(wanted)]) is not None:
                        said += told({"kind": wanted["kind"], **live}, wanted, was_whole=False, is_trial=True)
                found[name] = tuple(said)
        return found

    return asyncio.run(run())


async def _there(client: Client, paths: Sequence[str]) -> dict[str, dict[str, Any] | None]:
    """The objects at paths, None where there is none. A few of a folder are asked for one by one; many, where they may
    be listed, by a list of it. Raises ClusterError."""
    from ironloom.backends.kubernetes.rendering import read_object

    by_folder: dict[str, list[str]] = {}
    for path in paths:
        by_folder.setdefault(path.rpartition("/")[0], []).append(path)
    found: dict[str, dict[str, Any] | None] = {}
    for folder, own in by_folder.items():
        listed = await _listed(client, folder, frozenset(own)) if len(own) > NUM_SINGLY else None
        for path in own:
            found[path] = listed.get(path) if listed is not None else await read_object(client, path)
    return found


async def _listed(client: Client, folder: str, paths: Set[str]) -> dict[str, dict[str, Any]] | None:
    """Those objects of a folder, by path; None where they may not be listed. Raises ClusterError."""
    found: dict[str, dict[str, Any]] = {}
    try:
        async for page in client.pages(folder):
            if page.is_first:
                found.clear()
            for item in page.items:
                path = f"{folder}/{_name_of(item).metadata.name}"
                if path in paths:  # a namespace may hold many more
                    found[path] = msgspec.json.decode(item)
    except ClusterError as error:
        if error.status == 403:
            return None
        if error.status != 404:
            raise
    return found


def objects_of(found: Sequence[Rendered]) -> list[dict[str, Any]]:
    """All their objects, in the order of making them."""
    return [one for each in found for one in each.objects]
