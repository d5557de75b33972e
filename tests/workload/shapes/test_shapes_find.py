"""What a manifest calls a model, and the shape that is known of it without a network."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.weights import config, gguf_file

from ironloom.errors import ModelRefused
from ironloom.plan.weights import checkpoint_bytes
from ironloom.workload.shapes import gguf
from ironloom.workload.shapes.config import FAMILIES, STATE_SPACE, shape_of_config
from ironloom.workload.shapes.find import find, refusal

LLAMA_70B = 70_553_706_496


@pytest.mark.parametrize(
    "name",
    [
        "meta-llama/Llama-3.1-70B-Instruct",
        "META-LLAMA/llama-3.1-70b-instruct",
        "hf://meta-llama/Llama-3.1-70B-Instruct",
        "hf://meta-llama/Llama-3.1-70B-Instruct:main",
        "https://huggingface.co/meta-llama/Llama-3.1-70B-Instruct",
        "unsloth/Llama-3.1-70B-Instruct",
        "s3://models/Llama-3.1-70B-Instruct/",
        "pvc://claim/Llama-3.1-70B-Instruct",
        "/nowhere/on/this/machine/Llama-3.1-70B-Instruct",
        "/cache/models--meta-llama--Llama-3.1-70B-Instruct/snapshots/0e9e39f249a16976918f6564b8830bc894c89659",
    ],
)
def test_a_well_known_model_is_found_however_it_is_named(name: str) -> None:
    found = find(name)
    assert found is not None
    assert found.num_parameters == LLAMA_70B
    assert found.quantization is None


@pytest.mark.parametrize(
    ("name", "method", "gb"),
    [
        ("hugging-quants/Meta-Llama-3.1-70B-Instruct-AWQ-INT4", "awq", 39.8),
        ("neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8", "fp8", 72.7),
        ("RedHatAI/Meta-Llama-3.1-70B-Instruct-quantized.w4a16", "gptq", 39.8),
        ("Qwen/Qwen2.5-72B-Instruct-GPTQ-Int8", "gptq", 77.1),
        ("Qwen/Qwen3-32B-FP8", "fp8", 34.3),
        ("openai/gpt-oss-120b", "mxfp4", 65.3),
        ("openai/gpt-oss-20b", "mxfp4", 13.8),
    ],
)
def test_a_quantized_form_takes_the_room_of_its_files(name: str, method: str, gb: float) -> None:
    found = find(name)
    assert found is not None
    assert found.quantization is not None
    assert found.quantization.method == method
    assert checkpoint_bytes(found) / 1e9 == pytest.approx(gb, rel=0.015)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "someone/of-their-own",
        "/mnt/models",
        "$(MODEL)",
        "${MODEL}-8B",
        "state-spaces/mamba-2.8b-hf",
        "a\nb",
        "llama",
    ],
)
def test_what_is_not_known_is_none(name: str) -> None:
    assert find(name) is None


def test_a_folder_of_this_machine_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(
        config(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=100,
        )
    )
    for name in (str(tmp_path), f"file://{tmp_path}"):
        found = find(name)
        assert found is not None
        assert found.num_layers == 2
        assert found.max_position == 2048
    (tmp_path / "config.json").write_text("{")
    assert find(str(tmp_path)) is None


@given(st.text(max_size=60) | st.from_regex(r"(hf|s3)://[ -~]{0,40}", fullmatch=True))
def test_any_text_is_a_model_or_none(text: str) -> None:
    if not text.strip().startswith(("/", ".", "~")):
        find(text)


@pytest.mark.parametrize("model_type", sorted(STATE_SPACE))
def test_a_state_space_model_is_refused_by_its_name(model_type: str) -> None:
    with pytest.raises(ModelRefused) as caught:
        shape_of_config({"model_type": model_type, "num_hidden_layers": 2}, "mine")
    assert caught.value.message == (
        f"mine is {STATE_SPACE[model_type]}: a state-space model, whose memory is not modelled"
    )
    assert model_type not in FAMILIES


@pytest.mark.parametrize("architecture", sorted(gguf.STATE_SPACE))
def test_so_is_one_in_a_gguf_file(architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(gguf_file({"general.architecture": architecture}, {}))
    with pytest.raises(ModelRefused) as caught:
        gguf.shape_of_gguf(path)
    assert caught.value.message.startswith(f"mine is {gguf.STATE_SPACE[architecture]}: a state-space model")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("state-spaces/mamba-2.8b-hf", "Mamba:"),
        ("state-spaces/mamba2-1.3b", "Mamba-2:"),
        ("mistralai/Mamba-Codestral-7B-v0.1", "Mamba-2:"),
        ("tiiuae/falcon-mamba-7b-instruct", "Falcon Mamba:"),
        ("hf://ai21labs/AI21-Jamba-1.5-Mini", "Jamba"),
        ("RWKV/rwkv-4-169m-pile", "RWKV:"),
        ("ibm-granite/granite-4.0-h-small", "Granite 4 hybrid"),
        ("/mnt/models/Qwen3-Next-80B-A3B-Instruct", "Qwen3-Next"),
    ],
)
def test_a_state_space_model_that_is_not_here_is_refused_by_what_it_is_called(name: str, kind: str) -> None:
    assert find(name) is None
    assert f"it is {kind}" in refusal(name)
    assert "a state-space model, whose memory is not modelled" in refusal(name)


@pytest.mark.parametrize(
    "name", ["meta-llama/Llama-3.1-8B", "nobody/none", "", "$(MODEL)", "ibm-granite/granite-4.0-hub", "o/slimambaz"]
)
def test_what_is_known_and_what_nothing_is_known_of_is_not_refused(name: str) -> None:
    assert refusal(name) == ""


def test_a_folder_or_file_that_has_no_shape_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for text, why in (
        ('{"model_type": "mamba"}', "model is Mamba: a state-space model"),
        ('{"model_type": "brand_new"}', "model_type = 'brand_new'"),
        ("{", "config.json is no JSON object"),
    ):
        (folder / "config.json").write_text(text)
        assert find(str(folder)) is None
        assert why in refusal(str(folder))
    file = tmp_path / "random.gguf"
    file.write_bytes(bytes(range(256)))
    assert find(str(file)) is None
    assert str(file) in refusal(str(file))
