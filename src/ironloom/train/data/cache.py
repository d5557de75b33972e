"""Sources, tokenised once.

    CACHE/
      KEY/             one source under one tokenizer; renamed into place when whole
        tokens.bin     the documents' tokens, one after the other, little-endian: 16 bits where the vocabulary fits
        loss.bin       a byte for each token: whether it counts as a target; only where some do not
        offsets.bin    64 bits: where each document begins, and the end
        cache.json     what was read, and what was left out
        layout-…/      which documents make up each sequence, for one length and seed (see layouts)
      KEY.lock         held (flock) while it is made: of several ranks one makes it, the others wait and find it
      digests.json     SHA-256 of the files read, by size and time of change, so that none is read twice for its key

KEY is a digest of the rows' content, the tokenizer's rules and the names of the fields: the same rows elsewhere are the
same cache, and a row that changes makes another.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ironloom.errors import DataError
from ironloom.train.data.encode import encode
from ironloom.train.data.order import Indices
from ironloom.train.data.rows import HUB, is_saved_dataset, open_dataset, read_rows, source_files
from ironloom.train.data.tokenizer import Tokenizer, fingerprint
from ironloom.workload.training import Data, Source

FORMAT = 3
_FLUSH_TOKENS = 1 << 20


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What a source's rows became."""

    format: int
    uri: str
    num_rows: int
    num_documents: int
    num_tokens: int
    num_loss_tokens: int
    """Tokens that count as a target, where they stand behind another."""
    num_empty: int
    """Rows without a text, or with one token alone: nothing to predict."""
    num_without_answer: int
    """Conversations without a turn of the assistant that the loss could count."""
    num_lost_turns: int
    """Turns of the assistant without loss, as the chat template renders them otherwise within the whole."""
    max_document_tokens: int
    token_bytes: int
    has_loss: bool


_decode_counts = msgspec.json.Decoder(Counts).decode
_decode_digests = msgspec.json.Decoder(dict[str, str]).decode


@dataclass(frozen=True, slots=True)
class TokenCache:
    """A source's documents, mapped from the disk."""

    key: str
    folder: Path
    counts: Counts
    tokens: NDArray[np.unsignedinteger[Any]]
    loss: NDArray[np.bool_] | None
    offsets: Indices

    @property
    def lengths(self) -> Indices:
        """Tokens of each document."""
        return np.diff(self.offsets)


def prepare(
    source: Source,
    data: Data,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> TokenCache:
    """The source's cache, made where it is not there. Any number of processes may call this at once.

    `say` gets a sentence when the work begins. Raises DataError for rows that cannot be used, or of which none is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = _key(source, data, tokenizer, folder)
    target = folder / key
    if not _is_whole(target):
        with _lock(folder / f"{key}.lock"):
            if not _is_whole(target):
                say(f"tokenising {source.uri}")
                _make(source, data, tokenizer, target)
    cache = open_cache(target)
    if not cache.counts.num_documents:
        raise DataError(
            f"{source.uri} has {cache.counts.num_rows:,} rows and none to train on: {cache.counts.num_empty:,} are "
            f"empty, {cache.counts.num_without_answer:,} have no turn of the assistant"
        )
    return cache


def open_cache(target: Path) -> TokenCache:
    """A cache that is there, mapped."""
    counts = _decode_counts((target / "cache.json").read_bytes())
    dtype = np.dtype("<u2" if counts.token_bytes == 2 else "<u4")
    return TokenCache(
        key=target.name,
        folder=target,
        counts=counts,
        tokens=_mapped(target / "tokens.bin", dtype),
        loss=_mapped(target / "loss.bin", np.dtype(np.bool_)) if counts.has_loss else None,
        offsets=_mapped(target / "offsets.bin", np.dtype("<i8")),
    )


def _mapped(file: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if not file.stat().st_size:
        return np.empty(0, dtype=dtype)
    return np.memmap(file, dtype=dtype, mode="r")


def _is_whole(target: Path) -> bool:
    """Whether the folder is a cache, with every file as long as its counts say."""
    try:
        counts = _decode_counts((target / "cache.json").read_bytes())
        lengths = {"tokens.bin": counts.num_tokens * counts.token_bytes, "offsets.bin": 8 * (counts.num_documents + 1)}
        if counts.has_loss:
            lengths["loss.bin"] = counts.num_tokens
        return all((target / name).stat().st_size == length for name, length in lengths.items())
    except (OSError, msgspec.DecodeError):
        return False


def _make(source: Source, data: Data, tokenizer: Tokenizer, target: Path) -> None:
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of one that was killed; the lock is ours
    shutil.rmtree(target, ignore_errors=True)
    partial.mkdir()
    try:
        counts = _write(source, data, tokenizer, partial)
        (partial / "cache.json").write_bytes(msgspec.json.format(msgspec.json.encode(counts)))
        partial.rename(target)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise DataError(
                f"the tokens of {source.uri} cannot be written to {target.parent}: {error.strerror}"
            ) from error
        raise


def _write(source: Source, data: Data, tokenizer: Tokenizer, folder: Path) -> Counts:
    dtype = np.dtype("<u2" if len(tokenizer) <= 1 << 16 else "<u4")
    tally = dict.fromkeys(("rows", "empty", "without_answer", "lost_turns", "loss"), 0)
    ends = [0]
    longest = 0
    has_loss = False
    with (folder / "tokens.bin").open("wb") as tokens_file, (folder / "loss.bin").open("wb") as loss_file:
        tokens: list[int] = []
        loss: list[bool] = []

        def flush() -> None:
            tokens_file.write(np.array(tokens, dtype=dtype).tobytes())
            loss_file.write(np.array(loss, dtype=np.bool_).tobytes())
            tokens.clear()
            loss.clear()

        for document in encode(read_rows(source, data), tokenizer):
            tally["rows"] += 1
            tally["lost_turns"] += document.num_lost_turns
            wanted = document.loss if document.loss is not None else [True] * len(document.tokens)
            if document.is_conversation and not any(wanted[1:]):
                tally["without_answer"] += 1
                continue
            if len(document.tokens) < 2:
                tally["empty"] += 1
                continue
            has_loss = has_loss or document.loss is not None
            tally["loss"] += sum(wanted[1:])
            tokens += document.tokens
            loss += wanted
            ends.append(ends[-1] + len(document.tokens))
            longest = max(longest, len(document.tokens))
            if len(tokens) >= _FLUSH_TOKENS:
                flush()
        flush()
    if not has_loss:
        (folder / "loss.bin").unlink()
    (folder / "offsets.bin").write_bytes(np.array(ends, dtype="<i8").tobytes())
    return Counts(
        format=FORMAT,
        uri=source.uri,
        num_rows=tally["rows"],
        num_documents=len(ends) - 1,
        num_tokens=ends[-1],
        num_loss_tokens=tally["loss"],
        num_empty=tally["empty"],
        num_without_answer=tally["without_answer"],
        num_lost_turns=tally["lost_turns"],
        max_document_tokens=longest,
        token_bytes=dtype.itemsize,
        has_loss=has_loss,
    )


def _key(source: Source, data: Data, tokenizer: Tokenizer, folder: Path) -> str:
    parts = [str(FORMAT), fingerprint(tokenizer), data.text_field, data.messages_field]
    if source.uri.startswith(HUB) or is_saved_dataset(source):
        parts.append(str(open_dataset(source)._fingerprint))
    else:
        parts += [f"{file.suffix} {digest}" for file, digest in _digests(source, folder)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _digests(source: Source, folder: Path) -> list[tuple[Path, str]]:
    """SHA-256 of each file of a source. One that has the size and the time of change that it had is not read again."""
    memory = folder / "digests.json"
    known: dict[str, str] = {}
    with suppress(OSError, msgspec.DecodeError):
        known = _decode_digests(memory.read_bytes())
    found = []
    is_new = False
    for file in source_files(source):
        stat = file.stat()
        name = f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
        if name not in known:
            with file.open("rb") as stream:
                known[name] = hashlib.file_digest(stream, "sha256").hexdigest()
            is_new = True
        found.append((file, known[name]))
    if is_new:
        partial = memory.with_name(f"digests.{os.getpid()}.{threading.get_ident()}.partial")
        partial.write_bytes(msgspec.json.encode(known))
        partial.replace(memory)
    return found


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
