"""Many things asked of one server, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

Made = TypeVar("Made")
AT_ONCE = 8
"""Of what an API server is asked for: it answers several at a time, and other clients want their turn."""


async def together(asks: Iterable[Callable[[], Awaitable[Made]]], *, at_once: int = AT_ONCE) -> list[Made]:
    """What each gives, in their order. All are asked, and when they have ended the first error among them is raised."""
    turns = asyncio.Semaphore(at_once)

    async def one(ask: Callable[[], Awaitable[Made]]) -> Made:
        async with turns:
            return await ask()

    given: list[Any] = await asyncio.gather(*map(one, asks), return_exceptions=True)
    for found in given:
        if isinstance(found, BaseException):
            raise found
    return given
