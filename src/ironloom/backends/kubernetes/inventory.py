"""Which objects a namespace has, by name and labels alone.

For one service each is asked for by itself. Where many services are applied one after the other, a list of them all is
read instead, and counts while they go on, but for what was changed from here meanwhile: that is asked for by itself
again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from ironloom.backends.kubernetes.client import NAME_ONLY, NAMES_ONLY, NOT_JSON, Client
from ironloom.errors import ClusterError

KEPT_S: Final = 2.0
"""How long after an ask what was read counts: a person who mends something and applies again is slower."""
MAX_KEPT_S: Final = 20.0
"""How long it counts at most, however many ask: what others do meanwhile is seen by the next list."""
NUM_SINGLY: Final = 4
"""Objects of a kind asked for by themselves in that time, before a list is read."""


class _Owner(msgspec.Struct, frozen=True):
    controller: bool = False


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """Who an object is, and whose."""

    name: str
    labels: dict[str, str] = {}
    owner_references: list[_Owner] = msgspec.field(name="ownerReferences", default_factory=list)

    @property
    def is_made_by_controller(self) -> bool:
        return any(owner.controller for owner in self.owner_references)


class _Object(msgspec.Struct, frozen=True):
    metadata: Meta


@dataclass(slots=True)
class _Folder:
    """The objects of one kind, as far as they were read lately."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    since_s: float = float("-inf")
    asked_s: float = float("-inf")
    """When it was asked last."""
    num_asked: int = 0
    """Since then."""
    listed: dict[str, Meta] | None = None
    changed: set[str] = field(default_factory=set)
    """Names that the list no longer tells the truth of."""
    may_list: bool = True
    """False once listing was forbidden."""


_decode = msgspec.json.Decoder(_Object).decode


class Inventory:
    """Asked by tasks of one event loop. `now` is a monotonic clock, in seconds."""

    def __init__(self, client: Client, *, now: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._now = now
        self._folders: dict[str, _Folder] = {}

    async def find(self, folder: str, name: str) -> Meta | None:
        """The object of this name in a kind's collection (`/api/v1/namespaces/models/services`); None where there is
        none, nor such a kind. Raises ClusterError."""
        known = self._folders.setdefault(folder, _Folder())
        async with known.lock:
            now_s = self._now()
            goes_on = now_s - known.asked_s < KEPT_S
            if not goes_on or now_s - known.since_s >= MAX_KEPT_S:
                known.since_s, known.listed = now_s, None
                known.changed.clear()
            known.num_asked = known.num_asked + 1 if goes_on else 1
            known.asked_s = now_s
            if known.listed is None and known.may_list and known.num_asked > NUM_SINGLY:
                await self._list(folder, known)
            if known.listed is not None and name not in known.changed:
                return known.listed.get(name)
        return await self._read(f"{folder}/{name}")

    def note(self, path: str) -> None:
        """The object at a path was written or removed from here."""
        folder, _, name = path.rpartition("/")
        if (known := self._folders.get(folder)) is not None:
            known.changed.add(name)

    def forget(self) -> None:
        """Others may have written."""
        for known in self._folders.values():
            known.since_s = known.asked_s = float("-inf")

    async def _list(self, folder: str, known: _Folder) -> None:
        found: dict[str, Meta] = {}
        known.changed.clear()
        try:
            async for page in self._client.pages(folder, accept=NAMES_ONLY):
                if page.is_first:
                    found.clear()
                for item in page.items:
                    one = _decode(item).metadata
                    found[one.name] = one
        except ClusterError as error:
            if error.status == 403:  # each by itself, then
                known.may_list = False
                return
            if error.status != 404:
                raise
        known.listed = found

    async def _read(self, path: str) -> Meta | None:
        try:
            body = await self._client.get(path, accept=NAME_ONLY)
            return _decode(body).metadata
        except NOT_JSON as error:
            raise ClusterError(f"what stands at {path} is no object: {error}") from None
        except ClusterError as error:
            if error.status == 404:
                return None
            raise
