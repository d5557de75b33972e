"""The `replicas` table: what we started, written before it starts. The only place that knows its columns."""

from __future__ import annotations

import json
import logging
import sqlite3
from dataclasses import dataclass
from typing import Any

from ironloom.account.database import Database

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One replica as it is written down."""

    id: str
    service: str
    generation: int
    state: str
    changed_s: float
    engine: str = ""
    pid: int | None = None
    process_started: int | None = None
    """Clock ticks from boot to the process's start."""
    boot_id: str = ""
    port: int = 0
    devices: tuple[str, ...] = ()
    log_path: str = ""
    launch: dict[str, Any] | None = None
    """What the next daemon must know of it: max_concurrency, memory_bytes, gpu_indexes, start_deadline_s."""


_COLUMNS = tuple(Row.__slots__)
_UPSERT = f"INSERT OR REPLACE INTO replicas ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' for _ in _COLUMNS)})"


class Store:
    """Rows in and out. Writes are done in the order they were asked for."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._left: set[str] = set()
        """Rows that could not be removed (a full disk): they go with the next one that is written."""

    async def put(self, row: Row) -> None:
        """Written when this returns."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(_UPSERT, _values(row))
            connection.executemany("DELETE FROM replicas WHERE id = ?", [(replica,) for replica in left])

        left = tuple(self._left)
        await self._database.write(write)
        self._left.difference_update(left)

    def put_soon(self, row: Row) -> None:
        """Written after everything asked for before."""
        self._database.write_soon(lambda connection: connection.execute(_UPSERT, _values(row)))

    async def remove(self, replica: str) -> None:
        """It is over. Where that cannot be written now it is kept in mind."""
        try:
            await self._database.write(lambda c: c.execute("DELETE FROM replicas WHERE id = ?", (replica,)))
        except sqlite3.OperationalError as error:
            logger.error("the row of %s could not be removed: %s", replica, error)
            self._left.add(replica)

    async def rows(self) -> list[Row]:
        def read(connection: sqlite3.Connection) -> list[Row]:
            query = f"SELECT {', '.join(_COLUMNS)} FROM replicas ORDER BY changed_s, id"
            return [_row(row) for row in connection.execute(query)]

        return await self._database.read(read)

    async def service_names(self) -> frozenset[str]:
        """Services that are declared and not being deleted: replicas of any other are left-overs."""

        def read(connection: sqlite3.Connection) -> frozenset[str]:
            return frozenset(row[0] for row in connection.execute("SELECT name FROM services WHERE deleting = 0"))

        return await self._database.read(read)


def _values(row: Row) -> tuple[Any, ...]:
    values = {name: getattr(row, name) for name in _COLUMNS}
    values["devices"] = json.dumps(row.devices)
    values["launch"] = json.dumps(row.launch or {})
    return tuple(values.values())


def _row(row: sqlite3.Row) -> Row:
    values = dict(row)
    values["devices"] = tuple(json.loads(values["devices"]))
    values["launch"] = json.loads(values["launch"])
    return Row(**values)
