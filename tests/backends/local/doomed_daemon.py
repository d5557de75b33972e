"""A daemon-like parent to be killed: opens a local backend on FOLDER, brings a service to a state, says so, waits.

python -m tests.backends.local.doomed_daemon FOLDER READY|PARKED|STARTING|STOPPING|INTENT|MIDFORK KNOBS
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.backends.local.world import World
from tests.fakes.fake_engine import fake_serving

from ironloom.serve.replica import ReplicaState as State


async def main() -> None:
    folder, state, knobs = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    world = World(folder)
    await world.open()
    if state in ("INTENT", "MIDFORK"):
        put = world.backend._ground.store.put
        for_ever = asyncio.Event()

        async def stall(row):  # type: ignore[no-untyped-def]
            if state == "INTENT" or row.pid is not None:
                if state == "INTENT":
                    await put(row)
                print(json.dumps({"id": row.id, "pid": row.pid}), flush=True)
                await for_ever.wait()
            await put(row)

        world.backend._ground.store.put = stall  # type: ignore[method-assign]
    await world.apply(fake_serving(**knobs), ready=1)
    if state == "STARTING":
        await world.until(lambda: world.replicas() and world.replicas()[0].pid)
    elif state in ("READY", "PARKED", "STOPPING"):
        await world.ready()
    if state == "PARKED":
        world.order("a", 0, 1)
        await world.until(lambda: world.in_state(State.PARKED))
    if state == "STOPPING":
        world.hold_drain = asyncio.Event()
        world.order("a", 0)
        await world.until(lambda: world.drained)
    if state not in ("INTENT", "MIDFORK"):
        (replica,) = world.replicas()
        await world.rows()  # everything is written
        print(json.dumps({"id": replica.id, "pid": replica.pid, "port": replica.port}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
