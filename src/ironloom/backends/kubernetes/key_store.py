"""The keys that a cluster's gateways made, in a Secret that all of them follow: an entry a key, with its hash alone.

The Secret is made by the installation; who may read it learns no token. It outlives every gateway, and each of them
hears of a new or a revoked key by one watch.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any, Final

import msgspec

from ironloom.backends.kubernetes.client import MERGE, Client
from ironloom.backends.kubernetes.install import LABELS
from ironloom.backends.kubernetes.names import MANAGED_BY
from ironloom.backends.kubernetes.roles import KEYS_SECRET
from ironloom.backends.kubernetes.watch import Followed
from ironloom.errors import ClusterError

PATH: Final = "/api/v1/namespaces/{namespace}/secrets"


class ClusterKeys:
    """Documents by key id. What asks raises ClusterError."""

    def __init__(self, client: Client, *, namespace: str, on_error: Callable[[ClusterError | None], None]) -> None:
        self._client = client
        self._namespace = namespace
        self._folder = PATH.format(namespace=namespace)
        self._on_change: Callable[[dict[str, Any]], None] = lambda _: None
        self._followed = Followed(
            client,
            self._folder,
            fields=f"metadata.name={KEYS_SECRET}",
            on_change=lambda _, one: self._on_change(documents(one or {})),
            on_error=on_error,
        )
        self.listed = self._followed.listed
        """Set once those that there are have been told."""

    async def save(self, key_id: str, document: Any) -> None:
        """Write one; the others stay as they are."""
        data = {"data": {key_id: b64encode(msgspec.json.encode(document)).decode()}}
        try:
            await self._change("PATCH", f"{self._folder}/{KEYS_SECRET}", data)
        except ClusterError as error:
            if error.status != 404:
                raise
            metadata = {"name": KEYS_SECRET, "namespace": self._namespace, "labels": {**LABELS, **MANAGED_BY}}
            made = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", **data}
            await self._change("POST", self._folder, made)

    async def remove(self, key_id: str) -> None:
        """Forget one; none of that id is fine."""
        try:
            await self._change("PATCH", f"{self._folder}/{KEYS_SECRET}", {"data": {key_id: None}})
        except ClusterError as error:
            if error.status != 404:
                raise

    async def follow(self, on_change: Callable[[dict[str, Any]], None]) -> None:
        """Tell of all there are, at once and whenever one of them changes. Until cancelled."""
        self._on_change = on_change
        await self._followed.run()

    async def _change(self, method: str, path: str, body: Any) -> None:
        kind = MERGE if method == "PATCH" else "application/json"
        what = f"{method.lower()} secret {KEYS_SECRET} in namespace {self._namespace}"
        await self._client.change(method, path, body, content_type=kind, what=what)


def documents(secret: dict[str, Any]) -> dict[str, Any]:
    """By key id; what somebody has spoilt by hand is left out."""
    found = {}
    for key_id, written in (secret.get("data") or {}).items():
        try:
            found[key_id] = msgspec.json.decode(b64decode(written, validate=True))
        except (ValueError, TypeError, msgspec.DecodeError):
            continue
    return found
