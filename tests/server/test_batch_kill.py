"""kill -9 in the middle of a batch, again and again: it ends whole, and bills each row once."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ironloom.account.database import Database
from ironloom.server.batches import Batches
from ironloom.server.files import FileStore

PROGRAM = Path(__file__).with_name("batch_program.py")
NUM_ROWS = 400


async def _create(state: Path) -> str:
    """A batch that is declared and not begun."""
    database = Database.open(state)
    try:
        row = {"method": "POST", "url": "/v1/chat/completions", "body": {"model": "small", "messages": []}}
        data = "".join(json.dumps({"custom_id": f"row-{number}", **row}) + "\n" for number in range(NUM_ROWS))
        file = await FileStore(database).add(data.encode(), filename="in", purpose="batch")

        async def never(*args: Any, **more: Any) -> Any:
            await asyncio.Event().wait()

        batches = Batches(database, never, why_not=lambda _key, _model: None)
        batch = await batches.create(
            input_file_id=file.id,
            endpoint="/v1/chat/completions",
            window_s=86_400.0,
            completion_window="24h",
            metadata={},
        )
        await batches.close()
        return str(batch["id"])
    finally:
        database.close()


async def _read(state: Path, batch_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    database = Database.open(state)
    try:
        batches = Batches(database, None, why_not=lambda _key, _model: None)  # type: ignore[arg-type]
        batch = await batches.get(batch_id)
        parts = [part async for part in FileStore(database).parts(batch["output_file_id"])]
        return batch, [json.loads(line) for line in b"".join(parts).splitlines()]
    finally:
        database.close()


def test_a_batch_survives_kill_9_and_bills_each_row_once(tmp_path: Path) -> None:
    state, log = tmp_path / "state.db", tmp_path / "answers"
    batch_id = asyncio.run(_create(state))
    chance = random.Random(7)
    num_kills = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(state), str(log), "0.01"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == "running\n"
            if num_kills < 4:
                answered = len(log.read_bytes().splitlines()) if log.exists() else 0
                goal = answered + chance.randrange(5, 60)
                deadline = time.monotonic() + 20
                while process.poll() is None and time.monotonic() < deadline:
                    if log.exists() and len(log.read_bytes().splitlines()) >= goal:
                        break
                    time.sleep(0.002)
                process.kill()
            status = process.wait(timeout=30)
        if status == 0:
            break
        assert status == -9
        num_kills += 1
    batch, lines = asyncio.run(_read(state, batch_id))
    assert num_kills == 4
    assert batch["status"] == "completed"
    assert [line["custom_id"] for line in lines] == [f"row-{number}" for number in range(NUM_ROWS)]
    assert batch["request_counts"] == {"total": NUM_ROWS, "completed": NUM_ROWS, "failed": 0}
    assert batch["usage"]["total_tokens"] == NUM_ROWS * 5
    answers = Counter(log.read_text().split())
    assert len(answers) == NUM_ROWS
    again = sum(count - 1 for count in answers.values())
    assert again <= num_kills * 16  # only rows in flight at a kill, or answered and not yet written, are sent again
