"""The contract of all backends, held by processes on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.backends.contract import CHECKS, run
from tests.backends.local.world import World
from tests.fakes.fake_engine import fake_serving

from ironloom.backends.local.backend import LocalBackend
from ironloom.serve.replica import Replica
from ironloom.workload.serving import Serving


class Folder:
    """A Ground: a state folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._world: World

    @asynccontextmanager
    async def backend(self) -> AsyncIterator[LocalBackend]:
        self._world = World(self._path, prepare=None)  # models are looked for as the daemon looks
        try:
            yield self._world.backend
        finally:
            self._world.db.close()

    async def declare(self, serving: Serving) -> None:
        await self._world.declare(serving.name)

    def serving(self, name: str) -> Serving:
        return fake_serving(name)

    def broken(self, name: str) -> Serving:
        return fake_serving(name, crash_at_start=3)

    def unfit(self, name: str) -> Serving:
        return Serving(name=name, kind="InferenceService", model_uri=str(self._path / "no-such-model"))

    async def kill(self, replica: Replica) -> None:
        assert replica.pid is not None
        os.kill(replica.pid, signal.SIGKILL)

    async def left(self, service: str) -> list[str]:
        rows = [one.id for one in await self._world.rows() if one.service == service]
        logs = self._path / "logs" / service
        return [*rows, *map(str, self._world.processes()), *([str(logs)] if logs.exists() else [])]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract(check: Any, tmp_path: Path) -> None:
    run(check, Folder(tmp_path))
