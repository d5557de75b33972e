"""From files to the i-th sequence: cached once, counted, blended, the same at each start."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_tokenizer import EOS, LetterTokenizer, text_of

from ironloom.errors import DataError
from ironloom.train.data import cache as caches
from ironloom.train.data import layouts, sequences
from ironloom.train.data.corpus import Prepared, prepare_data
from ironloom.train.data.sequences import IGNORED, Sequence
from ironloom.workload.training import Data, Source


def write(file: Path, *rows: Any) -> Path:
    lines = [json.dumps({"messages": row} if isinstance(row, list) else {"text": row}) for row in rows]
    file.write_text("\n".join(lines))
    return file


def prepared(tmp_path: Path, *files: Path, weights: tuple[float, ...] = (), **changes: Any) -> Prepared:
    sources = tuple(
        Source(uri=str(file), weight=weight) for file, weight in zip(files, weights or (1.0,) * len(files), strict=True)
    )
    data = replace(Data(sources=sources, seq_len=16), **changes)
    return prepare_data(data, LetterTokenizer(), tmp_path / "cache")


def documents(sequence: Sequence) -> list[str]:
    """What each document of a sequence is trained to say, from its second token on."""
    found = []
    for number in range(int(sequence.documents.max()) + 1):
        targets = sequence.targets[(sequence.documents == number) & (sequence.targets != IGNORED)]
        found.append(text_of(targets.tolist()))
    return [text for text in found if text]


def test_targets_are_the_next_token_within_each_document_and_positions_begin_anew(tmp_path: Path) -> None:
    found = prepared(tmp_path, write(tmp_path / "a.jsonl", "abcdef", "ghi")).train.sequence(0)
    assert sorted(documents(found)) == ["bcdef", "hi"]
    assert Counter(found.positions.tolist())[0] == 3  # two documents, and what is left
    inside = np.flatnonzero(found.targets != IGNORED)
    follows = [i for i in inside if i + 1 < 16 and found.documents[i] == found.documents[i + 1]]
    assert all(found.targets[i] == found.tokens[i + 1] for i in follows)
    assert (found.targets == EOS).sum() == 2


def test_the_answers_alone_are_targets_of_a_conversation(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"}]
    found = prepared(tmp_path, write(tmp_path / "a.jsonl", turns), seq_len=64).train.sequence(0)
    assert documents(found) == ["bc."]


def test_what_was_left_out_is_counted_and_said(tmp_path: Path) -> None:
    unanswered = [{"role": "user", "content": "a"}]
    file = write(tmp_path / "a.jsonl", "abcdef", "", unanswered, "x" * 40, None)
    (note,) = prepared(tmp_path, file).notes
    assert "5 rows, 2 documents" in note
    assert "2 empty rows left out" in note
    assert "1 conversations without an answer left out" in note
    assert "1 rows longer than 16 tokens go on in another sequence" in note
    (note,) = prepared(tmp_path, file, is_long_row_split=False).notes
    assert "1 rows longer than 16 tokens cut, 24 tokens left out" in note


def test_a_part_of_a_long_conversation_without_an_answer_is_left_out(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a" * 40}, {"role": "assistant", "content": "b"}]
    found = prepared(tmp_path, write(tmp_path / "a.jsonl", turns, "abc"), is_packed=False)
    assert found.train.sequences_per_epoch == 2
    assert "parts of them left out, as no answer is in them" in found.notes[0]


def test_an_epoch_has_each_sequence_once_and_the_next_one_another_order(tmp_path: Path) -> None:
    texts = [f"{letter}{number:02d}" for letter in "abcd" for number in range(20)]
    corpus = prepared(tmp_path, write(tmp_path / "a.jsonl", *texts), is_packed=False).train
    epochs = [[documents(corpus.sequence(i))[0] for i in range(80 * e, 80 * (e + 1))] for e in range(2)]
    assert all(sorted(epoch) == sorted(text[1:] for text in texts) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_the_order_is_the_same_at_each_start_and_another_one_with_another_seed(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *("a" * length for length in range(3, 60)))

    def order(**changes: Any) -> list[list[int]]:
        corpus = prepared(tmp_path, file, **changes).train
        return [corpus.sequence(i).tokens.tolist() for i in range(40)]

    assert order() == order()
    assert order() != order(seed=1)


def test_sources_are_blended_by_their_share_of_tokens(tmp_path: Path) -> None:
    long = write(tmp_path / "long.jsonl", *("l" * 16 for _ in range(30)))
    short = write(tmp_path / "short.jsonl", *("s" * 4 for _ in range(30)))
    corpus = prepared(tmp_path, long, short, weights=(3.0, 1.0), is_packed=False).train
    tokens: Counter[str] = Counter()
    for i in range(2000):
        for text in documents(corpus.sequence(i)):
            tokens[text[0]] += len(text) + 1
    assert tokens["l"] / tokens.total() == pytest.approx(0.75, abs=0.01)


def test_what_is_held_out_is_in_no_sequence_that_is_trained_on(tmp_path: Path) -> None:
    texts = [f"{number:03d}" for number in range(100)]
    found = prepared(tmp_path, write(tmp_path / "a.jsonl", *texts), eval_fraction=0.1, is_packed=False)
    trained = {tuple(found.train.sequence(i).tokens) for i in range(found.train.sequences_per_epoch)}
    (source,) = found.held_out
    held_out = {tuple(source[i].tokens) for i in range(len(source))}
    assert (len(held_out), len(trained), held_out & trained) == (10, 90, set())


def test_rows_are_tokenised_once_and_a_changed_row_or_tokenizer_is_another_cache(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", "abc", "def")
    data = Data(sources=(Source(uri=str(file)),), seq_len=16)
    said: list[str] = []

    def key(tokenizer: LetterTokenizer, where: Path = file) -> Any:
        changed = replace(data, sources=(Source(uri=str(where)),))
        return prepare_data(changed, tokenizer, tmp_path / "cache", say=said.append).identity["sources"]

    first = key(LetterTokenizer())
    moved = tmp_path / "moved.jsonl"
    shutil.copy(file, moved)
    assert key(LetterTokenizer()) == key(LetterTokenizer(), moved) == first
    assert len(said) == 1
    assert key(LetterTokenizer(size=600)) != first
    write(file, "abc", "deg")
    assert key(LetterTokenizer()) != first


def test_ranks_that_begin_together_make_the_cache_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.jsonl", *("abc" for _ in range(2000)))
    made: list[Path] = []
    make = caches._make
    monkeypatch.setattr(caches, "_make", lambda *args: (made.append(args[-1]), make(*args)))
    with ThreadPoolExecutor(4) as ranks:
        found = list(ranks.map(lambda _: prepared(tmp_path, file).identity, range(4)))
    assert len(made) == 1
    assert found == [found[0]] * 4


def test_a_cache_that_lost_bytes_is_made_anew(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", "abcdef")
    (key,) = prepared(tmp_path, file).identity["sources"]
    tokens = tmp_path / "cache" / key / "tokens.bin"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    assert documents(prepared(tmp_path, file).train.sequence(0)) == ["bcdef"]


def test_documents_are_laid_out_once_for_a_length_and_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.jsonl", *("a" * length for length in range(3, 60)))
    made: list[int] = []
    lay_out = sequences.lay_out
    monkeypatch.setattr(sequences, "lay_out", lambda *args, **options: (made.append(1), lay_out(*args, **options))[1])
    first = prepared(tmp_path, file).train
    again = prepared(tmp_path, file).train
    assert len(made) == 1
    assert all((first.sequence(i).tokens == again.sequence(i).tokens).all() for i in range(first.sequences_per_epoch))
    for number, changes in enumerate(
        ({"seed": 1}, {"seq_len": 32}, {"eval_fraction": 0.2}, {"is_long_row_split": False})
    ):
        prepared(tmp_path, file, **changes)
        assert len(made) > number + 1


def test_a_cache_that_cannot_be_written_to_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layouts.np, "save", full)
    found = prepared(tmp_path, write(tmp_path / "a.jsonl", "abcdef"))
    assert documents(found.train.sequence(0)) == ["bcdef"]
    (key,) = found.identity["sources"]
    assert not list((tmp_path / "cache" / key).glob("layout-*"))


def test_a_row_that_fails_leaves_no_cache(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "abc"}\n{"text": 1}')
    with pytest.raises(DataError, match="a string is wanted"):
        prepared(tmp_path, file)
    assert [entry.name for entry in (tmp_path / "cache").iterdir() if entry.is_dir()] == []


@pytest.mark.parametrize(
    ("rows", "changes", "why"),
    [
        (("", None), {}, "has 2 rows and none to train on: 2 are empty"),
        (("abc",), {"eval_fraction": 1.0}, "the share of rows held out is 1"),
        (("abc",), {"sources": ()}, "there is no data to train on"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(
    tmp_path: Path, rows: tuple[Any, ...], changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(DataError, match=why):
        prepared(tmp_path, write(tmp_path / "a.jsonl", *rows), **changes)


def test_a_weight_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the weight 0; it must be above 0"):
        prepared(tmp_path, write(tmp_path / "a.jsonl", "abc"), weights=(0.0,))
