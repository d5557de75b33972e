"""Batches of ranks, resume at another world size, and what a Parquet file and a saved data set give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.train
torch = pytest.importorskip("torch")

from data_tokenizer import LetterTokenizer  # noqa: E402

from ironloom.errors import DataError  # noqa: E402
from ironloom.train.data.corpus import Prepared, prepare_data  # noqa: E402
from ironloom.train.data.loader import Batch, Loader, held_out_batches  # noqa: E402
from ironloom.workload.training import Data, Source  # noqa: E402

TEXTS = [f"{number:03d}" + "x" * (number % 17) for number in range(90)]


def prepared(tmp_path: Path, **changes: Any) -> Prepared:
    file = tmp_path / "a.jsonl"
    if not file.exists():
        file.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    data = Data(**{"sources": (Source(uri=str(file)),), "seq_len": 16, **changes})
    return prepare_data(data, LetterTokenizer(), tmp_path / "cache")


def loaders(found: Prepared, world: int, state: dict[str, Any] | None = None) -> list[Loader]:
    made = [Loader(found, global_batch_size=12, micro_batch_size=1, rank=rank, world=world) for rank in range(world)]
    for loader in made:
        if state is not None:
            loader.restore(json.loads(json.dumps(state)))
    return made


def step(ranks: list[Loader]) -> list[list[int]]:
    """The rows of one step, over all ranks and micro-batches, in the order of the run."""
    batches = [[next(rank) for rank in ranks] for _ in range(ranks[0].num_micro_batches)]
    return [row for micro in batches for batch in micro for row in batch.tokens_BL.tolist()]


def test_steps_on_4_then_3_then_2_ranks_are_the_steps_of_one(tmp_path: Path) -> None:
    found = prepared(tmp_path)
    (alone,) = loaders(found, 1)
    wanted = [step([alone]) for _ in range(9)]
    state: dict[str, Any] | None = None
    got = []
    for world in (4, 3, 2):
        ranks = loaders(found, world, state)
        got += [step(ranks) for _ in range(3)]
        states = [rank.state() for rank in ranks]
        assert states == [states[0]] * world
        state = states[0]
        for rank in ranks:
            rank.close()
    alone.close()
    assert got == wanted
    assert state is not None
    assert state["consumed_sequences"] == 108


def test_a_step_that_was_not_finished_is_taken_again(tmp_path: Path) -> None:
    found = prepared(tmp_path)
    (loader,) = loaders(found, 1)
    wanted = step([loader])
    assert loader.consumed_sequences == 12
    next(loader)
    assert loader.consumed_sequences == 12
    loader.close()
    (first,) = loaders(found, 1)
    assert step([first]) == wanted
    first.close()


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"seq_len": 8}, "seq_len was 16 and is 8 now"), ({"seed": 3}, "seed was 0 and is 3 now")],
)
def test_a_state_of_other_data_is_refused_by_its_first_difference(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    (loader,) = loaders(prepared(tmp_path), 1)
    state = loader.state()
    loader.close()
    (other,) = loaders(prepared(tmp_path, **changes), 1)
    with pytest.raises(DataError, match=f"the checkpoint was trained on other data: {why}"):
        other.restore(state)
    other.close()


def test_of_changed_rows_the_refusal_names_their_file(tmp_path: Path) -> None:
    (loader,) = loaders(prepared(tmp_path), 1)
    state = loader.state()
    identity = state["data"]
    last = len(identity["sources"]) - 1
    digests = [*identity["sources"][:last], "0" * 32]
    with pytest.raises(DataError, match=r"other data: the rows of \S+\.jsonl are others, or are read by"):
        loader.restore(state | {"data": identity | {"sources": digests}})
    with pytest.raises(DataError, match=rf"the number of data\.sources was {last + 2} and is {last + 1} now"):
        loader.restore(state | {"data": identity | {"sources": [*identity["sources"], "0" * 32]}})
    loader.close()


@pytest.mark.parametrize("world", [1, 3])
def test_each_held_out_sequence_is_evaluated_once_in_as_many_batches_on_each_rank(tmp_path: Path, world: int) -> None:
    found = prepared(tmp_path, eval_fraction=0.3, is_packed=False)
    ranks: list[list[Batch]] = [
        list(held_out_batches(found.held_out, micro_batch_size=2, rank=rank, world=world)) for rank in range(world)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    (source,) = found.held_out
    wanted = sum(int((source[i].targets != -100).sum()) for i in range(len(source)))
    assert sum(batch.num_targets for batches in ranks for batch in batches) == wanted


def test_rows_without_packing_need_no_document_mask(tmp_path: Path) -> None:
    (loader,) = loaders(prepared(tmp_path, is_packed=False), 1)
    assert next(loader).documents_BL is None
    loader.close()


def test_a_parquet_file_and_a_saved_data_set_are_the_rows_of_the_json_lines(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    datasets = pytest.importorskip("datasets")
    plain = prepared(tmp_path)
    table = datasets.Dataset.from_dict({"text": TEXTS, "id": list(range(len(TEXTS)))})
    table.to_parquet(tmp_path / "a.parquet")
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "saved")
    for name in ("a.parquet", "saved"):
        other = prepared(tmp_path, sources=(Source(uri=str(tmp_path / name)),))
        first, second = plain.train, other.train
        assert len(first.sources[0]) == len(second.sources[0])
        assert all((first.sequence(i).tokens == second.sequence(i).tokens).all() for i in range(30))
    with pytest.raises(DataError, match='has no split "test"; it has train'):
        prepared(tmp_path, sources=(Source(uri=str(tmp_path / "saved"), split="test"),))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"bad\.parquet is no Parquet file that can be read"):
        prepared(tmp_path, sources=(Source(uri=str(tmp_path / "bad.parquet")),))


def test_the_columns_of_a_parquet_file_are_told_where_none_is_a_text(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"body": ["a"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r'no field "text" .* there are body, id'):
        prepared(tmp_path, sources=(Source(uri=str(tmp_path / "a.parquet")),))
