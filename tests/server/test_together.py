"""Things asked a few at a time."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from ironloom.server.together import together


def test_answers_come_in_the_order_of_what_was_asked_and_no_more_than_told_at_once() -> None:
    running, most = 0, 0

    async def one(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5 - number % 5):  # those that are asked first end last
            await asyncio.sleep(0)
        running -= 1
        return number

    found = asyncio.run(together([partial(one, number) for number in range(20)], at_once=4))
    assert found == list(range(20))
    assert most == 4


def test_one_that_fails_keeps_no_other_from_being_done_and_is_told() -> None:
    done: list[int] = []

    async def one(number: int) -> None:
        await asyncio.sleep(0)
        if number in {1, 3}:
            raise ValueError(f"number {number}")
        done.append(number)

    with pytest.raises(ValueError, match="number 1"):
        asyncio.run(together([partial(one, number) for number in range(5)], at_once=2))
    assert done == [0, 2, 4]


def test_nothing_asked_gives_nothing() -> None:
    assert asyncio.run(together([])) == []
