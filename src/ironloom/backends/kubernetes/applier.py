"""One object into a cluster by server-side apply: what is as it is wanted is not written, what a person changed by hand
is taken back and told, and what a controller or a file elsewhere holds is refused by the API server, with its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.drift import by_hand, is_as, told
from ironloom.backends.kubernetes.inventory import Inventory
from ironloom.backends.kubernetes.names import MANAGER
from ironloom.backends.kubernetes.rendering import path_of, read_object

Object = dict[str, Any]


class Applier:
    """Under the manager of what a manifest says. Every method raises ClusterError."""

    def __init__(self, client: Client, inventory: Inventory) -> None:
        self._client, self._inventory = client, inventory

    async def find(self, path: str) -> Object | None:
        """The object at a path, where there probably is none."""
        folder, _, name = path.rpartition("/")
        return await self.read(path) if await self._inventory.find(folder, name) is not None else None

    async def read(self, path: str) -> Object | None:
        """The object at a path; None where there is none."""
        return await read_object(self._client, path)

    async def put(
        self, one: Mapping[str, Any], before: Mapping[str, Any] | None, *, was_whole: bool, is_trial: bool = False
    ) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """The object as it is then, and what had been done to it by others. `before` is what stands in its place;
        `was_whole` says that the very same was applied before. A trial tells what would be."""
        if before is not None and is_as(before, one):
            return before, ()
        path = path_of(one)
        forces = before is not None and by_hand(before, one)
        answer = await self._client.apply(path, one, manager=MANAGER, forces=forces, is_trial=is_trial)
        if not is_trial:
            self._inventory.note(path)
        after: Object = msgspec.json.decode(answer)
        return after, told(before, after, was_whole=was_whole, is_trial=is_trial)
