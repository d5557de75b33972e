"""Files that clients upload and batches write: kept in SQLite, in parts, so that none is in memory whole when read.

A file is seen by the key that made it and by control keys; on loopback without keys, by everyone.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ironloom.account.database import Database
from ironloom.errors import RequestError
from ironloom.units import MIB

PART_BYTES = MIB
MAX_FILENAME_CHARS = 255
PURPOSES = ("batch", "user_data")
"""What a client may upload for; `batch_output` is the daemon's own."""
_COLUMNS = "id, filename, purpose, num_bytes, created_s, expires_s, key_id"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """One file, without its bytes."""

    id: str
    filename: str
    purpose: str
    num_bytes: int
    created_s: float
    expires_s: float | None
    key_id: str

    def view(self) -> dict[str, Any]:
        """As OpenAI's File object."""
        view: dict[str, Any] = {
            "id": self.id,
            "object": "file",
            "bytes": self.num_bytes,
            "created_at": int(self.created_s),
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }
        if self.expires_s is not None:
            view["expires_at"] = int(self.expires_s)
        return view


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A page of a list, as OpenAI's lists are asked for."""

    limit: int
    after: str | None = None
    newest_first: bool = True


class FileStore:
    """Files by id. `owner` is the asking key's id; None sees all (control keys)."""

    def __init__(self, database: Database, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._wall_clock = wall_clock

    async def add(
        self, data: bytes, *, filename: str, purpose: str, key_id: str = "", expires_after_s: float | None = None
    ) -> StoredFile:
        """Keep these bytes; durable at return. Raises RequestError 507 when the disk is full."""
        now_s = self._wall_clock()
        file = new_file(filename, purpose, now_s=now_s, key_id=key_id, expires_after_s=expires_after_s)
        pieces = (data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES))
        try:
            return await self._database.write(lambda connection: insert_file(connection, file, pieces))
        except sqlite3.OperationalError as error:
            if "full" not in str(error):
                raise
            raise RequestError(
                507,
                "the disk is full, so the file was not kept",
                type="server_error",
                code="disk_full",
                source="gateway",
            ) from error

    async def get(self, file_id: str, *, owner: str | None = None) -> StoredFile:
        """One file. Raises RequestError 404."""
        now_s = self._wall_clock()
        file = await self._database.read(lambda connection: find_file(connection, file_id, now_s))
        if file is None or (owner is not None and file.key_id != owner):
            raise file_not_found(file_id)
        return file

    async def page(
        self, page: Page, *, owner: str | None = None, purpose: str | None = None
    ) -> tuple[list[StoredFile], bool]:
        """A page of files, and whether there are more behind it."""
        now_s = self._wall_clock()

        def query(connection: sqlite3.Connection) -> list[StoredFile]:
            where, values = ["(expires_s IS NULL OR expires_s > ?)"], [now_s]
            return [
                _file(row)
                for row in page_of(
                    connection, "files", _COLUMNS, page, where, values, {"key_id": owner, "purpose": purpose}
                )
            ]

        found = await self._database.read(query)
        return found[: page.limit], len(found) > page.limit

    async def parts(self, file_id: str) -> AsyncIterator[bytes]:
        """The bytes of a file, a part at a time."""
        number = 0
        while True:
            wanted = number
            row = await self._database.read(
                lambda connection: connection.execute(
                    "SELECT data FROM file_parts WHERE file_id = ? AND part = ?",
                    (file_id, wanted),  # noqa: B023
                ).fetchone()
            )
            if row is None:
                return
            yield bytes(row[0])
            number += 1

    async def delete(self, file_id: str, *, owner: str | None = None) -> None:
        """Forget a file. Raises RequestError 404."""
        await self.get(file_id, owner=owner)
        await self._database.write(lambda connection: delete_files(connection, [file_id]))

    async def sweep(self) -> int:
        """Forget the files that have expired; returns how many. Call it every few minutes."""
        now_s = self._wall_clock()

        def forget(connection: sqlite3.Connection) -> int:
            rows = connection.execute("SELECT id FROM files WHERE expires_s <= ?", (now_s,)).fetchall()
            delete_files(connection, [row[0] for row in rows])
            return len(rows)

        return await self._database.write(forget)


def new_file(
    filename: str, purpose: str, *, now_s: float, key_id: str = "", expires_after_s: float | None = None
) -> StoredFile:
    """A file that is not written yet; `insert_file` sets its size."""
    return StoredFile(
        id=f"file-{secrets.token_hex(12)}",
        filename=filename[:MAX_FILENAME_CHARS],
        purpose=purpose,
        num_bytes=0,
        created_s=now_s,
        expires_s=None if expires_after_s is None else now_s + expires_after_s,
        key_id=key_id,
    )


def insert_file(connection: sqlite3.Connection, file: StoredFile, pieces: Iterable[bytes]) -> StoredFile:
    """Write a file in the caller's transaction; pieces of any size become parts of PART_BYTES."""
    number = num_bytes = 0
    buffer = bytearray()

    def flush() -> None:
        nonlocal number, num_bytes
        connection.execute("INSERT INTO file_parts VALUES (?, ?, ?)", (file.id, number, bytes(buffer)))
        number += 1
        num_bytes += len(buffer)
        buffer.clear()

    for piece in pieces:
        buffer += piece
        if len(buffer) >= PART_BYTES:
            flush()
    if buffer:
        flush()
    row = (file.id, file.filename, file.purpose, num_bytes, file.created_s, file.expires_s, file.key_id)
    connection.execute(f"INSERT INTO files ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    return StoredFile(
        id=file.id,
        filename=file.filename,
        purpose=file.purpose,
        num_bytes=num_bytes,
        created_s=file.created_s,
        expires_s=file.expires_s,
        key_id=file.key_id,
    )


def find_file(connection: sqlite3.Connection, file_id: str, now_s: float) -> StoredFile | None:
    """One file, None when there is none or it has expired."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM files WHERE id = ? AND (expires_s IS NULL OR expires_s > ?)", (file_id, now_s)
    ).fetchone()
    return None if row is None else _file(row)


def delete_files(connection: sqlite3.Connection, ids: list[str]) -> None:
    """Forget files, in the caller's transaction."""
    connection.executemany("DELETE FROM file_parts WHERE file_id = ?", [(one,) for one in ids])
    connection.executemany("DELETE FROM files WHERE id = ?", [(one,) for one in ids])


def file_not_found(file_id: str) -> RequestError:
    """The 404 of a file that is not there (or not this key's)."""
    return RequestError(404, f"there is no file {file_id[:100]!r}", code="file_not_found", param="id")


def page_of(
    connection: sqlite3.Connection,
    table: str,
    columns: str,
    page: Page,
    where: list[str],
    values: list[Any],
    equal: dict[str, str | None],
) -> list[sqlite3.Row]:
    """Rows of a table in order of creation, one more than the page holds if there are more. `equal` limits columns
    to values, where they are not None. Table and column names are the caller's own, never a client's."""
    for column, value in equal.items():
        if value is not None:
            where, values = [*where, f"{column} = ?"], [*values, value]
    if page.after is not None:
        operator = "<" if page.newest_first else ">"
        where = [*where, f"(created_s, id) {operator} (SELECT created_s, id FROM {table} WHERE id = ?)"]
        values = [*values, page.after]
    order = "DESC" if page.newest_first else "ASC"
    return connection.execute(
        f"SELECT {columns} FROM {table} WHERE {' AND '.join(where) or '1'}"
        f" ORDER BY created_s {order}, id {order} LIMIT ?",
        [*values, page.limit + 1],
    ).fetchall()


def _file(row: sqlite3.Row) -> StoredFile:
    return StoredFile(**dict(row))
