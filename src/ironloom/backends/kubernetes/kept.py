"""A thing that was read, for those who ask a moment later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """Read at the first ask, once for all who ask meanwhile, and again after `for_s` seconds. What could not be read is
    not kept. For tasks of one event loop; `now` is a monotonic clock, in seconds."""

    def __init__(
        self, read: Callable[[], Awaitable[Value]], *, for_s: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._for_s = for_s
        self._now = now
        self._lock = asyncio.Lock()
        self._kept: tuple[float, Value] | None = None

    async def get(self, *, is_new: bool = False) -> Value:
        """With `is_new`, read now whatever is kept. Raises what reading raises."""
        async with self._lock:
            if is_new or self._kept is None or self._now() - self._kept[0] >= self._for_s:
                self._kept = None
                begun_s = self._now()
                self._kept = begun_s, await self._read()
            return self._kept[1]
