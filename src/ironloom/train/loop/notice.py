"""The notice to end: SIGTERM (a preemption, `ironloom delete`, a scheduler) and SIGINT set a flag that the loop looks
at between steps. A second one ends the process at once."""

from __future__ import annotations

import os
import signal
from types import FrameType

from ironloom.train.loop.exits import PREEMPTED


class Notice:
    """Whether this process was asked to end."""

    def __init__(self) -> None:
        self.is_given = False

    def listen(self) -> None:
        """From now on; the main thread's to call."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_given:
            os._exit(PREEMPTED)
        self.is_given = True
