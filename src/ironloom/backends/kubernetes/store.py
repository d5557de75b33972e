"""The services of a cluster's gateways, declared in the cluster itself: a ConfigMap a service, read by all of them.

What a person applied outlives every gateway there, and each of them hears of a change by one watch. It does what the
daemon's own table of services does on one machine; the gateway that leads is the only one that writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from ironloom.backends.kubernetes.client import NAMES_ONLY, Client
from ironloom.backends.kubernetes.names import MANAGED_BY, MANAGER, SERVICE_LABEL
from ironloom.backends.kubernetes.owners import Reference, reference
from ironloom.backends.kubernetes.watch import Followed
from ironloom.errors import ClusterError

STORED_LABEL: Final = "ironloom.dev/stored"
FIELD: Final = "service.json"
_MAY_BE_THERE: Final = frozenset({0, 409})
"""Statuses of a creation after which a document may be there: the connection broke, or it was there before."""
PATH: Final = "/api/v1/namespaces/{namespace}/configmaps"


class ClusterStore:
    """Documents by service name. Every method raises ClusterError."""

    def __init__(self, client: Client, *, namespace: str, on_error: Callable[[ClusterError | None], None]) -> None:
        self._client = client
        self._namespace = namespace
        self._path = PATH.format(namespace=namespace)
        self._labels = f"{STORED_LABEL}=service"
        self._on_error = on_error
        self._uids: dict[str, str] = {}
        """Of documents that were seen or written; one that is not among them may be there all the same."""

    def owner(self, name: str) -> Reference | None:
        """What of a service's goes with its document; None where the document is not known."""
        if (uid := self._uids.get(name)) is None:
            return None
        metadata = {"name": config_map_of(name), "uid": uid}
        return reference({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})

    async def load(self) -> dict[str, Any]:
        """All documents, as the API server has them now."""
        found: dict[str, Any] = {}
        async for page in self._client.pages(self._path, params={"labelSelector": self._labels}):
            if page.is_first:
                found.clear()
            for item in page.items:
                one = msgspec.json.decode(item)
                name, document = _document(one)
                self._uids[name] = one["metadata"]["uid"]
                if document is not None:
                    found[name] = document
        return found

    async def has(self, name: str) -> bool:
        """Whether there is a document of a service now, be it spoilt."""
        params = {"fieldSelector": f"metadata.name={config_map_of(name)}"}
        async for page in self._client.pages(self._path, params=params, accept=NAMES_ONLY):
            return bool(page.items)
        return False

    async def save(self, name: str, document: Any) -> None:
        """Write one document whole. To create one costs an API server half of what it does for an apply."""
        one = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": config_map_of(name),
                "namespace": self._namespace,
                "labels": {**MANAGED_BY, STORED_LABEL: "service", SERVICE_LABEL: name},
            },
            "data": {FIELD: msgspec.json.encode(document).decode()},
        }
        made = await self._create(one) if name not in self._uids else None
        if made is None:
            path = f"{self._path}/{config_map_of(name)}"
            made = await self._client.apply(path, one, manager=MANAGER, forces=True)
        self._uids[name] = _made.decode(made).metadata.uid

    async def _create(self, one: dict[str, Any]) -> bytes | None:
        """None where it may be there already."""
        try:
            return await self._client.change("POST", self._path, one)
        except ClusterError as error:
            if error.status not in _MAY_BE_THERE:
                raise
            return None

    async def remove(self, name: str) -> None:
        """Forget one; none of that name is fine."""
        self._uids.pop(name, None)
        try:
            await self._client.change("DELETE", f"{self._path}/{config_map_of(name)}")
        except ClusterError as error:
            if error.status != 404:
                raise

    async def follow(self, on_change: Callable[[str, Any], None]) -> None:
        """Tell of every document there is, then of each that changes, or None where it is gone. Until cancelled."""

        def changed(key: tuple[str, str], one: dict[str, Any] | None) -> None:
            if one is None:  # its uid stays known: what is still made for it goes with it
                name, document = key[1].removeprefix(_PREFIX), None
            else:
                name, document = _document(one)
                self._uids[name] = one["metadata"]["uid"]
            on_change(name, document)

        followed = Followed(self._client, self._path, labels=self._labels, on_change=changed, on_error=self._on_error)
        await followed.run()


class _Meta(msgspec.Struct, frozen=True):
    uid: str


class _Made(msgspec.Struct, frozen=True):
    metadata: _Meta


_made = msgspec.json.Decoder(_Made)
_PREFIX: Final = "ironloom-service-"


def config_map_of(service: str) -> str:
    """The name of a service's ConfigMap."""
    return f"{_PREFIX}{service}"


def _document(one: dict[str, Any]) -> tuple[str, Any]:
    """Name and document; None for one that somebody has spoilt by hand."""
    name = one["metadata"]["name"].removeprefix(_PREFIX)
    try:
        return name, msgspec.json.decode((one.get("data") or {}).get(FIELD, ""))
    except msgspec.DecodeError:
        return name, None
