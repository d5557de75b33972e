"""The meter of a loop of one's own, on any module, sharded or not.

    meter = Meter(num_steps=1000, flops_per_step="counted", folder="out/logs")
    for batch in meter.steps(share(loader), size=lambda batch: batch.numel()):
        loss = model(batch).mean()
        meter.mark("forward")
        loss.backward()
        meter.mark("backward")
        optimizer.step()
        optimizer.zero_grad()
        meter.mark("update")
        meter.observe(loss=loss)

What it tells is what `ironloom train` tells of its steps, by the same names and definitions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, distributed

from ironloom.errors import UsageError
from ironloom.train.loop.exposition import step_text
from ironloom.train.loop.meter import RunMeter, peak_flops_of, peak_memory_bytes
from ironloom.train.loop.records import Kind, Records
from ironloom.train.loop.stalls import Stall
from ironloom.train.loop.steal import Steal
from ironloom.train.parallel.mesh import device_of_rank

_T = TypeVar("_T")
Unit = Literal["tokens", "samples"]


class Meter:
    """Made by every rank, after the process group was joined; rank 0 writes.

    What it knows is in `last` (a dictionary, as of the last step that was told), in `FOLDER/rank-0.jsonl` (a JSON
    object a line) and in `FOLDER/metrics.prom` (Prometheus' text format, for node_exporter's textfile collector):
    tokens or samples a second over all ranks, MFU, the mean step's seconds and its parts, which add up to it, exposed
    communication and blocking checkpoints among them, stalls, the memory's peak, steal, the time to the end.
    """

    def __init__(
        self,
        *,
        name: str = "run",
        num_steps: int = 0,
        unit: Unit = "tokens",
        flops_per_step: float | Literal["counted"] | None = None,
        peak_flops: float | None = None,
        folder: str | Path | None = None,
        tell_every: int = 10,
    ) -> None:
        """`num_steps`: of the whole run; 0 where that is not known, and nothing is said of what is left.

        `flops_per_step`: operations of one rank's step, forward and backward; "counted" counts those of the first one
        (torch.utils.flop_counter: matrix products, convolutions and attention, what activation checkpointing computes
        again among them; inside of compiled code it sees nothing). `peak_flops`: of one device a second in the type
        that is computed in; by default bfloat16's dense peak of the GPU, by the catalog, and no MFU where it is not
        there. `tell_every`: of so many steps one is told, the first and, by `num_steps`, the last.
        Raises UsageError for a number that is none, OSError where the folder cannot be written.
        """
        if num_steps < 0 or tell_every < 1 or unit not in ("tokens", "samples"):
            raise UsageError(
                f"num_steps={num_steps!r}, tell_every={tell_every!r}, unit={unit!r}: one of them cannot be",
                hint='num_steps is 0 or more, tell_every 1 or more, unit "tokens" or "samples"',
            )
        is_group = distributed.is_available() and distributed.is_initialized()
        self._world = distributed.get_world_size() if is_group else 1
        self._is_first = not is_group or distributed.get_rank() == 0
        self._device = device_of_rank()
        self._name, self._num_steps, self._unit, self._every = name, num_steps, unit, tell_every
        self._is_counting = flops_per_step == "counted"
        self.flops_per_step = None if isinstance(flops_per_step, str) else flops_per_step
        """Of one rank; None until they are known."""
        self._peak_flops = peak_flops if peak_flops is not None else peak_flops_of(self._device)
        self._folder = Path(folder) if folder is not None and self._is_first else None
        self._records = Records(self._folder, 0) if self._folder is not None else None
        self._steal = Steal()
        self._meter = RunMeter(num_ranks=self._world, device=self._device, on_stall=self._stalled)
        self._before_s = 0.0
        """Device-seconds of what it goes on from."""
        self._first_step = 0
        self._observed: dict[str, Any] = {}
        self._amount = 0
        self.step = 0
        """The one that goes on, or that ended last."""
        self.last: dict[str, Any] = {}
        """The record of the last step that was told."""

    def steps(self, batches: Iterable[_T], *, size: Callable[[_T], int]) -> Iterator[_T]:
        """Each batch, its fetching measured as `data`; the body of the loop is the rest of the step.

        `size`: this rank's tokens or samples in a batch; all ranks have as many. A step that is left by `break` or an
        error is not counted.
        """
        meter, source = self._meter, iter(batches)
        self._first_step = self.step
        meter.listen()
        try:
            while True:
                meter.begin_step()
                try:
                    batch = next(source)
                except StopIteration:
                    return
                meter.mark("data")
                amount = size(batch) * self._world
                self.step, self._amount = self.step + 1, self._amount + amount
                has_ended = False
                try:
                    if self._is_counting:
                        with _flop_counter() as counter:
                            yield batch
                        self.flops_per_step, self._is_counting = float(counter.get_total_flops()), False
                    else:
                        yield batch
                    has_ended = True
                finally:
                    if not has_ended:
                        self.step, self._amount = self.step - 1, self._amount - amount
                meter.end_step(amount)
                self._tell()
        finally:
            meter.close()

    def mark(self, part: str) -> None:
        """What went on since the last mark was this part of the step: forward, backward, update or a name of yours."""
        self._meter.mark(part)

    def part(self, name: str) -> AbstractContextManager[None]:
        """Time inside is this part, beside the step's own: `with meter.part("checkpoint"):`, or `evaluation`. It is
        among the step's parts, and does not lessen tokens a second; an evaluation is never a stall."""
        return self._meter.part(name)

    def observe(self, **values: Any) -> None:
        """Numbers of this step, such as its loss; the same names on every rank.

        Where the step is told tensors are read, which waits for them, and the mean over the ranks is taken: of losses
        that are means of each rank's own rows it is that of the whole batch."""
        self._observed = values

    def prometheus(self) -> str:
        """The last step that was told, in Prometheus' text format."""
        return step_text(self._name, self.last)

    def state(self) -> dict[str, Any]:
        """For a checkpoint's `extra`: plain values, with the step that goes on counted as done."""
        device_s = self._before_s + self._meter.rank_s
        return {"step": self.step, "amount": self._amount, "device_s": device_s, **self._meter.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there; nothing where the state is empty."""
        self.step, self._amount = int(state.get("step") or 0), int(state.get("amount") or 0)
        self._before_s = float(state.get("device_s") or 0.0)
        self._meter.restore(state)

    def close(self) -> None:
        """Gives the file back."""
        self._meter.close()
        if self._records is not None:
            self._records.close()
            self._records = None

    def _tell(self) -> None:
        observed, self._observed = self._observed, {}
        is_last = self.step == self._num_steps
        if not (is_last or self.step % self._every == 0 or self.step == self._first_step + 1):
            return
        meter = self._meter
        parts_s = meter.take_parts_s(is_last=is_last)
        rate, mean_s = meter.tokens_per_s, meter.remaining_s(1)
        mfu = None
        if mean_s and self.flops_per_step is not None and self._peak_flops:
            mfu = round(self.flops_per_step / mean_s / self._peak_flops, 4)
        left_s = meter.remaining_s(max(0, self._num_steps - self.step)) if self._num_steps else None
        record = {
            "step": self.step,
            "num_steps": self._num_steps or None,
            **self._over_ranks(observed),
            self._unit: self._amount,
            f"{self._unit}_per_s": round(rate, 1),
            "mfu": mfu,
            "step_s": round(sum(parts_s.values()), 6),
            "parts_s": parts_s,
            "num_stalls": meter.stalls.number,
            "stall_s": round(meter.stalls.lost_s, 3),
            "peak_memory_bytes": peak_memory_bytes(self._device),
            "steal_fraction": self._steal.fraction(),
            "device_s": round(self._before_s + meter.rank_s, 1),
            "remaining_s": None if left_s is None else round(left_s, 1),
        }
        self.last = {name: value for name, value in record.items() if value is not None}
        if self._records is not None and self._folder is not None:
            self._records.write(Kind.STEP, **self.last)
            partial = self._folder / "metrics.prom.part"
            try:
                partial.write_text(self.prometheus())
                partial.replace(self._folder / "metrics.prom")
            except OSError:  # a full disk is no reason to end a run
                return

    def _over_ranks(self, observed: Mapping[str, Any]) -> dict[str, float]:
        numbers = {name: _number(value) for name, value in sorted(observed.items())}
        if self._world == 1 or not numbers:
            return numbers
        means = torch.tensor([*numbers.values()], dtype=torch.float64, device=self._device)
        distributed.all_reduce(means)
        return dict(zip(numbers, (means / self._world).tolist(), strict=True))

    def _stalled(self, number: int, stall: Stall) -> None:
        if self._records is not None:
            self._records.write(Kind.STALLED, step=self._first_step + number, **stall.facts())


def _flop_counter() -> Any:
    """torch's, without its word of a Triton that is not there: nothing runs such kernels then."""
    logger = logging.getLogger("torch.utils.flop_counter")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        from torch.utils.flop_counter import FlopCounterMode
    finally:
        logger.disabled = was_disabled
    return FlopCounterMode(display=False)


def _number(value: Any) -> float:
    """A tensor's too, whether gradients go through it or not."""
    return float(value.detach() if isinstance(value, Tensor) else value)
