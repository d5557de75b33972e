"""Documents into sequences of one length.

A document of L tokens is L − 1 positions, each with the next token as its target. One that is longer than a sequence
goes on in another one, or is cut. What is shorter is laid beside others: best fit, longest first, over windows of
shuffled documents, which leaves less room unused than first fit does and cuts no document that would fit whole
(Ding et al., Fewer Truncations Improve Language Modeling, https://arxiv.org/abs/2404.10830).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ironloom.train.data.order import Indices

_WINDOW = 1 << 16
"""Pieces that are laid out together: enough for sequences to fill, few enough to be quick and small."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """Parts of documents that each fit a sequence: piece p is `length[p]` positions of `document[p]`, from its token
    `start[p]` on."""

    document: Indices
    start: Indices
    length: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.document)

    def at(self, chosen: NDArray[Any]) -> Pieces:
        """Those at the given places, or under a mask."""
        return Pieces(self.document[chosen], self.start[chosen], self.length[chosen])


@dataclass(frozen=True, slots=True)
class Layout:
    """Sequence s is the pieces `first[s]` up to `first[s + 1]`."""

    pieces: Pieces
    first: Indices

    @property
    def num_sequences(self) -> int:
        return len(self.first) - 1


def cut(documents: Indices, lengths: Indices, seq_len: int, *, is_long_row_split: bool) -> Pieces:
    """The pieces of `documents`, in that order, whose lengths in tokens (2 or more each) are `lengths`."""
    positions = lengths - 1
    if not is_long_row_split:
        length = np.minimum(positions, seq_len)
        return Pieces(documents, np.zeros(len(documents), dtype=np.int64), length.astype(np.int32))
    num_pieces = -(-positions // seq_len)
    document = np.repeat(documents, num_pieces)
    nth = np.arange(len(document)) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    start = nth * seq_len
    length = np.minimum(np.repeat(positions, num_pieces) - start, seq_len)
    return Pieces(document, start, length.astype(np.int32))


def lay_out(pieces: Pieces, seq_len: int, *, is_packed: bool) -> Layout:
    """The pieces side by side in sequences of `seq_len` positions, or one each."""
    if not is_packed:
        return Layout(pieces, np.arange(len(pieces) + 1, dtype=np.int64))
    order, first = _best_fit(pieces.length, seq_len)
    return Layout(pieces.at(order), first)


def _best_fit(lengths: NDArray[np.int32], seq_len: int) -> tuple[Indices, Indices]:
    """The pieces' order, sequence by sequence, and where in it each sequence begins."""
    bins: list[list[int]] = []
    for begin in range(0, len(lengths), _WINDOW):
        window = lengths[begin : begin + _WINDOW]
        bins += _window(window, seq_len, begin)
    order = np.fromiter((piece for pieces in bins for piece in pieces), dtype=np.int64, count=len(lengths))
    sizes = np.fromiter((len(pieces) for pieces in bins), dtype=np.int64, count=len(bins))
    return order, np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


def _window(lengths: NDArray[np.int32], seq_len: int, begin: int) -> list[list[int]]:
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms = (
        0  # bit r is set where a sequence has exactly r positions left: the best fit is the lowest bit from length up
    )
    for piece in np.argsort(-lengths, kind="stable"):
        length = int(lengths[piece])
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            open_here = by_room[room]
            chosen = open_here.pop()
            if not open_here:
                rooms ^= 1 << room
        else:
            room, chosen = seq_len, len(bins)
            bins.append([])
        bins[chosen].append(begin + int(piece))
        if left := room - length:
            by_room.setdefault(left, []).append(chosen)
            rooms |= 1 << left
    return bins
