"""Random orders, rollouts and kills; afterwards processes, rows, holdings and events must all tell the same."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from tests.backends.local.world import run, world
from tests.fakes.fake_engine import fake_serving

from ironloom.backends.local import procfs

LENGTH_S = 5.0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_everything_adds_up(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)

    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving("a", preload=True, leak_child=True), ready=1)
            await w.apply(fake_serving("b"), ready=1)
            killed, generation, end_s = [], 1, time.monotonic() + LENGTH_S
            while time.monotonic() < end_s:
                name, what = chance.choice("aab"), chance.random()
                running = [replica for replica in w.replicas(name) if replica.pid]
                if what < 0.5:
                    w.order(name, chance.choice([0, 0, 1, 1, 2]), chance.choice([0, 1]))
                elif what < 0.8 and running:
                    victim = chance.choice(running)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim.pid or 0, chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV]))
                        killed.append(victim.id)
                elif what < 0.83:
                    generation += 1
                    knobs = {"preload": True, "leak_child": True} if name == "a" else {}
                    await w.apply(fake_serving(name, num_tokens=generation, **knobs), generation)
                await asyncio.sleep(chance.expovariate(20))
            for name in "ab":
                w.order(name, 1)
            await w.until(lambda: all([r.state for r in w.replicas(name)] == ["ready"] for name in "ab"))

            live = {w.replicas(name)[0].id for name in "ab"}
            assert {row.id for row in await w.rows()} == live
            assert {mark for _, mark in procfs.ours(w.state_id) if not mark.startswith("launcher")} == live
            assert set(w.backend._ground.holdings._grants) == live
            started = [event.replica for event in w.events if event.kind == "replica.starting"]
            ended = [event.replica for event in w.events if event.kind in ("replica.stopped", "replica.failed")]
            assert len(ended) == len(set(ended))
            assert set(started) - set(ended) == live
            assert set(killed) - live <= set(ended)

    run(scenario)
