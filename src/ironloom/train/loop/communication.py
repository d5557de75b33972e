"""Exposed communication: how long what computes stood still for other ranks, whatever made it wait.

It is measured where the waiting is, each time, by public names of torch that everything built on it goes through:

- On a GPU an event before and one after each wait of the computing stream for another one (`Stream.wait_event`: FSDP2's
  gathers and reductions run on streams of their own), around each `Work.wait`, and around collectives that run on the
  computing stream itself. What a stream does meanwhile on another one is overlapped, and costs nothing here.
- On a CPU the time in `Work.wait`: gloo sends and receives in threads of its own, and what computes waits there.

A wait is for the slowest rank too: a rank that others wait for has none itself. What waits below Python is not seen:
DDP's reducer, collectives inside a compiled graph, functional collectives (those of DTensor).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed

from ironloom.train.loop.times import GpuClock, StepTimes

_ON_STREAM = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor", "broadcast", "reduce",
    "all_to_all_single", "barrier",
)  # fmt: skip
"""Collectives that NCCL runs on the current stream where they are not asynchronous."""


class Waits:
    """Tells step times of each wait, from `listen` to `close`; one at a time listens."""

    def __init__(self, times: StepTimes) -> None:
        self._times = times
        self._stream = times.clock.stream if isinstance(times.clock, GpuClock) else None
        self._thread = threading.get_ident()
        self._is_inside = False
        self._replaced: list[tuple[Any, str, Any]] = []

    def listen(self) -> None:
        """Only where there are other ranks."""
        if self._replaced or not distributed.is_available() or not distributed.is_initialized():
            return
        if distributed.get_world_size() == 1:
            return
        self._replace(distributed.Work, "wait", self._is_ours)
        if self._stream is not None:
            self._replace(torch.cuda.Stream, "wait_event", lambda stream, *_: stream == self._stream)
            for name in _ON_STREAM:
                self._replace(distributed, name, self._is_ours)

    def close(self) -> None:
        while self._replaced:
            place, name, original = self._replaced.pop()
            setattr(place, name, original)

    def _is_ours(self, *_: Any) -> bool:
        """Threads that write checkpoints talk to other ranks too, beside the steps."""
        if threading.get_ident() != self._thread:
            return False
        return self._stream is None or torch.cuda.current_stream() == self._stream

    def _replace(self, place: Any, name: str, is_ours: Callable[..., bool]) -> None:
        original = getattr(place, name)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if not is_ours(*args) or self._is_inside:
                return original(*args, **kwargs)
            self._is_inside = True
            begin = self._times.clock.mark()
            try:
                return original(*args, **kwargs)
            finally:
                self._times.waited(begin, self._times.clock.mark())
                self._is_inside = False

        self._replaced.append((place, name, original))
        setattr(place, name, timed)
