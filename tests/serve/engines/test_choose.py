"""Which engine is taken, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ironloom.errors import UsageError
from ironloom.fleet.node import Gpu, Node
from ironloom.serve.engines import ENGINES, engine, engines
from ironloom.serve.engines.base import Conversion, Launch, LaunchOrder, LocalModel, ModelFormat, Refusal
from ironloom.serve.engines.choose import Chosen, NoEngine, choose
from ironloom.workload.serving import Serving

CPU = Node(name="laptop", num_cpus=8, memory_bytes=32 << 30, available_memory_bytes=16 << 30)
GPU = replace(CPU, gpus=(Gpu(index=0, uuid="GPU-0", name="H100", memory_bytes=80 << 30, free_memory_bytes=80 << 30),))
MODEL = LocalModel(uri="hf://a/b", path=Path("/m"), format=ModelFormat.GGUF, architecture="llama")


@dataclass
class Stand:
    """An engine with an opinion."""

    name: str
    why_not: str | None = None
    what_is_missing: str | None = None
    parks: bool = True

    def missing(self) -> str | None:
        return self.what_is_missing

    def refuses(self, model: LocalModel, serving: Serving, node: Node) -> str | None:
        return self.why_not

    def conversion(self, model: LocalModel, cache_dir: Path) -> Conversion | None:
        return None

    def launch(self, order: LaunchOrder) -> Launch:
        raise AssertionError


def pick(*engines: Stand, node: Node = CPU, runtime: str | None = None) -> Chosen | NoEngine:
    return choose(MODEL, Serving(name="s", kind="InferenceService", runtime=runtime), node, engines)


ALL = (Stand("openvino"), Stand("llamacpp"), Stand("transformers"), Stand("vllm"))


def test_openvino_is_first_without_a_gpu_and_vllm_with_one() -> None:
    assert pick(*ALL).reason == "openvino, the first choice on a machine without a GPU"
    assert pick(*ALL, node=GPU).reason == "vllm, the first choice on a machine with a GPU"


def test_the_order_of_the_registry_does_not_matter() -> None:
    assert pick(*reversed(ALL)) == pick(*ALL)


def test_an_engine_that_cannot_is_passed_over_with_its_reason() -> None:
    chosen = pick(Stand("openvino", why_not="it reads GGUF of llama, qwen2, qwen3"), Stand("llamacpp"))
    assert isinstance(chosen, Chosen)
    assert chosen.engine.name == "llamacpp"
    assert chosen.reason == "llamacpp, since openvino cannot: it reads GGUF of llama, qwen2, qwen3"
    assert chosen.passed_over == (("openvino", "it reads GGUF of llama, qwen2, qwen3"),)


def test_an_engine_that_is_not_installed_is_passed_over() -> None:
    chosen = pick(Stand("openvino", what_is_missing="openvino-genai is not installed"), Stand("llamacpp"))
    assert "openvino-genai is not installed" in chosen.reason


def test_what_no_installation_would_change_is_said_first() -> None:
    found = pick(Stand("openvino", why_not="it cannot read it", what_is_missing="not installed"))
    assert isinstance(found, NoEngine)
    assert found.refused == (("openvino", "it cannot read it"),)


def test_no_engine_tells_the_reason_of_each() -> None:
    found = pick(Stand("openvino", why_not="a"), Stand("llamacpp", what_is_missing="b"), node=GPU)
    assert isinstance(found, NoEngine)
    assert found.reason == "no engine here can run hf://a/b: openvino: a; llamacpp: b"
    assert found.error().message == found.reason


def test_the_hint_is_that_of_the_engine_that_refuses() -> None:
    refusal = Refusal("it knows no argument --dytpe", "did you mean --dtype?")
    for found in (
        pick(Stand("openvino", why_not=refusal), Stand("llamacpp", why_not="another")),
        pick(Stand("openvino", why_not="another"), Stand("llamacpp", why_not=refusal)),
        pick(Stand("vllm", why_not=refusal), runtime="vllm"),
    ):
        assert isinstance(found, NoEngine)
        assert found.error().hint == "did you mean --dtype?"
        assert "it knows no argument --dytpe" in found.reason
    without = pick(Stand("openvino", why_not="a", what_is_missing="b"))
    assert isinstance(without, NoEngine)
    assert without.hint.startswith("install one: ")


@pytest.mark.parametrize("name", ["openvino", "llamacpp", "transformers"])
def test_an_argument_that_an_engine_does_not_know_is_refused_with_the_name_that_was_meant(name: str) -> None:
    model = replace(MODEL, format=ModelFormat.SAFETENSORS) if name == "transformers" else MODEL
    serving = Serving(name="s", kind="InferenceService", engine_args=("--max-nmu-seqs", "2"))
    refused = engine(name).refuses(model, serving, CPU)
    assert isinstance(refused, Refusal)
    assert refused.hint == "did you mean --max-num-seqs?"


def test_an_engine_asked_for_by_name_is_taken_or_nothing_is() -> None:
    assert pick(*ALL, runtime="transformers").reason == "transformers, as the manifest asks"
    found = pick(Stand("vllm", what_is_missing="vLLM is not installed"), *ALL[:3], runtime="vllm")
    assert isinstance(found, NoEngine)
    assert "vllm is asked for, and cannot run hf://a/b: vLLM is not installed" in found.reason


def test_an_engine_that_there_is_not() -> None:
    found = pick(*ALL, runtime="triton")
    assert isinstance(found, NoEngine)
    assert found.reason == 'the engine "triton" is asked for; there are openvino, llamacpp, transformers, vllm'


def test_engines_outside_the_order_are_taken_only_by_name() -> None:
    assert isinstance(pick(Stand("fake")), NoEngine)
    assert isinstance(pick(Stand("fake"), runtime="fake"), Chosen)


def test_the_registry_holds_each_engine_under_its_name() -> None:
    assert [found.name for found in engines()] == list(ENGINES)
    with pytest.raises(UsageError, match="triton"):
        engine("triton")
