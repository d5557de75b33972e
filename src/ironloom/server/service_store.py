"""The table of services: what should run, as a person declared it."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from typing import Any

from ironloom.account.database import Database


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


class ServiceStore:
    """Reads and writes the table `services`. The daemon is its only user."""

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
