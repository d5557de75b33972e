"""One writer, whole transactions, migrations."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from ironloom.account.database import Database, connect
from ironloom.account.schema import MIGRATIONS
from ironloom.errors import StateError


def put(connection: sqlite3.Connection, name: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def names(connection: sqlite3.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT name FROM meta ORDER BY name")]


def test_a_write_that_raises_is_rolled_back_and_the_next_goes_through(tmp_path: Path) -> None:
    async def run() -> list[str]:
        database = Database.open(tmp_path / "state.db")

        def broken(connection: sqlite3.Connection) -> None:
            put(connection, "half", "x")
            raise RuntimeError("in the middle")

        with pytest.raises(RuntimeError, match="in the middle"):
            await database.write(broken)
        await database.write(lambda connection: put(connection, "whole", "y"))
        result = await database.read(names)
        database.close()
        return result

    assert asyncio.run(run()) == ["whole"]


def test_the_reader_cannot_write(tmp_path: Path) -> None:
    async def run() -> None:
        database = Database.open(tmp_path / "state.db")
        try:
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                await database.read(lambda connection: put(connection, "a", "b"))
        finally:
            database.close()

    asyncio.run(run())


def test_what_was_written_is_there_after_opening_again(tmp_path: Path) -> None:
    async def write() -> None:
        database = Database.open(tmp_path / "state.db")
        await database.write(lambda connection: put(connection, "kept", "1"))
        database.close()

    async def read() -> list[str]:
        database = Database.open(tmp_path / "state.db")
        try:
            return await database.read(names)
        finally:
            database.close()

    asyncio.run(write())
    assert asyncio.run(read()) == ["kept"]


def test_a_file_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Database.open(path).close()
    connection = connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(StateError, match="schema version"):
        Database.open(path)


def test_a_damaged_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"this is no database, it is a text" * 100)
    with pytest.raises(StateError, match="cannot be used"):
        Database.open(path)
