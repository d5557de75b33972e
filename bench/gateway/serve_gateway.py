"""The gateway alone, as the race runs it: all duties on, four replica entries that are one fake upstream.

Keys, the event log (journal and SQLite), metrics, choice with prefix affinity, usage accounting.
usage: serve_gateway.py PORT UPSTREAM_PORT STATE_DIR; prints the key and serves until SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from ironloom.account.database import Database
from ironloom.account.log import EventLog
from ironloom.serve.gateway.app import Gateway
from ironloom.serve.gateway.config import GatewayConfig
from ironloom.serve.gateway.keys import KeyRing
from ironloom.serve.http.server import serve
from ironloom.serve.pool import ServicePool
from ironloom.serve.replica import Replica, ReplicaState, ServiceReplicas
from ironloom.server.promptness import be_prompt
from ironloom.workload.serving import Serving

NUM_REPLICAS = 4


async def main(port: int, upstream_port: int, state: Path) -> None:
    database = Database.open(state / "state.db")
    log = await EventLog.open(database, state / "journal")
    keys = await KeyRing.open(database)
    _, token = await keys.create("race", "inference")
    serving = Serving(name="m", kind="InferenceService")
    pool = ServicePool(serving)
    pool.update(
        ServiceReplicas(
            service="m",
            replicas=tuple(
                Replica(
                    id=f"m-{i:05d}",
                    service="m",
                    state=ReplicaState.READY,
                    generation=1,
                    engine="fake",
                    port=upstream_port,
                )
                for i in range(NUM_REPLICAS)
            ),
        )
    )
    gateway = Gateway(log=log, keys=keys, config=GatewayConfig(keys_required=True))
    gateway.declare(serving, pool, created_s=0.0)
    gateway.start()
    gateway.server = await serve(gateway, port=port)
    print(token, flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    gateway.close()
    await gateway.server.close()
    await log.close()
    database.close()


if __name__ == "__main__":
    be_prompt()
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
