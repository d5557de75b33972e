"""The OpenVINO adapter: what it takes, what it refuses, and the command it makes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ironloom.errors import UsageError
from ironloom.fleet.node import Node
from ironloom.serve.engines.base import LaunchOrder, LocalModel, ModelFormat, Task
from ironloom.serve.engines.openvino import ENGINE
from ironloom.serve.engines.openvino_args import translate
from ironloom.serve.engines.programs import openvino_server
from ironloom.serve.engines.programs.model_facts import FILE, ModelFacts
from ironloom.serve.engines.programs.openvino_pipeline import (
    default_kv_cache_bytes,
    kv_bytes_per_token,
    kv_cache_tokens,
)
from ironloom.units import GIB, MIB
from ironloom.workload.serving import Resources, Serving

NODE = Node(name="n", num_cpus=2, memory_bytes=8 * GIB, available_memory_bytes=4 * GIB)
SERVING = Serving(name="s", kind="InferenceService")
SMOL = ModelFacts(context_length=8192, num_layers=30, num_kv_heads=3, head_dim=64)


@pytest.fixture
def gguf(tmp_path: Path) -> LocalModel:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    return LocalModel(uri="m.gguf", path=file, format=ModelFormat.GGUF, architecture="llama", size_bytes=98 * MIB)


def test_it_takes_a_llama_in_gguf(gguf: LocalModel) -> None:
    assert ENGINE.refuses(gguf, SERVING, NODE) is None


def test_it_refuses_with_the_reason(gguf: LocalModel) -> None:
    assert "gemma" in (ENGINE.refuses(replace(gguf, architecture="gemma"), SERVING, NODE) or "")
    assert "embedding" in (ENGINE.refuses(replace(gguf, task=Task.EMBED), SERVING, NODE) or "")
    small = Node(name="n", num_cpus=2, memory_bytes=GIB // 2, available_memory_bytes=GIB // 2)
    assert "512 MiB" in (ENGINE.refuses(replace(gguf, size_bytes=GIB), SERVING, small) or "")
    odd = replace(SERVING, engine_args=("--quantization", "awq"))
    assert "--quantization" in (ENGINE.refuses(gguf, odd, NODE) or "")
    arch = replace(NODE, architecture="riscv64")
    assert "riscv64" in (ENGINE.refuses(gguf, SERVING, arch) or "")


def test_a_gguf_is_converted_once(gguf: LocalModel, tmp_path: Path) -> None:
    conversion = ENGINE.conversion(gguf, tmp_path / "cache")
    assert conversion is not None
    assert conversion.module.endswith("convert_gguf")
    ENGINE.folder(gguf, tmp_path / "cache").mkdir(parents=True)
    conversion.result.mkdir(parents=True, exist_ok=True)
    assert ENGINE.conversion(gguf, tmp_path / "cache") is None


def test_openvinos_own_form_needs_no_conversion(gguf: LocalModel, tmp_path: Path) -> None:
    assert ENGINE.conversion(replace(gguf, format=ModelFormat.OPENVINO), tmp_path) is None


def test_the_command_is_one_that_the_server_reads(gguf: LocalModel, tmp_path: Path) -> None:
    serving = replace(SERVING, engine_args=("--max-num-seqs=8", "--dtype", "bfloat16", "--tensor-parallel-size", "2"))
    order = LaunchOrder(model=gguf, serving=serving, port=5, num_threads=2, cache_dir=tmp_path)
    launch = ENGINE.launch(order)
    options = openvino_server.parser().parse_args(list(launch.args))
    assert (options.served_name, options.port, options.threads) == ("s", 5, 2)
    assert (options.max_num_seqs, options.precision, options.task) == (8, "bf16", "generate")
    assert launch.ignored == ("--tensor-parallel-size 2",)
    assert launch.argv[1:] == ("-m", launch.module, *launch.args)


def test_max_model_len_comes_from_the_manifest_or_the_arguments(gguf: LocalModel, tmp_path: Path) -> None:
    for serving in (
        replace(SERVING, max_model_len=77),
        replace(SERVING, engine_args=("--max_model_len=77",), max_model_len=99),
    ):
        launch = ENGINE.launch(LaunchOrder(model=gguf, serving=serving, port=5, cache_dir=tmp_path))
        assert openvino_server.parser().parse_args(list(launch.args)).max_model_len == 77


def test_the_memory_that_a_replica_needs_has_its_kv_cache_in_it(gguf: LocalModel, tmp_path: Path) -> None:
    folder = ENGINE.folder(gguf, tmp_path)
    folder.mkdir(parents=True)
    (folder / FILE).write_text(json.dumps(SMOL.to_json()))

    def launched(**changes: Any) -> tuple[int, int]:
        order = LaunchOrder(model=gguf, serving=replace(SERVING, **changes), port=5, cache_dir=tmp_path)
        launch = ENGINE.launch(order)
        return launch.memory_bytes, openvino_server.parser().parse_args(list(launch.args)).kv_cache_bytes

    asked, cache = launched(engine_args=("--kv-cache-memory-bytes=1Gi",))
    assert (asked, cache) == (ENGINE.memory_bytes(gguf) + GIB, GIB)
    limited, smaller = launched(resources=Resources(memory_bytes=ENGINE.memory_bytes(gguf) + 100 * MIB))
    assert smaller <= 100 * MIB
    assert limited <= ENGINE.memory_bytes(gguf) + 100 * MIB


@pytest.mark.parametrize("length", [0, 9000])
def test_a_context_that_the_model_has_not_is_told_before_the_start(
    gguf: LocalModel, tmp_path: Path, length: int
) -> None:
    serving = replace(SERVING, max_model_len=length)
    order = LaunchOrder(model=replace(gguf, context_length=8192), serving=serving, port=5, cache_dir=tmp_path)
    with pytest.raises(UsageError, match="--max-model-len"):
        ENGINE.launch(order)


def test_vllms_arguments_are_taken_ignored_or_refused() -> None:
    translated = translate(
        ("--enable-prefix-caching", "--gpu-memory-utilization=0.9", "--enforce-eager", "--tool-call-parser", "hermes",
         "--no-enable-prefix-caching")
    )  # fmt: skip
    assert translated.args == ("--tool-call-parser", "hermes", "--no-enable-prefix-caching")
    assert translated.ignored == ("--gpu-memory-utilization 0.9", "--enforce-eager")
    for bad, why in (
        (("--lora-modules", "x"), "adapters"),
        (("--dtype", "half"), "half"),
        (("--max-model-len",), "no value"),
        (("--max-modl-len", "5"), "knows no argument"),
    ):
        with pytest.raises(UsageError, match=why):
            translate(bad)
    with pytest.raises(UsageError) as caught:
        translate(("--max-modl-len", "5"))
    assert caught.value.hint == "did you mean --max-model-len?"


def test_the_kv_cache_is_sized_from_the_models_shape() -> None:
    assert kv_bytes_per_token(SMOL) == 13_680
    assert default_kv_cache_bytes(SMOL, 8192, 100 * GIB) == 32_768 * 13_680
    assert default_kv_cache_bytes(SMOL, 8192, GIB) == GIB // 4
    assert kv_cache_tokens(SMOL, 13_680 * 100) == 96
    assert kv_cache_tokens(ModelFacts(), GIB) == 0


def options(*arguments: str) -> object:
    return openvino_server.parser().parse_args(["--model", "m", "--served-name", "m", "--port", "1", *arguments])


def test_a_context_that_the_cache_cannot_hold_is_cut_or_refused() -> None:
    cut = openvino_server.settings_of(options("--kv-cache-bytes", "13680k"), SMOL)  # type: ignore[arg-type]
    assert cut.max_model_len == 992
    asked = options("--kv-cache-bytes", "13680k", "--max-model-len", "2000")
    with pytest.raises(ValueError, match=r"--max-model-len is 2000.*holds 992 tokens"):
        openvino_server.settings_of(asked, SMOL)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the model's context is 8192"):
        openvino_server.settings_of(options("--max-model-len", "9000"), SMOL)  # type: ignore[arg-type]
