"""The table of services: what should run, as a person declared it."""

from __future__ import annotations

import json
import logging
import sqlite3
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Protocol

import msgspec

from ironloom.account.database import Database
from ironloom.server.together import together

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredService:
    """One row."""

    name: str
    generation: int
    manifests: tuple[dict[str, Any], ...]
    """The service's own object first, then what belongs to it."""
    pvc: dict[str, str] = field(default_factory=dict)
    created_s: float = 0.0
    pinned: int | None = None
    deleting: bool = False


class Store(Protocol):
    """Where the services are kept that a person declared."""

    async def load(self) -> list[StoredService]:
        """All services, in order of name."""
        ...

    async def save(self, *services: StoredService) -> None:
        """Write them."""
        ...

    async def remove(self, name: str) -> None:
        """Forget one; none of that name is fine."""
        ...


class ServiceStore:
    """Reads and writes the table `services`, several services all or none. The daemon is its only user."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[StoredService]:
        """All services, in order of name."""
        return await self._database.read(_load)

    async def save(self, *services: StoredService) -> None:
        """Write them, all or none."""

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT OR REPLACE INTO services (name, generation, manifest, created_s, pinned, deleting)"
                " VALUES (?,?,?,?,?,?)",
                [
                    (
                        service.name,
                        service.generation,
                        json.dumps({"manifests": service.manifests, "pvc": service.pvc}),
                        service.created_s,
                        service.pinned,
                        int(service.deleting),
                    )
                    for service in services
                ],
            )

        await self._database.write(write)

    async def remove(self, name: str) -> None:
        """Forget one; none of that name is fine."""
        await self._database.write(lambda connection: connection.execute("DELETE FROM services WHERE name=?", (name,)))


def _load(connection: sqlite3.Connection) -> list[StoredService]:
    services = []
    for row in connection.execute("SELECT * FROM services ORDER BY name"):
        declared = json.loads(row["manifest"])
        services.append(
            StoredService(
                name=row["name"],
                generation=row["generation"],
                manifests=tuple(declared["manifests"]),
                pvc=declared["pvc"],
                created_s=row["created_s"],
                pinned=row["pinned"],
                deleting=bool(row["deleting"]),
            )
        )
    return services


class Documents(Protocol):
    """JSON documents by name, kept somewhere that several daemons see."""

    async def load(self) -> dict[str, Any]: ...
    async def has(self, name: str, /) -> bool: ...
    async def save(self, name: str, document: Any, /) -> None: ...
    async def remove(self, name: str, /) -> None: ...


class SharedStore:
    """Services that several gateways know, a document each; one that nobody can read is left out, with a warning."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def load(self) -> list[StoredService]:
        found = [stored_of(name, document) for name, document in sorted((await self._documents.load()).items())]
        return [one for one in found if one is not None]

    async def has(self, name: str) -> bool:
        """Whether there is a document of a service, be it one that nobody can read."""
        return await self._documents.has(name)

    async def save(self, *services: StoredService) -> None:
        await together([partial(self._documents.save, service.name, _document(service)) for service in services])

    async def remove(self, name: str) -> None:
        await self._documents.remove(name)


def _document(service: StoredService) -> dict[str, Any]:
    """As `stored_of` reads it; its manifests are not copied."""
    return {one.name: getattr(service, one.name) for one in fields(service)}


def stored_of(name: str, document: Any) -> StoredService | None:
    """The service of a document; None, with a warning, for one that is none."""
    try:
        found = msgspec.convert(document, StoredService)
    except msgspec.ValidationError as error:
        _logger.warning("what is stored of the service %s cannot be read: %s", name, error)
        return None
    if found.name != name or not found.manifests:
        _logger.warning("what is stored of the service %s is not of it", name)
        return None
    return found
