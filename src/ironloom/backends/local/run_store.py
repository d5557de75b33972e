"""The `attempts` table: the present attempt of each run, written before its ranks start. It alone knows the columns."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from ironloom.account.database import Database
from ironloom.backends.local.procfs import Identity


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptRow:
    """One run's present attempt, or its last one."""

    run: str
    mark: str
    attempt: int
    state: str
    changed_s: float
    boot_id: str = ""
    pids: tuple[tuple[int, int], ...] = ()
    """(pid, start in clock ticks since boot) of each rank, in order; fewer than ranks while they are being started."""
    num_ranks: int = 0
    gpu_indexes: tuple[int, ...] = ()
    port: int = 0
    num_failures: int = 0
    device_s: float = 0.0
    reason: str = ""
    hint: str = ""
    """What would mend a failure."""
    resumed_step: int = 0
    """The newest checkpoint at its start."""
    run_id: str = ""
    """By which its ranks' records are known among those of other runs into the same folder."""
    goes_on: bool = False
    """Stopped because the daemon ended: the next one goes on with it."""

    @property
    def identities(self) -> tuple[Identity, ...]:
        return tuple(Identity(pid, ticks) for pid, ticks in self.pids)


_FACTS = ("pids", "num_ranks", "gpu_indexes", "port", "num_failures", "device_s", "reason", "hint",
          "resumed_step", "run_id", "goes_on")  # fmt: skip
_UPSERT = (
    "INSERT OR REPLACE INTO attempts (run, mark, attempt, state, boot_id, facts, changed_s) VALUES (?,?,?,?,?,?,?)"
)


class RunStore:
    """Rows in and out. Writes are done in the order they were asked for."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def put(self, row: AttemptRow) -> None:
        """Written when this returns."""
        await self.database.write(lambda connection: connection.execute(_UPSERT, _values(row)))

    def put_soon(self, row: AttemptRow) -> None:
        self.database.write_soon(lambda connection: connection.execute(_UPSERT, _values(row)))

    async def remove(self, run: str) -> None:
        await self.database.write(lambda connection: connection.execute("DELETE FROM attempts WHERE run = ?", (run,)))

    async def rows(self) -> dict[str, AttemptRow]:
        """By run."""

        def read(connection: sqlite3.Connection) -> dict[str, AttemptRow]:
            found = (_row(row) for row in connection.execute("SELECT * FROM attempts ORDER BY run"))
            return {row.run: row for row in found}

        return await self.database.read(read)


def _values(row: AttemptRow) -> tuple[Any, ...]:
    facts = json.dumps({name: getattr(row, name) for name in _FACTS})
    return (row.run, row.mark, row.attempt, row.state, row.boot_id, facts, row.changed_s)


def _row(row: sqlite3.Row) -> AttemptRow:
    facts = json.loads(row["facts"])
    facts["pids"] = tuple((int(pid), int(ticks)) for pid, ticks in facts.get("pids", ()))
    facts["gpu_indexes"] = tuple(facts.get("gpu_indexes", ()))
    names = ("run", "mark", "attempt", "state", "boot_id", "changed_s")
    return AttemptRow(**{name: row[name] for name in names}, **facts)
