"""The sequences of one source: its documents laid out, each read from the mapped tokens when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ironloom.train.data.cache import TokenCache
from ironloom.train.data.layouts import kept_layout
from ironloom.train.data.order import permuted
from ironloom.train.data.pack import Layout, Pieces, cut, lay_out
from ironloom.workload.training import Data

IGNORED = -100
"""The target that no loss counts: cross_entropy's ignore_index."""
_DOCUMENTS = -1
"""In place of an epoch's number: the shuffle of the documents, before they are laid out."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """One sequence of L positions."""

    tokens: NDArray[np.int64]
    targets: NDArray[np.int64]
    """The next token; IGNORED where the loss does not count it."""
    documents: NDArray[np.int32]
    """Which document of the sequence each position is of: 0, 1, …; what is left at the end is one more."""
    positions: NDArray[np.int64]
    """Place within the document, from 0; that of a piece of a longer document too."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """A source's documents as sequences of `seq_len` positions."""

    cache: TokenCache
    layout: Layout
    seq_len: int
    seed: int
    num_documents: int
    num_long: int
    """Documents longer than a sequence: split, or cut."""
    num_cut_tokens: int
    """Their tokens that are in no sequence."""
    num_without_target: int
    """Pieces of them that are in no sequence, as no token of theirs counts as a target."""

    @property
    def num_positions(self) -> int:
        """Positions that hold a document, over all sequences."""
        return int(self.layout.pieces.length.sum(dtype=np.int64))

    def __len__(self) -> int:
        return self.layout.num_sequences

    def in_epoch(self, epoch: int, nth: int) -> Sequence:
        """The nth sequence of an epoch's shuffle."""
        position = np.array([nth], dtype=np.int64)
        return self[int(permuted(position, len(self), self.seed, epoch)[0])]

    def __getitem__(self, index: int) -> Sequence:
        tokens = np.zeros(self.seq_len, dtype=np.int64)
        targets = np.full(self.seq_len, IGNORED, dtype=np.int64)
        documents = np.empty(self.seq_len, dtype=np.int32)
        positions = np.empty(self.seq_len, dtype=np.int64)
        pieces = self.layout.pieces
        at = 0
        first, end = int(self.layout.first[index]), int(self.layout.first[index + 1])
        for nth, piece in enumerate(range(first, end)):
            length = int(pieces.length[piece])
            start = int(self.cache.offsets[pieces.document[piece]] + pieces.start[piece])
            here = slice(at, at + length)
            tokens[here] = self.cache.tokens[start : start + length]
            targets[here] = self.cache.tokens[start + 1 : start + length + 1]
            if self.cache.loss is not None:
                targets[here][~self.cache.loss[start + 1 : start + length + 1]] = IGNORED
            documents[here] = nth
            positions[here] = np.arange(length)
            at += length
        documents[at:] = end - first
        positions[at:] = np.arange(self.seq_len - at)
        return Sequence(tokens, targets, documents, positions)


def lay_out_source(cache: TokenCache, data: Data, *, is_eval: bool = False, eval_fraction: float = 0.0) -> Sequences:
    """A source's sequences: those of its documents that are held out, or the others.

    Which ones are held out hangs on the seed and the number of documents alone; 0 < `eval_fraction` < 1 holds out one
    at least and leaves one at least, where there are two.
    """
    num = cache.counts.num_documents
    num = cache.counts.num_documents
    shuffled = permuted(np.arange(num, dtype=np.int64), num, data.seed, _DOCUMENTS)
    num_held_out = min(num - 1, max(1, round(num * eval_fraction))) if eval_fraction > 0 else 0
    documents = shuffled[:num_held_out] if is_eval else shuffled[num_held_out:]
    pieces = cut(documents, cache.lengths[documents], data.seq_len, is_long_row_split=data.is_long_row_split)
    with_target = _with_target(pieces, cache, data.seq_len)
    settings = {
        "documents": [data.seed, num_held_out, is_eval],
        "pieces": [data.seq_len, data.is_long_row_split],
        "is_packed": data.is_packed,
    }
    layout = kept_layout(cache.folder, settings, lambda: lay_out(with_target, data.seq_len, is_packed=data.is_packed))
    is_long = cache.lengths[documents] - 1 > data.seq_len
    return Sequences(
        cache=cache,
        layout=layout,
        seq_len=data.seq_len,
        seed=data.seed,
        num_documents=len(documents),
        num_long=int(is_long.sum()),
        num_cut_tokens=0
        if data.is_long_row_split
        else int((cache.lengths[documents] - 1 - data.seq_len)[is_long].sum()),
        num_without_target=len(pieces) - len(with_target),
    )


def _with_target(pieces: Pieces, cache: TokenCache, seq_len: int) -> Pieces:
    """Without those parts of long conversations in which no token counts: what comes before the first answer."""
    if cache.loss is None:
        return pieces
    keep = np.ones(len(pieces), dtype=np.bool_)
    for place in np.flatnonzero(cache.lengths[pieces.document] - 1 > seq_len):
        start = int(cache.offsets[pieces.document[place]] + pieces.start[place])
        keep[place] = bool(cache.loss[start + 1 : start + int(pieces.length[place]) + 1].any())
    return pieces.at(keep)
