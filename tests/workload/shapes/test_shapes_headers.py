"""Headers of GGUF and safetensors files: read right, and never trusted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.weights import gguf_file, safetensors_file

from ironloom.errors import ModelCorrupt
from ironloom.workload.shapes.gguf_header import _BLOCKS, ArrayLength, parse_gguf_header, read_gguf_header
from ironloom.workload.shapes.safetensors_header import read_safetensors_header

METADATA = {
    "general.architecture": "qwen2",
    "qwen2.context_length": 4096,
    "qwen2.rope.freq_base": 10000.0,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.tokens": ["<s>", "a", "bé"],
    "few": [1, 2, 3],
    "many": list(range(1000)),
}
TENSORS = {"a": ("Q4_1", (64, 2)), "b": ("F32", (3,)), "c": ("F16", (5, 5))}


def test_a_gguf_header_says_what_the_model_is() -> None:
    header = parse_gguf_header(gguf_file(METADATA, TENSORS), name="m.gguf")
    assert (header.architecture, header.context_length, header.form, header.split_count) == ("qwen2", 4096, "Q4_1", 1)
    assert header.metadata["tokenizer.ggml.add_bos_token"] is True
    assert header.metadata["few"] == (1, 2, 3)
    assert header.metadata["many"] == ArrayLength(1000)
    assert header.metadata["tokenizer.ggml.tokens"] == ArrayLength(3)
    assert [(t.name, t.shape, t.type, t.num_bytes) for t in header.tensors] == [
        ("a", (64, 2), "Q4_1", 80),
        ("b", (3,), "F32", 12),
        ("c", (5, 5), "F16", 50),
    ]


def test_arrays_are_read_whole_when_they_are_asked_for() -> None:
    header = parse_gguf_header(gguf_file(METADATA), name="m", keep={"tokenizer.ggml.tokens", "many"})
    assert header.metadata["tokenizer.ggml.tokens"] == ("<s>", "a", "bé")
    assert header.metadata["many"] == tuple(range(1000))


def test_block_sizes_are_those_of_the_gguf_package() -> None:
    constants = pytest.importorskip("gguf.constants")
    known = {int(kind): (kind.name, *sizes) for kind, sizes in constants.GGML_QUANT_SIZES.items()}
    shared = known.keys() & _BLOCKS.keys() - {
        9
    }  # Q8_1 is never stored, and the package says 40 bytes where ggml has 36
    assert len(shared) > 25
    assert {number: _BLOCKS[number] for number in shared} == {number: known[number] for number in shared}


def test_any_cut_of_a_gguf_file_is_seen(tmp_path: Path) -> None:
    whole = gguf_file(METADATA, TENSORS)
    last_byte = parse_gguf_header(whole, name="m").data_offset_bytes + 96 + 32 + 50
    for length in (*range(0, last_byte, 37), last_byte - 1):
        path = tmp_path / "cut.gguf"
        path.write_bytes(whole[:length])
        with pytest.raises(ModelCorrupt, match=r"cut\.gguf"):
            read_gguf_header(path)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GGML" + bytes(100), "does not begin"),
        (gguf_file(version=1), "version 1"),
        (b"GGUF\x00\x00\x00\x03" + bytes(60), "version 50331648"),
        (gguf_file({"general.alignment": 24}), "alignment"),
        (gguf_file()[:8] + b"\xff" * 16 + gguf_file()[24:], "tensors"),
    ],
)
def test_what_is_no_gguf_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(ModelCorrupt, match=why):
        parse_gguf_header(data, name="m.gguf")


@settings(max_examples=300)
@given(st.data())
def test_damaged_gguf_bytes_give_a_header_or_model_corrupt_and_nothing_else(data: st.DataObject) -> None:
    whole = bytearray(gguf_file(METADATA, TENSORS))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + 1] = data.draw(st.binary(min_size=0, max_size=9))
    try:
        header = parse_gguf_header(bytes(whole), name="m.gguf")
    except ModelCorrupt:
        return
    for tensor in header.tensors:
        assert header.data_offset_bytes + tensor.offset_bytes + tensor.num_bytes <= len(whole)


@given(st.binary(max_size=200))
def test_random_bytes_are_never_a_crash(data: bytes) -> None:
    with pytest.raises(ModelCorrupt):
        parse_gguf_header(b"GGUF\x03\x00\x00\x00" + b"\x01" + data, name="m.gguf")


def test_a_safetensors_header_lists_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_file({"a": (2, 3), "b": (4,)}, dtype="BF16"))
    header = read_safetensors_header(path)
    assert {name: tensor["shape"] for name, tensor in header.items()} == {"a": [2, 3], "b": [4]}


@settings(max_examples=200)
@given(st.data())
def test_a_cut_or_grown_safetensors_file_is_corrupt(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = safetensors_file({"a": (2, 3), "b": (4,)})
    change = data.draw(st.integers(-len(whole), 64).filter(bool))
    path = tmp_path_factory.getbasetemp() / "model.safetensors"
    path.write_bytes(whole[:change] if change < 0 else whole + bytes(change))
    with pytest.raises(ModelCorrupt, match=r"model\.safetensors"):
        read_safetensors_header(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32"}}',
        b'{"a": {"data_offsets": [4, 0]}}',
        b'{"a":{"data_offsets":[0,-1]}}',
    ],
)
def test_a_safetensors_header_that_makes_no_sense_is_corrupt(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(ModelCorrupt, match=r"model\.safetensors"):
        read_safetensors_header(path)
