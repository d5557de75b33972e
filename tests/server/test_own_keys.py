"""Keys that the daemon itself brings."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ironloom.account.database import Database
from ironloom.errors import UsageError
from ironloom.serve.gateway.keys import KeyRing, Scope
from ironloom.server.own_keys import admit_key, own_key


def test_the_key_of_this_users_commands_is_made_once_and_only_the_user_can_read_it(tmp_path: Path) -> None:
    async def run() -> None:
        database = Database.open(tmp_path / "a.db")
        ring = await KeyRing.open(database)
        token = await own_key(ring, tmp_path)
        assert await own_key(ring, tmp_path) == token
        assert (tmp_path / "control.key").stat().st_mode & 0o077 == 0
        found = ring.check(token.encode())
        assert found is not None
        assert found.scope is Scope.CONTROL
        (tmp_path / "control.key").write_text("il-unknown")
        assert await own_key(ring, tmp_path) not in (token, "il-unknown")
        database.close()

    asyncio.run(run())


def test_a_mounted_key_opens_control_and_a_file_without_one_is_named(tmp_path: Path) -> None:
    async def run() -> None:
        database = Database.open(tmp_path / "a.db")
        ring = await KeyRing.open(database)
        file = tmp_path / "token"
        file.write_text("il-" + "0" * 32 + "\n")
        assert await admit_key(ring, file) == "il-" + "0" * 32
        found = ring.check(b"il-" + b"0" * 32)
        assert found is not None
        assert found.scope is Scope.CONTROL
        with pytest.raises(UsageError, match="cannot be read"):
            await admit_key(ring, tmp_path / "none")
        file.write_bytes(b"\xff\xfe")
        with pytest.raises(UsageError, match="cannot be read"):
            await admit_key(ring, file)
        file.write_text(" \n")
        with pytest.raises(UsageError):
            await admit_key(ring, file)
        database.close()

    asyncio.run(run())
