"""A daemon's batch part as a program of its own, for tests that kill it: runs what is unfinished to its end.

Arguments: the state file, a file that gets a line for each answer of the engine, seconds that one answer takes.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ironloom.account.database import Database
from ironloom.server.batches import Batches, BatchLimits


class Result:
    status = 200

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self.body = body


async def main(state: Path, log: Path, answer_s: float) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def call(service: str, path: str, body: bytes, headers: Any, *, key_id: str, request_id: str) -> Result:
        await asyncio.sleep(answer_s)

        async def pieces() -> AsyncIterator[bytes]:
            os.write(descriptor, f"{request_id}\n".encode())
            yield b'{"object":"chat.completion","usage":{"prompt_tokens":2,"completion_tokens":3}}'

        return Result(pieces())

    database = Database.open(state)
    batches = Batches(database, call, why_not=lambda _key, _model: None, limits=BatchLimits(rows_in_flight=8))
    await batches.open()
    print("running", flush=True)
    while ids := await database.read(
        lambda connection: [row[0] for row in connection.execute("SELECT id FROM batches WHERE status != 'completed'")]
    ):
        await batches.wait(ids[0])
    database.close()


asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])))
