"""A service's objects into a cluster by server-side apply.

What is as it is wanted is not written, what a person changed by hand is taken back and told, and what a controller or a
file elsewhere holds is refused by the API server, with its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.counts import count_at, count_of, is_half_made, written_count
from ironloom.backends.kubernetes.drift import by_hand, is_as, told
from ironloom.backends.kubernetes.inventory import Inventory
from ironloom.backends.kubernetes.names import MANAGER, SCALE_MANAGER
from ironloom.backends.kubernetes.owners import FREE, Reference, owned, reference
from ironloom.backends.kubernetes.rendering import Rendered, path_of, read_object
from ironloom.errors import ClusterError

Object = dict[str, Any]
WITH_PODS = frozenset({"Service"})
"""Kinds that are made with the first replica of a service that rests at zero. A Service is the dearest of its objects:
the API server allocates an address and writes a second object for it, and its controllers two more."""


@dataclass
class Put:
    """What became of a service's objects."""

    objects: tuple[Mapping[str, Any], ...] = ()
    """As they are now."""
    told: tuple[str, ...] = ()
    """What others had done to them."""
    later: tuple[Mapping[str, Any], ...] = ()
    """Those that are left until there is a replica."""
    scaled: Mapping[str, Any] | None = None
    """The one that has the count, as it was before; None where it is new, or a controller makes it."""
    wanted: bytes = b""
    """The same, as it was applied."""
    written: int | None = None
    """The count that Ironloom wrote last, where that is known."""
    begins: bool = False
    """It is new."""


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

    async def put_all(
        self, rendered: Rendered, *, owner: Reference | None, may_rest: bool, was_whole: bool, is_trial: bool = False
    ) -> Put:
        """All objects of a service, which go with `owner`, or where there is none with the one that has its replicas.
        `may_rest` lets those that only a replica needs wait for the first one."""
        place, main = rendered.place, rendered.place.maker or rendered.place.scaled
        before = await (self.read(main) if was_whole else self.find(main))
        done, rests = Put(), False
        for one in rendered.objects:
            path, wanted = path_of(one), owned(one, owner)
            waits = not place.maker and rests and one["kind"] in WITH_PODS
            if path == place.scaled and not place.maker:
                live, found = await self._put_scaled(wanted, before, done, was_whole=was_whole, is_trial=is_trial)
                rests = may_rest and done.written == 0
            elif path == place.maker:
                live, found = await self.put(wanted, before, was_whole=was_whole, is_trial=is_trial)
            elif waits and not is_trial:
                done.later = (*done.later, wanted)
                continue
            else:
                is_looked_at = (before is not None or was_whole) and one["kind"] not in FREE
                known = await self.read(path) if is_looked_at else None
                # What waits for the first replica is not gone.
                live, found = await self.put(wanted, known, was_whole=was_whole and not waits, is_trial=is_trial)
            if owner is None and path in {place.scaled, place.maker}:
                owner = reference(live)
            done.objects = (*done.objects, live)
            done.told = (*done.told, *found)
        return done

    async def _put_scaled(
        self, one: Mapping[str, Any], before: Mapping[str, Any] | None, done: Put, *, was_whole: bool, is_trial: bool
    ) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """Apply the object that has the count.

        A count of 0 stays with the manager of the rest until the scale's own manager writes another: most of many
        services wait for their first request, and are spared a write."""
        done.wanted, done.scaled = msgspec.json.encode(one), before
        if before is not None and not is_half_made(before):
            done.written = written_count(before)
            return await self.put(one, before, was_whole=was_whole, is_trial=is_trial)
        number = count_of(before) if before is not None else 0
        # Without a count the API server writes 1.
        counted = {**one, "spec": {"replicas": number, **one["spec"]}}
        try:
            live, found = await self.put(counted, before, was_whole=was_whole, is_trial=is_trial)
        except ClusterError as error:
            again = await self.read(path_of(one)) if error.status == 409 else None
            if again is None or is_half_made(again):
                raise
            done.written, done.scaled = written_count(again), again  # it was scaled meanwhile
            return await self.put(one, again, was_whole=was_whole, is_trial=is_trial)
        if number and not is_trial:
            # Forced: that takes the field from the manager of the rest, whose later applies do not name it and leave
            # it as it is.
            where, count = count_at(path_of(one), number)
            await self._client.apply(where, count, manager=SCALE_MANAGER, forces=True)
        done.written, done.begins = number, before is None
        return live, found
