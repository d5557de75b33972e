"""The table of well-known models: each config gives the number of parameters that its publisher states."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest
from tests.workload.shapes.against_transformers import sizes_by_module

from ironloom.catalog.models import PublishedConfig, published_config, published_configs
from ironloom.plan.weights import checkpoint_bytes
from ironloom.workload.shapes.config import shape_of_config
from ironloom.workload.shapes.model import ModelShape

PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Meta-Llama-3-70B-Instruct": 70_553_706_496,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.1-70B-Instruct": 70_553_706_496,
    "meta-llama/Llama-3.1-405B": 405_853_388_800,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B-Instruct": 3_212_749_824,
    "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "codellama/CodeLlama-7b-hf": 6_738_546_688,
    "codellama/CodeLlama-34b-hf": 33_743_970_304,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "tiiuae/Falcon3-7B-Base": 7_455_550_464,
    "tiiuae/Falcon3-10B-Base": 10_305_653_760,
    "mistralai/Mistral-7B-Instruct-v0.2": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "mistralai/Mistral-Nemo-Instruct-2407": 12_247_782_400,
    "mistralai/Mistral-Small-24B-Instruct-2501": 23_572_403_200,
    "mistralai/Mistral-Large-Instruct-2407": 122_610_069_504,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "mistralai/Mixtral-8x22B-v0.1": 140_620_634_112,
    "mistralai/Mixtral-8x22B-Instruct-v0.1": 140_630_071_296,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B-Instruct": 32_763_876_352,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "Qwen/Qwen3-Coder-480B-A35B-Instruct": 480_154_875_392,
    "google/gemma-2b": 2_506_172_416,
    "google/gemma-7b": 8_537_680_896,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b-it": 9_241_705_984,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-1b-it": 999_885_952,
    "google/gemma-3-4b-it": 4_300_079_472,
    "google/gemma-3-12b-it": 12_187_325_040,
    "google/gemma-3-27b-it": 27_432_406_640,
    "microsoft/phi-2": 2_779_683_840,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/phi-4": 14_659_507_200,
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
    "deepseek-ai/DeepSeek-V2-Lite": 15_706_484_224,
    "deepseek-ai/DeepSeek-V2": 235_741_434_880,
    "deepseek-ai/DeepSeek-V3": 671_026_419_200,
    "openai/gpt-oss-20b": 20_914_757_184,
    "openai/gpt-oss-120b": 116_829_156_672,
    "bigcode/starcoder2-3b": 3_030_371_328,
    "bigcode/starcoder2-7b": 7_173_923_840,
    "bigcode/starcoder2-15b": 15_957_889_024,
    "EleutherAI/pythia-6.9b": 6_857_302_016,
    "EleutherAI/pythia-12b": 11_846_072_320,
    "EleutherAI/gpt-neox-20b": 20_554_567_680,
    "allenai/OLMo-2-1124-7B": 7_298_617_344,
    "allenai/OLMo-2-1124-13B": 13_716_198_400,
    "facebook/opt-125m": 125_239_296,
    "openai-community/gpt2": 124_439_808,
}
"""As the hub counts the tensors of each model's safetensors (its model page, `safetensors.total`), embeddings that are
stored twice counted once. DeepSeek-V3 without the layer for multi-token prediction, which makes 14 billion more."""

FALCON = {"tiiuae/falcon-7b": 7_217_189_760, "tiiuae/falcon-180B": 179_522_565_120}
"""The same, with the tied head that these store a second time."""
PYTHIA = {"EleutherAI/pythia-1b": 805_736_448, "EleutherAI/pythia-2.8b": 2_517_652_480}
"""Without both embeddings, as the models' cards count (https://huggingface.co/EleutherAI/pythia-1b)."""
SAME_TENSORS = {
    "mistralai/Mistral-7B-v0.1": "mistralai/Mistral-7B-Instruct-v0.2",
    "Qwen/Qwen2.5-0.5B-Instruct": "Qwen/Qwen2.5-0.5B",
    "Qwen/Qwen2.5-1.5B": "Qwen/Qwen2.5-1.5B-Instruct",
    "Qwen/Qwen2.5-3B-Instruct": "Qwen/Qwen2.5-3B",
    "Qwen/Qwen2.5-7B": "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen2.5-14B-Instruct": "Qwen/Qwen2.5-14B",
    "Qwen/Qwen2.5-32B": "Qwen/Qwen2.5-32B-Instruct",
    "Qwen/Qwen2.5-72B": "Qwen/Qwen2.5-72B-Instruct",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen3-0.6B-Base": "Qwen/Qwen3-0.6B",
    "Qwen/Qwen3-1.7B-Base": "Qwen/Qwen3-1.7B",
    "Qwen/Qwen3-4B-Base": "Qwen/Qwen3-4B",
    "Qwen/Qwen3-8B-Base": "Qwen/Qwen3-8B",
    "Qwen/Qwen3-14B-Base": "Qwen/Qwen3-14B",
    "Qwen/Qwen3-32B-FP8": "Qwen/Qwen3-32B",
    "Qwen/Qwen3-4B-Instruct-2507": "Qwen/Qwen3-4B",
    "Qwen/Qwen3-30B-A3B-Instruct-2507": "Qwen/Qwen3-30B-A3B",
    "Qwen/Qwen3-30B-A3B-FP8": "Qwen/Qwen3-30B-A3B",
    "Qwen/Qwen3-235B-A22B-Instruct-2507": "Qwen/Qwen3-235B-A22B",
    "Qwen/Qwen3-235B-A22B-FP8": "Qwen/Qwen3-235B-A22B",
    "microsoft/Phi-3-mini-128k-instruct": "microsoft/Phi-3-mini-4k-instruct",
}
"""Configs of their own (another context, other positions, a quantization) with the tensors of a model that is held."""
NOT_HELD = {"codellama/CodeLlama-13b-hf", "moonshotai/Kimi-K2-Instruct", "tiiuae/falcon-40b"}
"""No published count that could be cited. docs/concepts/memory.md names them."""


def shape(name: str) -> ModelShape:
    found = published_config(name)
    assert found is not None, name
    return shape_of_config(found.config, name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_parameters_are_the_published_ones(name: str) -> None:
    assert shape(name).num_parameters == PUBLISHED[name]


def test_the_files_of_deepseek_have_the_layer_for_multi_token_prediction_and_its_memory_has_not() -> None:
    found = shape("deepseek-ai/DeepSeek-V3")
    ahead = sum(weight.num_parameters for weight in found.draft_weights)
    assert round(ahead / 1e9) == 13, "11.5 billion of its own, and copies of the embedding and the head"
    assert checkpoint_bytes(found) == pytest.approx(688_586_727_753, rel=1e-4), "total_size of the published index"
    assert shape("deepseek-ai/DeepSeek-V2-Lite").draft_weights == ()


@pytest.mark.parametrize("name", FALCON)
def test_falcon_stores_its_tied_head_a_second_time(name: str) -> None:
    found = shape(name)
    assert found.is_tied
    assert found.num_parameters + found.vocab_size * found.hidden_size == FALCON[name]


@pytest.mark.parametrize("name", PYTHIA)
def test_pythia_has_the_parameters_of_its_card_beside_its_embeddings(name: str) -> None:
    found = shape(name)
    assert not found.is_tied
    embedding = next(prod(size) for tensor, size in found.parameters() if "embed_in" in tensor)
    assert found.num_parameters - 2 * embedding == PYTHIA[name]


@pytest.mark.parametrize("name", SAME_TENSORS)
def test_a_sister_has_the_tensors_of_a_model_that_is_held(name: str) -> None:
    sister = SAME_TENSORS[name]
    assert sister in PUBLISHED
    assert sizes_by_module(shape(name).parameters()) == sizes_by_module(shape(sister).parameters())


def test_each_config_is_held_against_a_count_or_named_as_one_that_is_not() -> None:
    said = {**PUBLISHED, **FALCON, **PYTHIA, **SAME_TENSORS}
    free = [one.names[0] for one in published_configs() if not said.keys() & set(one.names)]
    assert set(free) == NOT_HELD
    text = (Path(__file__).parents[2] / "docs" / "concepts" / "memory.md").read_text()
    assert all(f"`{name}`" in text for name in NOT_HELD)
    assert len(published_configs()) == 100


@pytest.mark.parametrize("one", published_configs(), ids=lambda one: one.names[0])
def test_each_config_is_whole_and_says_where_it_was_read(one: PublishedConfig) -> None:
    assert one.source.startswith("https://")
    assert one.config["architectures"]
    made = shape_of_config(one.config, one.names[0])
    assert made.max_position or one.note


def test_no_two_configs_claim_a_name() -> None:
    names = [name.lower() for one in published_configs() for name in one.names]
    assert sorted(names) == sorted(set(names))


def test_a_copy_of_another_owner_is_known_by_the_name_alone() -> None:
    copy, original = (
        published_config("NousResearch/Meta-Llama-3-8B-Instruct"),
        published_config("meta-llama/meta-llama-3-8b-instruct"),
    )
    assert copy is original is not None
    assert published_config("someone/else") is None


def test_the_active_parameters_of_a_mixture_are_those_of_the_experts_that_a_token_meets() -> None:
    assert shape("Qwen/Qwen3-30B-A3B").num_active_parameters == pytest.approx(3.35e9, rel=0.01)
    assert shape("deepseek-ai/DeepSeek-V3").num_active_parameters == pytest.approx(37.5e9, rel=0.02)
    assert shape("mistralai/Mixtral-8x7B-v0.1").num_active_parameters == pytest.approx(12.9e9, rel=0.01)
