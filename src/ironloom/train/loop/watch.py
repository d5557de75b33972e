"""The hang watch: a thread that beats each second and, when a step takes too long, writes every thread's stack, names
the slow rank and ends the process, so that the run can go on from its last checkpoint."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ironloom.train.loop.beats import STALE_S, Beat, name_slow, read_beats, write_beat
from ironloom.train.loop.exits import HUNG
from ironloom.train.loop.records import Kind, Records
from ironloom.units import format_duration

BEAT_S = 1.0
FIRST_STEP_FACTOR = 5.0
"""The first steps compile and warm up: they may take this many times as long."""


class HangWatch:
    """Of one rank. `enter` says which part of which step it is in; nothing else is asked of the loop."""

    def __init__(
        self,
        folder: Path,
        records: Records,
        *,
        rank: int,
        num_ranks: int,
        timeout_s: float,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        """`timeout_s` 0 beats and ends nothing."""
        self._folder = folder
        self._records = records
        self._rank = rank
        self._num_ranks = num_ranks
        self._timeout_s = timeout_s
        self._end = end
        self._step, self._part = 0, "starting"
        self._part_since_s = time.time()
        self._begun_s = time.monotonic()
        self._num_steps = 0
        self._patience_s = float("inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hang-watch", daemon=True)

    def start(self) -> None:
        """Begin to beat; what a former attempt left of this rank's sign is overwritten."""
        self._beat()
        self._thread.start()

    def begin_step(self, step: int) -> None:
        """From now on the step's time counts."""
        self._num_steps += 1
        self._step = step
        self._begun_s = time.monotonic()
        first = FIRST_STEP_FACTOR if self._num_steps <= 2 else 1.0
        self._patience_s = self._timeout_s * first if self._timeout_s else float("inf")

    def enter(self, part: str) -> None:
        self._part, self._part_since_s = part, time.time()

    @contextmanager
    def patiently(self, part: str) -> Iterator[None]:
        """What takes as long as it takes: an evaluation, the export."""
        before, self._patience_s = self._patience_s, float("inf")
        self.enter(part)
        try:
            yield
        finally:
            self._begun_s = time.monotonic()
            self._patience_s = before

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=2 * BEAT_S)
        (self._folder / f"beat-{self._rank}.json").unlink(missing_ok=True)

    def _beat(self) -> None:
        write_beat(
            self._folder,
            Beat(
                rank=self._rank,
                pid=os.getpid(),
                step=self._step,
                part=self._part,
                part_since_s=self._part_since_s,
                beat_s=time.time(),
            ),
        )

    def _watch(self) -> None:
        while not self._stop.wait(BEAT_S):
            self._beat()
            waited_s = time.monotonic() - self._begun_s
            if waited_s > self._patience_s:
                self._tell(waited_s)
                self._end(HUNG)
                return

    def _tell(self, waited_s: float) -> None:
        stacks = self._folder / f"stacks-rank-{self._rank}.txt"
        with contextlib.suppress(OSError), stacks.open("w") as file:
            file.write(f"rank {self._rank}, pid {os.getpid()}, the {self._part} of step {self._step}\n\n")
            file.flush()
            faulthandler.dump_traceback(file=file, all_threads=True)
        # Whoever is stopped beats no more: a moment later that shows.
        self._stop.wait(STALE_S / 2 if self._num_ranks > 1 else 0)
        ranks, said = name_slow(read_beats(self._folder), self._num_ranks, time.time())
        self._records.write(
            Kind.HUNG,
            step=self._step,
            part=self._part,
            waited_s=round(waited_s, 1),
            slow_ranks=list(ranks),
            message=f"step {self._step} did not end in {format_duration(waited_s)}: {said}",
            stacks=str(stacks),
        )
