"""Micro-batches of one rank, and the place in the data as one number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ironloom.errors import DataError
from ironloom.train.data.corpus import Prepared
from ironloom.train.data.sequences import IGNORED, Sequence, Sequences
from ironloom.train.data.share import Share


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences of L positions."""

    tokens_BL: torch.Tensor
    """int64."""
    targets_BL: torch.Tensor
    """int64; -100 where the loss does not count the position."""
    documents_BL: torch.Tensor | None
    """int32: attention stays within equal numbers of a row. None where each row is one document."""
    positions_BL: torch.Tensor
    """int64, from 0 in each document."""

    @property
    def num_targets(self) -> int:
        """Positions that the loss counts."""
        return int((self.targets_BL != IGNORED).sum())


class Loader:
    """An endless iterator over the micro-batches of one rank. One thread reads the next one ahead.

    The state is the number of sequences that whole steps took. Raises UsageError where a step does not divide.
    """

    def __init__(
        self,
        prepared: Prepared,
        *,
        global_batch_size: int,
        micro_batch_size: int,
        rank: int = 0,
        world: int = 1,
        is_pinned: bool = False,
    ) -> None:
        self._share = Share(global_batch_size, micro_batch_size, rank, world)
        self._corpus = prepared.train
        self._identity = prepared.identity
        self._source_uris = prepared.source_uris
        self._is_pinned = is_pinned
        self._has_documents = bool(prepared.identity["is_packed"])
        self._start = 0
        self._next_micro_batch = 0
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="data", initializer=_on_device(is_pinned=is_pinned))
        self._ahead: tuple[int, Future[Batch]] | None = None

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches of one rank in a step."""
        return self._share.num_micro_batches

    @property
    def consumed_sequences(self) -> int:
        """Sequences, over all ranks, of the steps whose micro-batches were all taken."""
        return self._start + self._share.consumed(self._next_micro_batch)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        number = self._next_micro_batch
        if self._ahead is not None and self._ahead[0] == number:
            batch = self._ahead[1].result()
        else:
            batch = self._batch(self._start, number)
        self._next_micro_batch = number + 1
        self._ahead = (number + 1, self._reader.submit(self._batch, self._start, number + 1))
        return batch

    def state(self) -> dict[str, Any]:
        """The place in the data, as JSON. The same on every rank."""
        return {"consumed_sequences": self.consumed_sequences, "data": self._identity}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a state, of any number of ranks. Raises DataError where it is of other data."""
        saved = state.get("data")
        saved = saved if isinstance(saved, dict) else {}
        for name, value in self._identity.items():
            if saved.get(name) != value:
                changed = f"{name} was {saved.get(name)!r} and is {value!r} now"
                if name == "sources":
                    changed = self._changed_source(saved.get(name), value)
                raise DataError(
                    f"the checkpoint was trained on other data: {changed}",
                    hint="give back the data as it was, or start a new run from the exported model",
                )
        self._start = int(state["consumed_sequences"])
        self._next_micro_batch = 0
        self._ahead = None

    def _changed_source(self, saved: object, now: list[str]) -> str:
        """Which source is another, for a person: they are compared by digests, which say nothing to one."""
        then = saved if isinstance(saved, list) else []
        if len(then) != len(now):
            return f"the number of data.sources was {len(then)} and is {len(now)} now"
        uri = next(uri for uri, old, new in zip(self._source_uris, then, now, strict=True) if old != new)
        return f"the rows of {uri} are others, or are read by another tokenizer or from other fields"

    def close(self) -> None:
        """Ends the thread."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _batch(self, start: int, number: int) -> Batch:
        sequences = [self._corpus.sequence(start + i) for i in self._share.sequences(number)]
        return stacked(sequences, has_documents=self._has_documents, is_pinned=self._is_pinned)


def _on_device(*, is_pinned: bool) -> Callable[[], None]:
    """What the thread does first: pins for this rank's GPU; a new thread stands on the first one."""
    if not is_pinned:
        return lambda: None
    device = torch.cuda.current_device()
    return lambda: torch.cuda.set_device(device)


def held_out_batches(
    sources: tuple[Sequences, ...],
    *,
    micro_batch_size: int,
    rank: int = 0,
    world: int = 1,
    has_documents: bool = True,
) -> Iterator[Batch]:
    """Each held-out sequence once, over the ranks; each rank gets the same number of batches, the last ones filled up
    with sequences that the loss does not count."""
    everything = [(source, index) for source in sources for index in range(len(source))]
    at_once = micro_batch_size * world
    for begin in range(0, len(everything), at_once):
        first = begin + rank * micro_batch_size
        chosen = everything[first : first + micro_batch_size]
        sequences = [source[index] for source, index in chosen]
        sequences += [_uncounted(sources[0].seq_len)] * (micro_batch_size - len(sequences))
        yield stacked(sequences, has_documents=has_documents)


def stacked(sequences: list[Sequence], *, has_documents: bool = True, is_pinned: bool = False) -> Batch:
    """Sequences as one batch, in pinned memory where a GPU reads it."""

    def stack(name: str) -> torch.Tensor:
        tensor = torch.from_numpy(np.stack([getattr(sequence, name) for sequence in sequences]))
        return tensor.pin_memory() if is_pinned else tensor

    return Batch(
        tokens_BL=stack("tokens"),
        targets_BL=stack("targets"),
        documents_BL=stack("documents") if has_documents else None,
        positions_BL=stack("positions"),
    )


def _uncounted(seq_len: int) -> Sequence:
    return Sequence(
        tokens=np.zeros(seq_len, dtype=np.int64),
        targets=np.full(seq_len, IGNORED, dtype=np.int64),
        documents=np.zeros(seq_len, dtype=np.int32),
        positions=np.arange(seq_len, dtype=np.int64),
    )
