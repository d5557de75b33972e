"""A key that was made elsewhere: let in once, and refused where it has not the form of one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ironloom.account.database import Database
from ironloom.errors import UsageError
from ironloom.serve.gateway.keys import KeyRing, Scope

TOKEN = "il-" + "a" * 40


def test_it_opens_what_its_scope_says_and_the_same_again_is_the_same_key(tmp_path: Path) -> None:
    async def story() -> None:
        database = Database.open(tmp_path / "state.db")
        ring = await KeyRing.open(database)
        key = await ring.admit(TOKEN, "the installation's", Scope.CONTROL)
        assert await ring.admit(TOKEN, "the installation's", Scope.CONTROL) == key
        again = await KeyRing.open(database)
        found = again.check(TOKEN.encode())
        assert found is not None
        assert (found.id, found.scope) == (key.id, Scope.CONTROL)
        database.close()

    asyncio.run(story())


def test_a_key_that_its_maker_replaced_opens_nothing_and_comes_back_with_its_maker_alone(tmp_path: Path) -> None:
    other = "il-" + "b" * 40

    async def story() -> None:
        database = Database.open(tmp_path / "state.db")
        ring = await KeyRing.open(database)
        _, made_here = await ring.create("the installation's", Scope.CONTROL)
        for token, gone in (TOKEN, other), (other, TOKEN), (TOKEN, other):
            # A start on the same folder, after another installation.
            ring = await KeyRing.open(database)
            await ring.admit(token, "the installation's", Scope.CONTROL)
            for seen in (ring, await KeyRing.open(database)):
                assert seen.check(token.encode()) is not None
                assert seen.check(gone.encode()) is None
                assert seen.check(made_here.encode()) is not None
        database.close()

    asyncio.run(story())


@pytest.mark.parametrize("token", ["", "secret", "il-short", "il-" + "a" * 600])
def test_what_has_not_the_form_of_a_key_is_refused(tmp_path: Path, token: str) -> None:
    async def story() -> None:
        database = Database.open(tmp_path / "state.db")
        ring = await KeyRing.open(database)
        with pytest.raises(UsageError, match="form of a key"):
            await ring.admit(token, "the installation's", Scope.CONTROL)
        assert not ring.list()
        database.close()

    asyncio.run(story())
