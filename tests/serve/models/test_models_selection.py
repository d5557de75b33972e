"""Which files of a repository are taken."""

from __future__ import annotations

import pytest

from ironloom.errors import ModelNotFound, ModelRefused
from ironloom.serve.models.selection import select_files


def take(*names: str, gguf: str = "", own_code: bool = False) -> set[str]:
    return set(select_files(names, repo="a/b", gguf=gguf, own_code=own_code))


def test_weights_in_one_form_and_the_small_files_beside_them() -> None:
    names = ("config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5", "tokenizer.model", "README.md")
    assert take(*names) == {"config.json", "model.safetensors", "tokenizer.model"}


def test_shards_with_their_index() -> None:
    shards = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    index = "model.safetensors.index.json"
    assert take("config.json", index, *shards, "consolidated.safetensors") == {"config.json", index, *shards}


def test_variants_in_other_precisions_are_left() -> None:
    assert "model.fp16.safetensors" not in take("config.json", "model.safetensors", "model.fp16.safetensors")


def test_consolidated_weights_are_taken_where_they_are_the_only_ones() -> None:
    assert "consolidated.safetensors" in take("config.json", "params.json", "consolidated.safetensors")


def test_sentence_transformers_modules_come_along() -> None:
    assert "1_Pooling/config.json" in take("config.json", "model.safetensors", "modules.json", "1_Pooling/config.json")


def test_other_folders_are_left() -> None:
    assert take("config.json", "model.safetensors", "onnx/model.onnx", "original/params.json") == {
        "config.json",
        "model.safetensors",
    }


def test_python_only_when_it_was_asked_for() -> None:
    names = ("config.json", "model.safetensors", "modeling_x.py")
    assert "modeling_x.py" not in take(*names)
    assert "modeling_x.py" in take(*names, own_code=True)


def test_an_openvino_repository() -> None:
    names = {f"openvino_{part}.{kind}" for part in ("model", "tokenizer", "detokenizer") for kind in ("xml", "bin")}
    assert take("config.json", *names) == {"config.json", *names}


def test_the_only_gguf_file_and_all_parts_of_a_split_one() -> None:
    assert take("m-Q4.gguf", "README.md") == {"m-Q4.gguf"}
    parts = {f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)}
    assert take(*parts) == parts
    assert take(*parts, "n.gguf", gguf="m-00001-of-00003.gguf") == parts
    with pytest.raises(ModelNotFound, match="00003-of-00003"):
        take(*sorted(parts)[:2], gguf="m-00001-of-00003.gguf")


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("config.json", "pytorch_model.bin"), "pickles alone"),
        (("config.json", "model.ckpt", "weights.pt"), r"model\.ckpt, weights\.pt"),
        (("a.gguf", "b.gguf"), r"a\.gguf, b\.gguf"),
        (("adapter_config.json", "adapter_model.safetensors"), "adapter"),
        (("README.md",), "no weights"),
        (("model.safetensors",), "no weights"),
        ((), "no weights"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(names: tuple[str, ...], why: str) -> None:
    with pytest.raises(ModelRefused, match=why):
        take(*names)
