"""Deadlines of many things at the cost of one attribute each.

A thing with a deadline sets its own `due_s`; one timer looks at all of them twice a second. Setting or clearing a
deadline is then an assignment, where a timer handle each would cost microseconds on every request. Looking at 10,000
things takes about half a millisecond.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

TICK_S = 0.5
NEVER_S = float("inf")


class Timed(Protocol):
    """Something with a deadline. Hashed by identity."""

    due_s: float
    """Monotonic time at which `on_due` is to be called; NEVER_S is never."""

    def on_due(self, now_s: float, /) -> None:
        """Called once `due_s` has passed, and again at each tick until it is set later or the thing is removed."""
        ...


class Deadlines:
    """The set of things that are watched. `now_s` is the monotonic time of the last tick, for coarse uses."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        self.now_s = time.monotonic()
        self._tick_s = tick_s
        self._things: set[Timed] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.add = self._things.add
        self.discard = self._things.discard

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now_s = time.monotonic()
        self._timer = loop.call_later(self._tick_s, self._tick, loop)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(self._tick_s, self._tick, loop)
        self.sweep(time.monotonic())

    def sweep(self, now_s: float) -> None:
        """Call `on_due` of everything whose time has come."""
        self.now_s = now_s
        for thing in [thing for thing in self._things if thing.due_s <= now_s]:
            thing.on_due(now_s)
