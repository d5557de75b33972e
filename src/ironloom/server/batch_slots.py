"""How many rows of all batches are in flight to one service: as many as its replicas run at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

RECHECK_S = 1.0
"""Replicas come and go while rows run for minutes: who waits for a slot looks again this often."""


class Slots:
    """A semaphore whose size may change: `limit` is asked each time. First come, first served."""

    def __init__(self, limit: Callable[[], int], *, recheck_s: float = RECHECK_S) -> None:
        """`limit` is how many may be taken now; less than 1 counts as 1."""
        self._limit = limit
        self._recheck_s = recheck_s
        self._num_taken = 0
        self._waiting: deque[asyncio.Event] = deque()

    async def acquire(self) -> None:
        """Take a slot; waits until there is one."""
        if not self._waiting and self._has_one():
            self._num_taken += 1
            return
        turn = asyncio.Event()
        self._waiting.append(turn)
        try:
            while not (self._waiting[0] is turn and self._has_one()):
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._recheck_s):
                        await turn.wait()
                turn.clear()
            self._num_taken += 1
        finally:
            self._waiting.remove(turn)
            self._wake_next()

    def release(self) -> None:
        """Give a slot back."""
        self._num_taken -= 1
        self._wake_next()

    def _has_one(self) -> bool:
        return self._num_taken < max(1, self._limit())

    def _wake_next(self) -> None:
        if self._waiting and self._has_one():
            self._waiting[0].set()
