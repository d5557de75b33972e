"""The wall clock is set back or forward: starts are tried again all the same."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.backends.local.world import run, world
from tests.fakes.fake_engine import fake_serving

from ironloom.serve.replica import ReplicaState as State


class Clock:
    """The wall clock, and how far off it is."""

    def __init__(self) -> None:
        self.off_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.off_s


@pytest.mark.parametrize("jump_s", [-7200.0, 7200.0], ids=["back", "forward"])
def test_a_clock_that_jumps_between_a_failure_and_the_next_try(tmp_path: Path, jump_s: float) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with world(tmp_path, clock=clock) as w:
            broken = fake_serving(crash_at_start=3)
            await w.apply(broken, ready=1)
            await w.failed()
            clock.off_s = jump_s
            num_failed = w.kinds().count("replica.failed")
            await w.until(lambda: w.kinds().count("replica.failed") >= num_failed + 2)
            await w.apply(replace(fake_serving(), name=broken.name), 2)
            await w.ready()
            assert w.reports["a"].retry_at_s is None

    run(scenario)


def test_a_ready_replica_survives_a_clock_that_is_set_back_and_parks_and_wakes(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with world(tmp_path, clock=clock) as w:
            await w.apply(fake_serving(), ready=1)
            (replica,) = await w.ready()
            clock.off_s = -7200.0
            w.order("a", 0, parked=1)
            await w.until(lambda: w.in_state(State.PARKED))
            w.order("a", 1)
            (again,) = await w.ready()
            assert again.pid == replica.pid

    run(scenario)
