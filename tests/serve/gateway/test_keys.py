"""The key ring: what opens, what does not, and what is kept where."""

from __future__ import annotations

import asyncio
import logging
import timeit
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ironloom.account.database import Database
from ironloom.errors import RequestError, UsageError
from ironloom.serve.gateway.keys import KeyRing, Scope, token_of


class Clock:
    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def with_ring(folder: Path, body: Callable[[KeyRing, Database, Clock], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        database = Database.open(folder / "state.db")
        try:
            clock = Clock()
            return await body(await KeyRing.open(database, wall_clock=clock), database, clock)
        finally:
            database.close()

    return asyncio.run(run())


def test_a_new_key_opens_and_another_token_does_not(tmp_path: Path) -> None:
    async def body(ring: KeyRing, database: Database, clock: Clock) -> None:
        key, token = await ring.create("laptop", "inference")
        assert ring.check(token.encode()) == key
        for wrong in (None, b"", b"il-", token[:-1].encode(), token.upper().encode(), b"x" * 100_000):
            assert ring.check(wrong) is None

    with_ring(tmp_path, body)


def test_a_token_is_the_prefix_and_at_least_32_random_bytes(tmp_path: Path) -> None:
    async def body(ring: KeyRing, database: Database, clock: Clock) -> None:
        tokens = {(await ring.create(f"k{number}", "inference"))[1] for number in range(20)}
        assert len(tokens) == 20
        assert all(token.startswith("il-") and len(token) >= 3 + 43 for token in tokens)

    with_ring(tmp_path, body)


def test_a_key_is_there_after_a_restart_and_its_token_nowhere_on_disk(tmp_path: Path) -> None:
    async def make(ring: KeyRing, database: Database, clock: Clock) -> str:
        return (await ring.create("ci", "inference", ["small", "large"]))[1]

    token = with_ring(tmp_path, make)

    async def look(ring: KeyRing, database: Database, clock: Clock) -> None:
        key = ring.check(token.encode())
        assert key is not None
        assert key.services == {"small", "large"}
        assert key.allows("small")
        assert not key.allows("other")

    with_ring(tmp_path, look)
    assert all(token.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_revoked_key_opens_nothing_at_once_and_its_row_stays(tmp_path: Path) -> None:
    async def body(ring: KeyRing, database: Database, clock: Clock) -> None:
        key, token = await ring.create("old", "control")
        await ring.revoke(key.id)
        assert ring.check(token.encode()) is None
        assert ring.list() == []
        rows = await database.read(lambda c: c.execute("SELECT id, revoked_s FROM keys").fetchall())
        assert [tuple(row) for row in rows] == [(key.id, 1000.0)]
        with pytest.raises(RequestError) as error:
            await ring.revoke(key.id)
        assert error.value.status == 404

    with_ring(tmp_path, body)


def test_last_use_is_written_at_a_flush_and_not_before(tmp_path: Path) -> None:
    async def body(ring: KeyRing, database: Database, clock: Clock) -> None:
        _, token = await ring.create("used", "inference")
        await ring.create("unused", "inference")
        ring.check(token.encode())
        assert [key.last_used_s for key in ring.list()] == [None, None]
        clock.now_s = 1060.0
        await ring.flush()
        assert {key.name: key.last_used_s for key in ring.list()} == {"used": 1060.0, "unused": None}

    with_ring(tmp_path, body)


@pytest.mark.parametrize(
    ("name", "scope", "services"),
    [
        ("", "inference", []),
        ("   ", "inference", []),
        ("x" * 101, "inference", []),
        ("line\nbreak", "inference", []),
        ("k", "admin", []),
        ("k", "control", ["small"]),
        ("k", "inference", [""]),
    ],
)
def test_a_key_that_cannot_be_is_refused_and_nothing_changes(
    tmp_path: Path, name: str, scope: str, services: list[str]
) -> None:
    async def body(ring: KeyRing, database: Database, clock: Clock) -> None:
        with pytest.raises(UsageError):
            await ring.create(name, scope, services)
        assert len(ring) == 0

    with_ring(tmp_path, body)


def test_no_token_reaches_a_log_or_a_repr(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(ring: KeyRing, database: Database, clock: Clock) -> None:
        key, token = await ring.create("quiet", "inference")
        ring.check(token.encode())
        await ring.flush()
        await ring.revoke(key.id)
        assert token not in repr(ring) + repr(key) + caplog.text

    with caplog.at_level(logging.DEBUG):
        with_ring(tmp_path, body)


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({b"authorization": b"Bearer il-a"}, b"il-a"),
        ({b"authorization": b"bearer  il-a "}, b"il-a"),
        ({b"x-api-key": b"il-b"}, b"il-b"),
        ({b"api-key": b"il-c"}, b"il-c"),
        ({b"authorization": b"Basic dTpw", b"x-api-key": b"il-b"}, b"il-b"),
        ({b"authorization": b"Bearer ", b"x-api-key": b"il-b"}, None),
        ({b"authorization": b"Bearer il-a", b"x-api-key": b"il-b"}, b"il-a"),
        ({}, None),
    ],
)
def test_where_a_token_is_read(headers: dict[bytes, bytes], token: bytes | None) -> None:
    assert token_of(headers) == token


def test_a_check_costs_about_a_microsecond(tmp_path: Path) -> None:
    async def body(ring: KeyRing, database: Database, clock: Clock) -> None:
        for number in range(50):
            _, token = await ring.create(f"k{number}", "inference")
        encoded = token.encode()
        best_s = min(timeit.repeat(lambda: ring.check(encoded), number=2000, repeat=20)) / 2000
        assert best_s < 5e-6  # 0.7 µs measured alone on one core; the bound leaves room for a busy machine

    with_ring(tmp_path, body)


def test_a_control_key_is_of_all_services(tmp_path: Path) -> None:
    async def body(ring: KeyRing, database: Database, clock: Clock) -> None:
        key, _ = await ring.create("admin", "control")
        assert key.scope is Scope.CONTROL
        assert key.allows("anything")

    with_ring(tmp_path, body)
