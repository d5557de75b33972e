"""A thing that was read, for those who ask a moment later."""

from __future__ import annotations

import asyncio

import pytest

from ironloom.backends.kubernetes.kept import Kept


class Source:
    def __init__(self) -> None:
        self.num_read = 0
        self.fails = False
        self.now_s = 0.0

    async def read(self) -> int:
        self.num_read += 1
        await asyncio.sleep(0)
        if self.fails:
            raise OSError("away")
        return self.num_read

    def kept(self) -> Kept[int]:
        return Kept(self.read, for_s=2.0, now=lambda: self.now_s)


def test_many_who_ask_at_once_are_given_what_is_read_once() -> None:
    async def story() -> None:
        source = Source()
        kept = source.kept()
        assert await asyncio.gather(*(kept.get() for _ in range(5))) == [1] * 5
        source.now_s = 1.9
        assert await kept.get() == 1
        source.now_s = 2.0
        assert await kept.get() == 2

    asyncio.run(story())


def test_what_could_not_be_read_is_asked_for_again_at_once() -> None:
    async def story() -> None:
        source = Source()
        source.fails = True
        kept = source.kept()
        with pytest.raises(OSError, match="away"):
            await kept.get()
        source.fails = False
        assert await kept.get() == 2

    asyncio.run(story())


def test_who_wants_it_new_has_it_read_and_the_others_are_given_that() -> None:
    async def story() -> None:
        source = Source()
        kept = source.kept()
        assert await kept.get() == 1
        assert await kept.get(is_new=True) == 2
        assert await kept.get() == 2

    asyncio.run(story())
