"""Files, index, names and policy of checkpoints; no torch needed."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.errors import CheckpointError
from ironloom.train.checkpoint import folder as folders
from ironloom.train.checkpoint.files import Part, write_safetensors
from ironloom.train.checkpoint.index import (
    FILE,
    Chunk,
    Index,
    StoredTensor,
    first_difference,
    first_identity_difference,
    read_index,
    write_index,
)
from ironloom.workload.shapes.safetensors_header import read_safetensors_header
from ironloom.workload.training import CheckpointPolicy

POLICY = CheckpointPolicy()


def index_of(folder: Path, step: int = 5) -> Index:
    (folder / "a.safetensors").write_bytes(b"12345678")
    chunk = Chunk("a.safetensors", 0, (0,), (2,), zlib.crc32(b"12345678"))
    return Index(
        step=step,
        world=1,
        num_bytes=8,
        identity={},
        extra={"n": 1},
        optimizers=[],
        ranks=[{}],
        files={"a.safetensors": 8},
        tensors={"w": StoredTensor("F32", (2,), (chunk,))},
    )


def test_a_file_is_what_the_safetensors_format_says(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    parts = [
        Part("b", "BF16", (3,), lambda: memoryview(b"abcdef")),
        Part("empty", "F32", (0, 2), lambda: memoryview(b"")),
        Part("a", "F32", (), lambda: memoryview(b"wxyz")),
    ]
    written = write_safetensors(file, parts, {"format": "pt"})
    header = read_safetensors_header(file)
    assert {name: (tensor["dtype"], tensor["shape"]) for name, tensor in header.items()} == {
        "b": ("BF16", [3]),
        "empty": ("F32", [0, 2]),
        "a": ("F32", []),
    }
    data = file.read_bytes()
    assert [data[place.begin :][: part.num_bytes] for place, part in zip(written, parts, strict=True)] == [
        b"abcdef",
        b"",
        b"wxyz",
    ]
    assert [place.crc32 for place in written] == [zlib.crc32(b) for b in (b"abcdef", b"", b"wxyz")]
    assert written[0].begin % 8 == 0


def test_an_index_comes_back_as_it_was(tmp_path: Path) -> None:
    index = index_of(tmp_path)
    write_index(tmp_path, index)
    assert read_index(tmp_path) == index


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda f: (f / FILE).unlink(), "cannot be read"),
        (lambda f: (f / FILE).write_bytes((f / FILE).read_bytes()[:-9]), "is damaged"),
        (lambda f: (f / FILE).write_bytes((f / FILE).read_bytes().replace(b'"n":1', b'"n":2')), "has not the SHA-256"),
        (lambda f: (f / "a.safetensors").unlink(), r"a\.safetensors of its 1 files is missing"),
        (lambda f: (f / "a.safetensors").write_bytes(b"1234"), "has 4 bytes, and was written with 8"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_told(tmp_path: Path, harm: object, why: str) -> None:
    write_index(tmp_path, index_of(tmp_path))
    assert callable(harm)
    harm(tmp_path)
    with pytest.raises(CheckpointError, match=why):
        read_index(tmp_path)


def test_one_of_a_later_format_is_told_as_that(tmp_path: Path) -> None:
    write_index(tmp_path, msgspec.structs.replace(index_of(tmp_path), format=2))
    with pytest.raises(CheckpointError, match="has the format 2; this version reads 1"):
        read_index(tmp_path)


def test_the_index_is_json_that_other_programs_read(tmp_path: Path) -> None:
    write_index(tmp_path, index_of(tmp_path))
    assert json.loads((tmp_path / FILE).read_text())["content"]["step"] == 5


@given(
    there=st.sets(st.integers(0, 60).map(lambda n: n * 10), max_size=20),
    keep_last=st.integers(1, 4),
    every=st.sampled_from([0, 20, 50]),
)
def test_the_last_ones_stay_and_those_at_the_multiples(there: set[int], keep_last: int, every: int) -> None:
    gone = folders.superfluous(there, replace(POLICY, keep_last=keep_last, keep_every_steps=every), {})
    kept = there - set(gone)
    assert sorted(there)[-keep_last:] == sorted(kept)[-keep_last:]
    assert all(every and step % every == 0 for step in sorted(kept)[:-keep_last])
    assert not any(every and step % every == 0 for step in gone)


@given(
    there=st.sets(st.integers(0, 30), min_size=1, max_size=20),
    losses=st.dictionaries(st.integers(0, 30), st.sampled_from([1.0, 2.0, 3.0])),
    keep_last=st.integers(1, 4),
    every=st.sampled_from([0, 4]),
)
def test_of_those_with_a_loss_the_lowest_stays_too_and_no_other(
    there: set[int], losses: dict[int, float], keep_last: int, every: int
) -> None:
    policy = replace(POLICY, keep_last=keep_last, keep_every_steps=every)
    without = set(folders.superfluous(there, policy, {}))
    gone = set(folders.superfluous(there, policy, losses))
    known = [(losses[step], step) for step in there if step in losses]
    assert gone == without - ({min(known)[1]} if known else set())


def test_a_folder_without_its_index_is_no_checkpoint_and_what_was_left_half_goes(tmp_path: Path) -> None:
    for name in ("step-00000001", "step-00000002", "step-00000003.partial", "step-00000000.removed", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000002" / FILE).touch()
    assert folders.steps(tmp_path) == [2]
    folders.clear(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other", "step-00000001", "step-00000002"]


@pytest.mark.parametrize("name", ["model.pt", "step-1/x.distcp", "a/.metadata", "optimizer.bin"])
def test_pickles_are_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match="is a pickle, and loading one can run any code"):
        folders.refuse_pickles(tmp_path)


@pytest.mark.parametrize(
    ("saved", "why"),
    [
        ({"a": ("F32", (2,)), "b": ("F32", (3,))}, None),
        ({"b": ("F32", (3,))}, "a [2] is not in it"),
        ({"a": ("F32", (4,)), "b": ("F32", (1,))}, "a is [4] there and [2] here"),
        ({"a": ("F32", (2,)), "b": ("BF16", (3,))}, "b is BF16 there and F32 here"),
        ({"a": ("F32", (2,)), "b": ("F32", (3,)), "c": ("F32", (1,))}, "it has c [1], which is not here"),
    ],
)
def test_the_first_difference_is_named(saved: dict[str, tuple[str, tuple[int, ...]]], why: str | None) -> None:
    assert first_difference(saved, {"a": ("F32", (2,)), "b": ("F32", (3,))}) == why


def test_an_identity_is_compared_in_what_both_say() -> None:
    assert first_identity_difference({"layers": 2, "old": 1}, {"layers": 3, "new": 1}) == "layers is 2 there and 3 here"
    assert first_identity_difference({"old": 1}, {"new": 1}) is None
