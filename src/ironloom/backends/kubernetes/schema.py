"""The kinds and fields that a live cluster has, from its own description of them.

Source: https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-v3
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from ironloom.backends.kubernetes import failures, kubeconfig
from ironloom.backends.kubernetes.client import NOT_JSON, Client
from ironloom.errors import ClusterError
from ironloom.workload.manifests import openapi
from ironloom.workload.manifests.schema import Schema

INDEX = "/openapi/v3"
NUM_AT_ONCE = 8
_WHAT = "read its OpenAPI"


class _Entry(msgspec.Struct, frozen=True):
    serverRelativeURL: str  # noqa: N815 (the API's name)


class _Index(msgspec.Struct, frozen=True):
    paths: dict[str, _Entry]


_decode_index = msgspec.json.Decoder(_Index).decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


def read_schema(*, context: str) -> Schema | None:
    """The table of a kubeconfig's context; None where the cluster does not describe all of itself: one before 1.24, or
    one that lets this user not ask.

    Raises UsageError, ManifestError and ClusterError as `reader.read_fleet` does.
    """
    target = kubeconfig.load().target(context)

    async def run() -> list[Mapping[str, Any]] | None:
        async with Client(target) as client:
            return await read_documents(client)

    documents = asyncio.run(run())
    return openapi.from_openapi(documents, source=f"context {context}") if documents else None


async def read_documents(client: Client) -> list[Mapping[str, Any]] | None:
    """The description of every group and version; None where one of them is not given."""
    try:
        index = _decode_index(await client.get(INDEX, what=_WHAT))
    except NOT_JSON:
        return None
    except ClusterError as error:
        if error.status in {403, 404, 406}:
            return None
        raise
    slots = asyncio.Semaphore(NUM_AT_ONCE)

    async def one(url: str) -> Mapping[str, Any] | None:
        async with slots:
            try:
                body = await client.get(url, what=_WHAT)
            except ClusterError as error:
                if error.status in {0, 401}:
                    raise
                return None
        try:
            return _decode_object(body)
        except NOT_JSON:
            raise failures.no_json(client.target, _WHAT) from None

    # A kind is at /api/v1 or /apis/GROUP/VERSION; what else is described are the doors around them.
    urls = [
        entry.serverRelativeURL
        for path, entry in index.paths.items()
        if path == "api/v1" or (path.startswith("apis/") and path.count("/") == 2)
    ]
    documents = await asyncio.gather(*(one(url) for url in urls if url.startswith("/")))
    found = [document for document in documents if document is not None]
    return found if len(found) == len(urls) else None
