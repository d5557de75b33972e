"""One rank from its start to its end: what goes wrong becomes a record, a sentence and an exit status."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ironloom.errors import CapacityError, IronloomError
from ironloom.train.loop import folder
from ironloom.train.loop.bad_loss import BadLoss
from ironloom.train.loop.board import Board
from ironloom.train.loop.device_time import process_age_s, seconds_before
from ironloom.train.loop.exits import BAD_LOSS, DONE, FAILED, PEER_LOST, PREEMPTED, REFUSED
from ironloom.train.loop.fits import setting
from ironloom.train.loop.lines import Lines
from ironloom.train.loop.notice import Notice
from ironloom.train.loop.ranks import Ranks
from ironloom.train.loop.records import Kind, Records
from ironloom.train.loop.refusal import tell
from ironloom.train.loop.setup import set_up
from ironloom.train.loop.steps import run_steps
from ironloom.train.loop.watch import HangWatch
from ironloom.workload.training import Training

_PEER_WORDS = (
    "closed by peer", "connection reset", "broken pipe", "socket closed", "peer closed", "connection refused",
    "nccl communicator was aborted", "remote process exited", "socket timeout",
)  # fmt: skip
"""What gloo and NCCL say when another rank is gone."""


def run_rank(training: Training, ranks: Ranks) -> int:
    """Train; the exit status."""
    output = Path(training.output).expanduser().absolute()
    logs = folder.logs_of(output)
    lock = None
    try:
        lock = folder.take(output) if ranks.is_first else None
        lines, board = (Lines(training.name), Board(output)) if ranks.is_first else (None, None)

        def show(record: Mapping[str, Any]) -> None:
            if lines is not None and board is not None:
                lines.show(record)
                board.show(record)

        records = Records(logs, ranks.rank, attempt=ranks.attempt, run_id=ranks.run_id, echo=show)
    except IronloomError as error:
        tell(error.render(), rank=ranks.rank)
        return REFUSED
    except OSError as error:
        tell(f"The output folder {output} cannot be written: {error.strerror}.", rank=ranks.rank)
        return REFUSED
    before_s = 0.0
    if ranks.is_first:
        before_s = seconds_before(records.path)
        records.write(Kind.PHASE, message="starting", num_ranks=ranks.world, process_s=round(process_age_s(), 3))
    notice = Notice()
    notice.listen()
    watch = HangWatch(
        logs,
        records,
        rank=ranks.rank,
        num_ranks=ranks.world,
        timeout_s=training.watch.hang_timeout_s,
    )
    watch.start()
    has_begun = False
    try:
        parts = set_up(training, ranks, output, records, watch)
        if ranks.is_first:
            folder.write_configuration(output, training)
        has_begun = True
        return PREEMPTED if run_steps(parts, records, watch, notice, before_s=before_s) == "preempted" else DONE
    except BadLoss as error:
        records.write(Kind.FAILED, code="bad_loss", message=str(error), is_final=True, step=error.step)
        tell(str(error), rank=ranks.rank)
        return BAD_LOSS
    except IronloomError as error:
        is_final = error.is_final or not has_begun
        records.write(Kind.FAILED, code=error.code, message=error.message, hint=error.hint, is_final=is_final)
        tell(error.render(), rank=ranks.rank)
        return REFUSED if is_final else FAILED
    except torch.OutOfMemoryError as error:
        told = _out_of_memory(training, error)
        records.write(Kind.FAILED, code=told.code, message=told.message, hint=told.hint, is_final=True)
        tell(told.render(), rank=ranks.rank)
        return REFUSED
    except Exception as error:  # the last stop of a rank: whoever started it reads the record
        traceback.print_exc()
        is_peer = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _PEER_WORDS)
        said = " ".join(str(error).split())[:500]
        message = f"another rank went away: {said}" if is_peer else f"{type(error).__name__}: {said}"
        code = "peer_lost" if is_peer else "internal"
        records.write(Kind.FAILED, code=code, message=message, is_final=False)
        return PEER_LOST if is_peer else FAILED
    finally:
        watch.close()
        records.close()
        if board is not None:
            board.close()
        if lock is not None:
            os.close(lock)


def _out_of_memory(training: Training, error: Exception) -> CapacityError:
    said = " ".join(str(error).split()).partition(". ")[0]
    smaller = []
    if training.micro_batch_size > 1:
        smaller.append(f"micro_batch_size={training.micro_batch_size // 2}")
    if training.compute.checkpointing.value != "full":
        smaller.append("compute.checkpointing=full")
    smaller.append(f"data.seq_len={training.data.seq_len // 2}")
    ways = ", or ".join(setting(one) for one in smaller)
    return CapacityError(f"the GPU's memory is full: {said}", hint=f"{ways}, takes less")
