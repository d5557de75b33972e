"""Exposed communication over gloo: the time in which a rank waits for another, and nothing else."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.train.parallel.ranks import on_ranks  # noqa: E402
from torch import distributed, nn  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402

from ironloom.train.loop.communication import Waits  # noqa: E402
from ironloom.train.loop.meter import RunMeter  # noqa: E402
from ironloom.train.loop.times import HostClock, StepTimes  # noqa: E402

pytestmark = pytest.mark.train
LATE_S = 2.0
"""What the second rank computes longer."""


def waiting() -> dict[str, Any]:
    """A step of which one rank's forward is longer, and what the meter tells of it."""
    rank = distributed.get_rank()
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    fully_shard(model)
    model.set_force_sum_reduction_for_comms(True)
    original = distributed.Work.wait
    meter = RunMeter(num_ranks=2)
    meter.listen()
    distributed.barrier()
    meter.begin_step()
    meter.mark("data")
    if rank == 1:
        time.sleep(LATE_S)
    loss = model(torch.ones(2, 8)).sum()
    meter.mark("forward")
    loss.backward()
    meter.mark("backward")
    meter.end_step(1)
    with meter.part("evaluation"):
        distributed.all_reduce(torch.ones(1))
    writer = threading.Thread(target=distributed.all_reduce, args=(torch.ones(1),))
    meter.begin_step()
    writer.start()
    writer.join()
    meter.mark("forward")
    meter.end_step(1)
    first = meter.take_parts_s()
    meter.close()
    return {"parts_s": first, "is_restored": distributed.Work.wait is original}


def test_a_rank_s_wait_for_another_is_taken_out_of_its_forward_and_the_slow_one_has_none(tmp_path: Path) -> None:
    quick, slow = on_ranks(2, waiting, tmp_path)
    # Means of two steps. A busy machine makes waits longer, and the quick rank late by a part of what the other sleeps.
    assert quick["parts_s"]["communication"] > LATE_S / 2 / 5
    assert quick["parts_s"]["communication"] > quick["parts_s"]["forward"]
    assert slow["parts_s"]["forward"] >= LATE_S / 2
    assert slow["parts_s"]["communication"] < slow["parts_s"]["forward"]
    assert quick["is_restored"]
    assert slow["is_restored"]


def only_what_is_waited_for_here() -> list[int]:
    """Waits that were heard: of this thread, of another one, aside of listening, of handles."""
    heard: list[int] = []

    class Times(StepTimes):
        def waited(self, begin: Any, end: Any) -> None:
            assert end >= begin
            heard.append(1)

    waits = Waits(Times(HostClock()))
    counts = []
    distributed.all_reduce(torch.ones(1))
    counts.append(len(heard))
    waits.listen()
    waits.listen()
    distributed.all_reduce(torch.ones(1))
    counts.append(len(heard))
    handle = distributed.all_reduce(torch.ones(1), async_op=True)
    counts.append(len(heard))
    handle.wait()
    counts.append(len(heard))
    other = threading.Thread(target=distributed.all_reduce, args=(torch.ones(1),))
    other.start()
    other.join()
    counts.append(len(heard))
    waits.close()
    waits.close()
    distributed.barrier()
    counts.append(len(heard))
    return counts


def test_waits_are_heard_once_in_the_thread_that_trains_while_it_listens(tmp_path: Path) -> None:
    for counts in on_ranks(2, only_what_is_waited_for_here, tmp_path):
        assert counts == [0, 1, 1, 2, 2, 2]


def test_one_process_has_no_one_to_wait_for() -> None:
    waits = Waits(StepTimes(HostClock()))
    original = distributed.Work.wait
    waits.listen()
    assert distributed.Work.wait is original
    waits.close()
