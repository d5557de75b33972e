"""All that a run trains on: its sources as sequences, blended, and what was held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironloom.errors import DataError
from ironloom.train.data.blend import Blend
from ironloom.train.data.cache import prepare
from ironloom.train.data.sequences import Sequence, Sequences, lay_out_source
from ironloom.train.data.tokenizer import Tokenizer
from ironloom.workload.training import Data, Source


@dataclass(frozen=True, slots=True)
class Corpus:
    """An endless order of sequences: the i-th is the same at each start, on however many ranks."""

    sources: tuple[Sequences, ...]
    blend: Blend

    @property
    def sequences_per_epoch(self) -> int:
        """Sequences of all sources together. Of one source that is each once; of several, each by its weight."""
        return sum(map(len, self.sources))

    def sequence(self, i: int) -> Sequence:
        """The i-th sequence from the start of the run, from 0. A source that is through begins anew, shuffled anew."""
        source, nth = self.blend.at(i)
        sequences = self.sources[source]
        return sequences.in_epoch(*divmod(nth, len(sequences)))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run's data, ready to be read."""

    train: Corpus
    held_out: tuple[Sequences, ...]
    """Evaluated on; empty where nothing is."""
    identity: dict[str, Any]
    """What decides which sequence is the i-th, as JSON: a run that resumes compares it."""
    source_uris: tuple[str, ...]
    """Of what it is trained on, in the order of the identity's `sources`."""
    notes: tuple[str, ...]
    """What was read and what was left out, a sentence each."""


def prepare_data(
    data: Data, tokenizer: Tokenizer, cache_folder: Path, *, say: Callable[[str], None] = lambda _: None
) -> Prepared:
    """The run's data: tokenised where the cache does not hold it, laid out, blended. Every rank calls this.

    `say` gets sentences while it works. Raises DataError for rows that cannot be used.
    """
    if not data.sources:
        raise DataError("there is no data to train on", hint="name a file, a folder or a dataset of the hub")
    for source in (*data.sources, *data.eval_sources):
        if not source.weight > 0:
            raise DataError(f"{source.uri} has the weight {source.weight:g}; it must be above 0")
    if not 0 <= data.eval_fraction < 1:
        raise DataError(f"the share of rows held out is {data.eval_fraction:g}; it must be from 0 to below 1")
    fraction = 0.0 if data.eval_sources else data.eval_fraction
    notes: list[str] = []
    train: list[Sequences] = []
    held_out: list[Sequences] = []

    def lay(source: Source, *, is_eval: bool, eval_fraction: float = 0.0) -> Sequences:
        cache = prepare(source, data, tokenizer, cache_folder, say=say)
        sequences = lay_out_source(cache, data, is_eval=is_eval, eval_fraction=eval_fraction)
        if not len(sequences):
            raise DataError(
                f"{source.uri} has no sequence {'to evaluate on' if is_eval else 'to train on'}: in the first "
                f"{data.seq_len:,} tokens of its conversations no answer begins",
                hint="take longer sequences",
            )
        return sequences

    for source in data.sources:
        train.append(lay(source, is_eval=False, eval_fraction=fraction))
        notes.append(_note(source, train[-1], data))
        if fraction and train[-1].cache.counts.num_documents > 1:
            held_out.append(lay(source, is_eval=True, eval_fraction=fraction))
    for source in data.eval_sources:
        held_out.append(lay(source, is_eval=True, eval_fraction=1.0))
        notes.append(_note(source, held_out[-1], data))
    means = [sequences.num_positions / len(sequences) for sequences in train]
    shares = [source.weight / mean for source, mean in zip(data.sources, means, strict=True)]
    identity = {
        "sources": [sequences.cache.key for sequences in train],
        "weights": [source.weight for source in data.sources],
        "seq_len": data.seq_len,
        "is_packed": data.is_packed,
        "is_long_row_split": data.is_long_row_split,
        "eval_fraction": fraction,
        "seed": data.seed,
    }
    return Prepared(
        train=Corpus(tuple(train), Blend.of(shares)),
        held_out=tuple(held_out),
        identity=identity,
        source_uris=tuple(source.uri for source in data.sources),
        notes=tuple(notes),
    )


def _note(source: Source, sequences: Sequences, data: Data) -> str:
    counts = sequences.cache.counts
    parts = [
        f"{counts.num_rows:,} rows, {sequences.num_documents:,} documents",
        f"{len(sequences):,} sequences, {sequences.num_positions / len(sequences) / data.seq_len:.1%} filled",
    ]
    if counts.num_empty:
        parts.append(f"{counts.num_empty:,} empty rows left out")
    if counts.num_without_answer:
        parts.append(f"{counts.num_without_answer:,} conversations without an answer left out")
    if counts.num_lost_turns:
        parts.append(f"{counts.num_lost_turns:,} earlier answers without loss, as the chat template rewrites them")
    if sequences.num_long:
        rows = f"{sequences.num_long:,} rows longer than {data.seq_len:,} tokens"
        if data.is_long_row_split:
            parts.append(f"{rows} go on in another sequence")
        else:
            parts.append(f"{rows} cut, {sequences.num_cut_tokens:,} tokens left out")
    if sequences.num_without_target:
        parts.append(f"{sequences.num_without_target:,} parts of them left out, as no answer is in them")
    return f"{source.uri}: {'; '.join(parts)}."
