"""Keys on a shelf that several gateways share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.account.database import Database
from ironloom.errors import RequestError
from ironloom.serve.gateway.keys import KeyRing, Scope, _of_document


class Shelf:
    """What a cluster's Secret is; every ring that follows it hears of each change."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.rings: list[KeyRing] = []
        self.refuses = False

    async def save(self, key_id: str, document: Any) -> None:
        if self.refuses:
            raise RequestError(503, "another gateway decides", code="not_leader")
        self.documents[key_id] = document
        self.tell()

    async def remove(self, key_id: str) -> None:
        self.documents.pop(key_id, None)
        self.tell()

    def tell(self) -> None:
        for ring in self.rings:
            ring.take(dict(self.documents))


def story(tmp_path: Path, told: Callable[[Shelf, KeyRing, KeyRing], Awaitable[None]]) -> None:
    """With two gateways, each with a database of its own."""

    async def run() -> None:
        shelf = Shelf()
        databases = [Database.open(tmp_path / f"{name}.db") for name in "ab"]
        for database in databases:
            ring = await KeyRing.open(database, wall_clock=lambda: 50.0)
            ring.shelf = shelf
            shelf.rings.append(ring)
        await told(shelf, *shelf.rings)
        for database in databases:
            database.close()

    asyncio.run(run())


def test_a_key_that_one_gateway_makes_is_good_at_all_until_it_is_revoked_and_only_its_hash_is_kept(
    tmp_path: Path,
) -> None:
    async def told(shelf: Shelf, first: KeyRing, second: KeyRing) -> None:
        key, token = await first.create("team", "inference", ["chat"])
        assert token not in str(shelf.documents)
        found = second.check(token.encode())
        assert found is not None
        assert (found.id, found.name, found.scope, found.services) == (
            key.id,
            "team",
            Scope.INFERENCE,
            frozenset({"chat"}),
        )
        await second.flush()
        assert [one.last_used_s for one in second.list()] == [50.0]
        shelf.tell()
        assert [one.last_used_s for one in second.list()] == [50.0]
        await second.revoke(key.id)
        assert first.check(token.encode()) is second.check(token.encode()) is None
        assert shelf.documents == {}

    story(tmp_path, told)


def test_what_cannot_be_kept_is_no_key(tmp_path: Path) -> None:
    async def told(shelf: Shelf, first: KeyRing, second: KeyRing) -> None:
        shelf.refuses = True
        with pytest.raises(RequestError):
            await first.create("team", "inference")
        assert len(first) == len(second) == 0

    story(tmp_path, told)


def test_keys_of_the_database_stay_beside_those_of_the_shelf(tmp_path: Path) -> None:
    async def told(shelf: Shelf, first: KeyRing, second: KeyRing) -> None:
        token = "il-" + "0" * 32
        own = await first.admit(token, "the installation's", Scope.CONTROL)
        await first.create("team", "inference")
        _, local = await first.create("commands here", "control", stays_here=True)
        assert second.check(local.encode()) is None
        assert len(first) == 3
        assert first.check(token.encode()) == own
        assert second.check(token.encode()) is None
        await first.revoke(own.id)
        assert first.check(token.encode()) is None
        assert len(shelf.documents) == 1

    story(tmp_path, told)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda below: (
            st.lists(below)
            | st.dictionaries(st.sampled_from(["name", "scope", "services", "created_s", "sha256"]), below)
        ),
    )
)
def test_a_document_that_somebody_has_spoilt_is_no_key(document: Any) -> None:
    assert _of_document("key-1", document) is None
