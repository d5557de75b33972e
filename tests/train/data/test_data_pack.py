"""Documents into sequences: nothing lost, nothing twice, nothing cut that fits."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.train.data.pack import Layout, cut, lay_out

LENGTHS = st.lists(st.integers(2, 70), min_size=1, max_size=200)


def laid_out(lengths: list[int], seq_len: int, *, is_packed: bool = True, is_split: bool = True) -> Layout:
    documents = np.arange(len(lengths), dtype=np.int64)
    pieces = cut(documents, np.array(lengths, dtype=np.int64), seq_len, is_long_row_split=is_split)
    return lay_out(pieces, seq_len, is_packed=is_packed)


@given(lengths=LENGTHS, seq_len=st.integers(1, 32), is_packed=st.booleans())
@settings(max_examples=80, deadline=None)
def test_every_position_of_every_document_is_in_one_sequence(lengths: list[int], seq_len: int, is_packed: bool) -> None:
    pieces = laid_out(lengths, seq_len, is_packed=is_packed).pieces
    covered: dict[int, list[int]] = {}
    for document, start, length in zip(pieces.document, pieces.start, pieces.length, strict=True):
        covered.setdefault(int(document), []).extend(range(int(start), int(start) + int(length)))
    assert {document: sorted(places) for document, places in covered.items()} == {
        document: list(range(length - 1)) for document, length in enumerate(lengths)
    }


@given(lengths=LENGTHS, seq_len=st.integers(1, 32), is_packed=st.booleans(), is_split=st.booleans())
@settings(max_examples=80, deadline=None)
def test_no_sequence_is_fuller_than_it_is_long(
    lengths: list[int], seq_len: int, is_packed: bool, is_split: bool
) -> None:
    layout = laid_out(lengths, seq_len, is_packed=is_packed, is_split=is_split)
    filled = np.add.reduceat(layout.pieces.length, layout.first[:-1])
    assert filled.max() <= seq_len
    assert filled.min() >= 1
    assert is_packed or layout.num_sequences == len(layout.pieces)


def test_a_document_that_fits_is_whole_in_one_sequence() -> None:
    layout = laid_out([30, 20, 11, 45, 70], 40)
    pieces = layout.pieces
    whole = {int(d): int(n) for d, n in zip(pieces.document, pieces.length, strict=True) if d in (0, 1, 2)}
    assert whole == {0: 29, 1: 19, 2: 10}


def test_a_long_document_is_cut_where_it_may_not_go_on() -> None:
    pieces = laid_out([100], 40, is_split=False).pieces
    assert (pieces.start.tolist(), pieces.length.tolist()) == ([0], [40])


def test_sequences_of_short_documents_are_near_to_full() -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5, 1.2, 20_000), 2, 1e5).astype(int).tolist()
    layout = laid_out(lengths, 2048)
    assert layout.pieces.length.sum() / (layout.num_sequences * 2048) > 0.999
