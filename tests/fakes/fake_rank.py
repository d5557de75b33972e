"""A rank of a training run that trains nothing: it counts steps, tells of them and checkpoints as the real one does.

    python fake_rank.py CONFIG.json

The variable FAKE_RANK is a JSON object: `steps`, `step_s`, `save_every`, `notes` to tell, and `faults`, a list of
{attempt, rank, step, how}, how being kill, fail, refuse, say and refuse (on stderr alone), hang or leak, and step 0
before the start is told.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ironloom.train.loop.exits import DONE, FAILED, PREEMPTED, REFUSED
from ironloom.train.loop.records import Kind, Records


def main() -> int:
    config = json.loads(Path(sys.argv[1]).read_text())
    how = {"steps": 6, "step_s": 0.02, "save_every": 2, "faults": [], "notes": []} | json.loads(
        os.environ.get("FAKE_RANK", "{}")
    )
    rank, world, attempt = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "IRONLOOM_ATTEMPT"))
    output = Path(config["output"])
    records = Records(output / "logs", rank, attempt=attempt, run_id=os.environ["IRONLOOM_RUN_ID"])
    saved = output / "saved"
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    step = int(saved.read_text()) if saved.exists() else 0
    print(f"rank {rank} of {world}, attempt {attempt}, from step {step}", flush=True)
    if (status := fault(how["faults"], records, rank, attempt, 0)) is not None:
        return status
    if rank == 0:
        for note in how["notes"]:
            records.write(Kind.NOTE, message=note)
        records.write(Kind.STARTED, step=step, num_ranks=world, num_steps=how["steps"])
    while step < how["steps"]:
        if asked:
            if rank == 0:
                saved.write_text(str(step))
                records.write(Kind.CHECKPOINTED, step=step)
                records.write(Kind.PREEMPTED, step=step)
            return PREEMPTED
        time.sleep(how["step_s"])
        step += 1
        if (status := fault(how["faults"], records, rank, attempt, step)) is not None:
            return status
        (output / f"at-{attempt}-{rank}").write_text(str(step))
        while not asked and any(place(output, attempt, other) < step for other in range(world)):
            time.sleep(0.002)  # as in a collective
        if rank == 0:
            records.write(Kind.STEP, step=step, num_steps=how["steps"], loss=4.0 / step, tokens_per_s=100.0)
            if step % how["save_every"] == 0:
                saved.write_text(str(step))
                records.write(Kind.CHECKPOINTED, step=step)
    if rank == 0:
        records.write(Kind.DONE, step=step, report={"num_steps": step})
    return DONE


def place(output: Path, attempt: int, rank: int) -> int:
    try:
        return int((output / f"at-{attempt}-{rank}").read_text() or 0)
    except FileNotFoundError:
        return 0


def fault(faults: list[dict[str, Any]], records: Records, rank: int, attempt: int, step: int) -> int | None:
    for one in faults:
        if (one["attempt"], one["rank"], one["step"]) != (attempt, rank, step):
            continue
        if one["how"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if one["how"] == "leak":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            return FAILED
        if one["how"] == "hang":
            time.sleep(600)
        if one["how"] == "say and refuse":
            print("Another process trains into the folder.\n\nhint: wait for it to end.", file=sys.stderr)
            return REFUSED
        if one["how"] == "refuse":
            message, hint = "the tokenizer is another model's", "the model's own"
            records.write(Kind.FAILED, code="usage", message=message, hint=hint, is_final=True)
            return REFUSED
        records.write(Kind.FAILED, code="internal", message="a fault that was asked for", is_final=False)
        return FAILED
    return None


if __name__ == "__main__":
    sys.exit(main())
