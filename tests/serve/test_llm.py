"""LLM and SamplingParams: vLLM's names, in one process."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fakes.generator import ScriptedGenerator

import ironloom
from ironloom import LLM, SamplingParams
from ironloom.errors import UsageError
from ironloom.serve import llm as llm_module
from ironloom.serve import llm_process
from ironloom.serve.engines.base import LocalModel, ModelFormat
from ironloom.serve.engines.programs.generation import Finish
from ironloom.serve.llm_local import LocalRunner
from ironloom.serve.llm_types import token_logprobs

# The listing "offline batch inference with vLLM", with its import and its model changed.
LISTING = """
import ironloom as vllm
from ironloom import SamplingParams
# Configuration for an H100 with 80GB VRAM
# We use tensor_parallel_size=2 to split the model across two GPUs
llm = vllm.LLM(
    model="smollm2-135m-instruct",
    tensor_parallel_size=2,
    gpu_memory_utilization=0.90, # Leave 10% for system overhead
    max_model_len=4096,
    enforce_eager=True # Reduces overhead for static graph execution
)
sampling_params = SamplingParams(
    temperature=0.7,
    top_p=0.95,
    max_tokens=512,
    presence_penalty=1.1
)
# Batch processing multiple prompts simultaneously
prompts = [
    "Explain quantum entanglement in three sentences.",
    "Write a Python script to scrape a website.",
    "Summarize the benefits of bare-metal cloud."
]
outputs = llm.generate(prompts, sampling_params)
for output in outputs:
    print(f"Prompt: {output.prompt}")
    print(f"Generated: {output.outputs[0].text}")
"""


def test_the_listing_is_the_original_but_for_its_import_and_its_model() -> None:
    original = Path(__file__).parents[3] / "shared" / "data" / "article_listings" / "vllm_batch.py"
    if not original.is_file():
        pytest.skip("the original listing is not beside this repository")
    changed = original.read_text().replace("import vllm\n", "import ironloom as vllm\n", 1)
    changed = changed.replace("from vllm import", "from ironloom import")
    changed = changed.replace("meta-llama/Meta-Llama-3-70B-Instruct", "smollm2-135m-instruct")
    assert changed.split() == LISTING.split()


@pytest.mark.engine
@pytest.mark.slow
def test_a_listing_written_for_vllm_runs_with_its_import_and_model_changed() -> None:
    done = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Prompt: ") == 3
    assert done.stdout.count("Generated: ") == 3
    for argument in ("tensor_parallel_size=2", "gpu_memory_utilization=0.9", "enforce_eager"):
        assert done.stderr.count(f"{argument} means nothing to the openvino engine") == 1


@pytest.fixture(scope="module")
def real() -> Iterator[LLM]:
    with LLM("smollm2-135m-instruct", seed=1) as llm:
        yield llm


@pytest.mark.engine
@pytest.mark.slow
class TestWithTheDefaultModel:
    def test_chat(self, real: LLM) -> None:
        question = [{"role": "user", "content": "What is the capital of France?"}]
        output = real.chat(question, SamplingParams(temperature=0, max_tokens=24, logprobs=0))[0]
        answer = output.outputs[0]
        assert "Paris" in answer.text
        assert answer.finish_reason == "stop"
        assert answer.logprobs is not None
        assert len(answer.logprobs) == len(answer.token_ids)
        assert answer.cumulative_logprob == pytest.approx(
            sum(next(iter(entry.values())).logprob for entry in answer.logprobs)
        )

    def test_outputs_keep_the_prompts_order(self, real: LLM) -> None:
        prompts = [f"Number {n} is" for n in range(40)]
        outputs = real.generate(prompts, SamplingParams(max_tokens=4, temperature=0))
        assert [output.prompt for output in outputs] == prompts
        assert all(len(output.outputs[0].token_ids) == 4 for output in outputs)

    def test_structured_outputs(self, real: LLM) -> None:
        params = SamplingParams(max_tokens=40, structured_outputs={"regex": "(yes|no)"})
        assert real.generate("Is it?", params)[0].outputs[0].text in {"yes", "no"}

    def test_sleep_and_wake(self, real: LLM) -> None:
        params = SamplingParams(max_tokens=8, temperature=0)
        before = real.generate("Once upon a time", params)[0].outputs[0].text
        real.sleep()
        real.wake_up()
        assert real.generate("Once upon a time", params)[0].outputs[0].text == before


@pytest.fixture(scope="module")
def apart() -> Iterator[LLM]:
    """On an engine that runs in a process of its own."""
    with LLM("smollm2-135m-instruct", engine="llamacpp", max_model_len=64, max_num_seqs=2) as llm:
        yield llm


@pytest.mark.engine
@pytest.mark.slow
class TestWithAnEngineInAProcessOfItsOwn:
    def test_chat(self, apart: LLM) -> None:
        question = [{"role": "user", "content": "What is the capital of France?"}]
        output = apart.chat(question, SamplingParams(temperature=0, max_tokens=16))[0].outputs[0]
        assert "Paris" in output.text

    def test_log_probabilities_name_tokens_by_their_ids_and_rank_them(self, apart: LLM) -> None:
        params = SamplingParams(temperature=1.0, seed=3, max_tokens=6, logprobs=3)
        output = apart.generate("The sea is", params)[0].outputs[0]
        assert output.logprobs is not None
        assert len(output.logprobs) == len(output.token_ids) == 6
        for token_id, place in zip(output.token_ids, output.logprobs, strict=True):
            assert next(iter(place)) == token_id
            assert sorted(each.rank for each in place.values() if each.rank is not None) == [1, 2, 3]
        assert apart.decode(output.token_ids) == output.text

    def test_max_tokens_none_fills_the_context(self, apart: LLM) -> None:
        params = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True, logprobs=0)
        output = apart.generate("The sea is", params)[0]
        assert len(output.prompt_token_ids) + len(output.outputs[0].token_ids) == 64
        with pytest.raises(UsageError, match="context length is 64 tokens"):
            apart.generate([[1] * 64], params)

    def test_what_the_engine_cannot_honour_is_refused_by_name(self, apart: LLM) -> None:
        with pytest.raises(UsageError, match=r"logprobs is not supported here: 21 .* at most 20"):
            apart.generate("x", SamplingParams(logprobs=21))


class Scripted(ScriptedGenerator):
    """Says each prompt backwards, in steps of one token a sequence."""

    @property
    def has_work(self) -> bool:
        return any(s.sink is not None for s in self.sequences)

    def step(self) -> None:
        for sequence in self.sequences:
            if sequence.sink is not None:
                sink, sequence.sink = sequence.sink, None  # type: ignore[assignment]
                sink.tokens(list(reversed(sequence.prompt)), [-1.0] * len(sequence.prompt), Finish.LENGTH)


@pytest.fixture
def llm() -> LLM:
    """An LLM around a scripted generator."""
    made = LLM.__new__(LLM)
    runner = LocalRunner.__new__(LocalRunner)
    runner.generator = Scripted()  # type: ignore[assignment]
    runner.template = None
    made._runner, made._embedder, made._seed, made._num_requests = runner, None, None, 0
    made._defaults = {}
    made.model = SimpleNamespace(uri="x")  # type: ignore[assignment]
    return made


def test_the_public_names_are_loaded_at_first_use() -> None:
    assert ironloom.LLM is LLM
    assert ironloom.SamplingParams is SamplingParams


@pytest.mark.parametrize(
    ("prompts", "texts"),
    [
        ("abc", ["cba"]),
        (["abc", "xy"], ["cba", "yx"]),
        ([97, 98], ["ba"]),
        ([[97, 98], [99, 100]], ["ba", "dc"]),
        ({"prompt": "ab"}, ["ba"]),
        ([{"prompt_token_ids": [97, 98]}, "xy"], ["ba", "yx"]),
        ([], []),
    ],
)
def test_prompts_come_in_all_of_vllms_shapes(llm: LLM, prompts: Any, texts: list[str]) -> None:
    assert [output.outputs[0].text for output in llm.generate(prompts)] == texts


def test_n_gives_that_many_outputs_in_order(llm: LLM) -> None:
    outputs = llm.generate("ab", SamplingParams(n=3))[0].outputs
    assert [output.index for output in outputs] == [0, 1, 2]


def test_each_prompt_may_have_parameters_of_its_own(llm: LLM) -> None:
    first, second = SamplingParams(max_tokens=3), SamplingParams(max_tokens=5, stop=["x"])
    outputs = llm.generate(["ab", "axb"], [first, second])
    assert [output.outputs[0].text for output in outputs] == ["ba", "b"]
    assert outputs[1].outputs[0].stop_reason == "x"
    with pytest.raises(UsageError, match="2 prompts and 1 sampling_params"):
        llm.generate(["a", "b"], [first])


def test_max_tokens_none_fills_the_context(llm: LLM) -> None:
    llm.generate("abcd", SamplingParams(max_tokens=None))
    assert llm._runner.generator.sequences[-1].sampling.max_tokens == 96  # type: ignore[union-attr]


def test_an_llms_seed_counts_up_where_a_request_brings_none(llm: LLM) -> None:
    llm._seed = 10
    llm.generate(["a", "b"], SamplingParams())
    llm.generate("c", SamplingParams(seed=3))
    sequences = llm._runner.generator.sequences  # type: ignore[union-attr]
    assert [s.sampling.seed for s in sequences] == [10, 11, 3]


def test_the_most_probable_tokens_have_ranks_and_the_chosen_one_comes_first(llm: LLM) -> None:
    told = token_logprobs(7, -2.0, [(5, -0.1), (6, -1.0)], str)
    assert [(i, each.logprob, each.rank, each.decoded_token) for i, each in told.items()] == [
        (7, -2.0, None, "7"),
        (5, -0.1, 1, "5"),
        (6, -1.0, 2, "6"),
    ]
    assert token_logprobs(6, -1.0, [(5, -0.1), (6, -1.0)], str)[6].rank == 2


def test_an_engine_in_a_process_of_its_own_names_tokens_by_their_ids() -> None:
    told = {
        "tokens": ["token_id:7", "token_id:5"],
        "token_logprobs": [-2.0, -0.1],
        "top_logprobs": [{"token_id:5": -0.1, "token_id:7": -2.0}, {"token_id:5": -0.1}],
    }
    choice = {"index": 0, "text": "ab", "finish_reason": "length", "logprobs": told}
    runner = SimpleNamespace(encode=lambda *_, **__: [1], token_name=str)
    output = llm_process._output(choice, runner, 1)  # type: ignore[arg-type]
    assert (output.token_ids, output.cumulative_logprob) == ([7, 5], -2.1)
    assert output.logprobs is not None
    assert [{i: each.rank for i, each in place.items()} for place in output.logprobs] == [{7: None, 5: 1}, {5: 1}]


@pytest.mark.parametrize(
    ("params", "named"),
    [
        (SamplingParams(logit_bias={1: 2.0}), "logit_bias"),
        (SamplingParams(prompt_logprobs=1), "prompt_logprobs"),
        (SamplingParams(bad_words=["x"]), "bad_words"),
        (SamplingParams(logprobs=5), "logprobs"),
        (SamplingParams(temperature=-1), "temperature"),
        (SamplingParams(n=2, temperature=0), "n must be 1"),
        (SamplingParams(max_tokens=1000), "context length is 100"),
        (SamplingParams(structured_outputs={"yaml": "x"}), "structured_outputs.yaml"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name_before_anything_runs(
    llm: LLM, params: SamplingParams, named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        llm.generate(["a", "b"], params)
    assert llm._runner.generator.sequences == []  # type: ignore[union-attr]


def test_what_a_request_leaves_at_its_default_outranks_the_model_s_own_sampling() -> None:
    request = SamplingParams().to_request()
    assert request == {
        "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
        "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
    }  # fmt: skip


def test_without_sampling_params_the_model_s_own_are_taken(llm: LLM, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20, "max_new_tokens": 7}')
    model = LocalModel(uri="x", path=tmp_path, format=ModelFormat.SAFETENSORS, architecture="")
    llm._defaults = llm_module._sampling_defaults(("--override-generation-config", '{"top_k": 5}'), model)
    assert llm.get_default_sampling_params() == SamplingParams(temperature=0.6, top_k=5, max_tokens=7)
    llm.generate(["ab"])
    llm.generate(["ab"], SamplingParams(temperature=0.1))
    first, second = (s.sampling for s in llm._runner.generator.sequences)  # type: ignore[union-attr]
    assert (first.temperature, first.top_k, first.max_tokens) == (0.6, 5, 7)
    assert (second.temperature, second.top_k, second.max_tokens) == (0.1, 0, 16)
    assert llm_module._sampling_defaults(("--generation-config", "vllm"), model) == {}
    assert llm_module._sampling_defaults((), replace(model, format=ModelFormat.GGUF)) == {}
    with pytest.raises(UsageError, match="must be auto, vllm or a folder"):
        llm_module._sampling_defaults(("--generation-config", "/nowhere"), model)


def test_chat_without_a_template_says_so(llm: LLM) -> None:
    with pytest.raises(UsageError, match="no chat template"):
        llm.chat([{"role": "user", "content": "hi"}])


def test_arguments_become_vllms_command_line() -> None:
    given = {"tensor_parallel_size": 2, "enforce_eager": True, "max_model_len": None, "trust_remote_code": False}
    assert llm_module._as_arguments({**given, "enable_prefix_caching": False, "dtype": "bfloat16"}) == (
        "--tensor-parallel-size", "2", "--enforce-eager", "--no-enable-prefix-caching", "--dtype", "bfloat16",
    )  # fmt: skip
    assert llm_module._as_arguments({"override_generation_config": {"top_k": 5}}) == (
        "--override-generation-config",
        '{"top_k": 5}',
    )


def test_structured_outputs_are_read_from_an_object_too() -> None:
    params = SamplingParams(guided_decoding=SimpleNamespace(json={"type": "object"}, regex=None))
    assert params.to_request()["structured_outputs"] == {"json": {"type": "object"}}
    assert json.dumps(params.to_request())


def test_notes_go_to_stderr() -> None:
    err = io.StringIO()
    with redirect_stderr(err):
        llm_module._note("x is ignored")
    assert err.getvalue() == "ironloom: x is ignored\n"
