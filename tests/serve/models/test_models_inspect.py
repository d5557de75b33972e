"""What a folder or a file holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.fakes.weights import config, gguf_file, safetensors_file

from ironloom.errors import ModelCorrupt, ModelError, ModelNotFound, ModelRefused
from ironloom.serve.engines.base import ModelFormat, Task
from ironloom.serve.models.inspect import inspect_model


def folder(path: Path, **files: bytes) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (path / name.replace("__", ".")).write_bytes(data)
    return path


def test_a_safetensors_folder(tmp_path: Path) -> None:
    weights = safetensors_file({"a": (8, 8)}, dtype="BF16")
    path = folder(tmp_path / "m", config__json=config(), model__safetensors=weights)
    model = inspect_model(path, "file:///m")
    assert (model.format, model.architecture, model.task) == (
        ModelFormat.SAFETENSORS,
        "LlamaForCausalLM",
        Task.GENERATE,
    )
    assert (model.context_length, model.form, model.size_bytes) == (2048, "bfloat16", len(weights))
    assert (model.model_type, model.own_code) == ("llama", None)


def test_an_embedding_model_is_known_by_its_architecture_or_its_modules(tmp_path: Path) -> None:
    weights = safetensors_file()
    bert = folder(tmp_path / "a", config__json=config("BertModel"), model__safetensors=weights)
    qwen = folder(
        tmp_path / "b", config__json=config("Qwen3ForCausalLM"), model__safetensors=weights, modules__json=b"[]"
    )
    assert inspect_model(bert, "x").task is Task.EMBED
    assert inspect_model(qwen, "x").task is Task.EMBED


def test_own_code_is_named_by_its_modules(tmp_path: Path) -> None:
    auto_map = {"AutoModelForCausalLM": "modeling_x.XForCausalLM", "AutoConfig": "configuration_x.XConfig"}
    path = folder(
        tmp_path, config__json=config("XForCausalLM", auto_map=auto_map), model__safetensors=safetensors_file()
    )
    assert inspect_model(path, "x").own_code == "configuration_x.XConfig, modeling_x.XForCausalLM"


def test_a_sharded_folder_wants_every_shard(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    path = folder(tmp_path, config__json=config(), model__safetensors__index__json=json.dumps(index).encode())
    (path / "model-00001-of-00002.safetensors").write_bytes(safetensors_file())
    with pytest.raises(ModelCorrupt, match="model-00002-of-00002"):
        inspect_model(path, "x")
    (path / "model-00002-of-00002.safetensors").write_bytes(safetensors_file())
    assert inspect_model(path, "x").size_bytes == 2 * len(safetensors_file())


def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "../other/model.safetensors"}}
    path = folder(tmp_path, config__json=config(), model__safetensors__index__json=json.dumps(index).encode())
    with pytest.raises(ModelCorrupt, match="other"):
        inspect_model(path, "x")


def test_a_single_gguf_file_and_a_folder_with_one(tmp_path: Path) -> None:
    file = tmp_path / "llama.gguf"
    file.write_bytes(gguf_file())
    model = inspect_model(file, "x")
    assert (model.format, model.architecture, model.context_length) == (ModelFormat.GGUF, "llama", 512)
    assert (model.path, inspect_model(tmp_path, "x").path) == (file, file)


def test_several_gguf_files_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("a-Q4.gguf", "a-Q8.gguf"):
        (tmp_path / name).write_bytes(gguf_file())
    with pytest.raises(ModelRefused, match=r"a-Q4\.gguf, a-Q8\.gguf"):
        inspect_model(tmp_path, "x")


def test_a_split_gguf_wants_every_part(tmp_path: Path) -> None:
    def part(n: int) -> bytes:
        return gguf_file({"general.architecture": "llama", "split.no": n, "split.count": 2})

    (tmp_path / "m-00001-of-00002.gguf").write_bytes(part(0))
    with pytest.raises(ModelCorrupt, match="m-00002-of-00002"):
        inspect_model(tmp_path, "x")
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(part(1))
    assert inspect_model(tmp_path, "x").size_bytes == len(part(0)) + len(part(1))


def test_an_openvino_folder(tmp_path: Path) -> None:
    path = folder(tmp_path, config__json=config("Qwen2ForCausalLM"), openvino_model__xml=b"<net/>")
    with pytest.raises(ModelCorrupt, match=r"openvino_model\.bin"):
        inspect_model(path, "x")
    (path / "openvino_model.bin").write_bytes(bytes(10))
    assert inspect_model(path, "x").format is ModelFormat.OPENVINO


@pytest.mark.parametrize(
    ("files", "error", "why"),
    [
        ({}, ModelRefused, "no weights"),
        ({"pytorch_model__bin": b"x", "config__json": config()}, ModelRefused, r"pickles alone \(pytorch_model\.bin\)"),
        ({"model__safetensors": safetensors_file()}, ModelRefused, r"no config\.json"),
        ({"model__safetensors": safetensors_file(), "config__json": b"{"}, ModelCorrupt, r"config\.json"),
        ({"model__safetensors": safetensors_file(), "config__json": b"\xff\xfe"}, ModelCorrupt, r"config\.json"),
        ({"model__safetensors": safetensors_file()[:-1], "config__json": config()}, ModelCorrupt, "should have"),
        ({"m__gguf": gguf_file()[:-20]}, ModelCorrupt, "cut short"),
        ({"m__gguf": gguf_file({})}, ModelCorrupt, "architecture"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_file_and_the_reason(
    tmp_path: Path, files: dict[str, bytes], error: type[ModelError], why: str
) -> None:
    with pytest.raises(error, match=why):
        inspect_model(folder(tmp_path / "m", **files), "x")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        inspect_model(tmp_path / "nowhere", "x")
