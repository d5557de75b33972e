"""Getting a service's model ready and its engine picked: once for each generation, before its first replica starts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ironloom.serve.engines.base import Engine, LocalModel
from ironloom.workload.serving import Serving

Say = Callable[[str], None]
"""Told what is being done, for a person: "pulling 120.0 MiB of 257.0 MiB"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What every replica of a generation starts from."""

    model: LocalModel
    engine: Engine
    reason: str = ""
    """Why this engine and not another."""


class Preparer(Protocol):
    """Makes a service's model loadable and picks its engine."""

    async def __call__(self, serving: Serving, say: Say) -> Prepared:
        """Raises IronloomError when there is no such model or no engine for it. Cancelling ends what it started."""
        ...

    async def check(self, serving: Serving) -> None:
        """Raises IronloomError for what is known to be wrong with its model without fetching anything."""
        ...

    async def is_quick(self, serving: Serving) -> bool:
        """Whether nothing would have to be fetched or converted: the model is here as its engine wants it."""
        ...


@runtime_checkable
class BringsItsModel(Engine, Protocol):
    """An engine whose models need no preparing (the fake one)."""

    def own_model(self, serving: Serving) -> LocalModel | None: ...


class Preparation:
    """One generation's preparing: begun by the first who waits, shared by all, ended when no one waits any more.

    A failure is told to all who wait, and the next to ask begins anew.
    """

    def __init__(self, prepare: Callable[[Say], Awaitable[Prepared]]) -> None:
        self._prepare = prepare
        self._task: asyncio.Task[Prepared] | None = None
        self._listeners: list[Say] = []
        self._last = ""

    @property
    def result(self) -> Prepared | None:
        task = self._task
        return task.result() if task and task.done() and not task.cancelled() and not task.exception() else None

    async def get(self, say: Say) -> Prepared:
        """What was prepared, waiting for it while `say` hears the progress. Raises what the preparing raised."""
        if (done := self.result) is not None:
            return done
        if self._task is None or self._task.done():
            self._last = ""
            self._task = asyncio.create_task(self._run(), name="prepare")
        self._listeners.append(say)
        if self._last:
            say(self._last)
        task = self._task
        try:
            return await asyncio.shield(task)
        finally:
            self._listeners.remove(say)
            if not self._listeners and not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    async def _run(self) -> Prepared:
        return await self._prepare(self._say)

    def _say(self, text: str) -> None:
        self._last = text
        for listener in tuple(self._listeners):
            listener(text)
