"""The names and values of a server's arguments, checked before anything is applied."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.errors import ManifestError
from ironloom.workload.manifests import read_text, to_serving
from ironloom.workload.manifests.arguments import BadArguments, read_argument
from ironloom.workload.manifests.engine_args import Server, parse
from ironloom.workload.manifests.engine_options import Match, options_of, sources
from ironloom.workload.manifests.problems import each

VLLM = options_of("vllm")


def args(*words: str, server: Server = Server.VLLM) -> tuple[str, ...]:
    """What is left for the engine of a server's arguments."""
    return parse(words, server=server).args


def told(*words: str, server: Server = Server.VLLM) -> list[str]:
    """What is wrong with a server's arguments."""
    with pytest.raises(BadArguments) as caught:
        parse(words, server=server)
    return [problem.message for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (("--max_num_seqs", "8"), ("--max-num-seqs", "8")),
        (("--max-num-seqs=8",), ("--max-num-seqs", "8")),
        (("-tp", "2"), ("--tensor-parallel-size", "2")),
        (("-tp=2",), ("--tensor-parallel-size", "2")),
        (("-q", "fp8"), ("--quantization", "fp8")),
        (("-dp", "2"), ("--data-parallel-size", "2")),
        (("--no-enable-prefix-caching",), ("--no-enable-prefix-caching",)),
        (("--no_enforce_eager",), ("--no-enforce-eager",)),
        (("--compilation-config.mode", "3"), ("--compilation-config.mode", "3")),
        (("-cc.pass_config.fuse_norm=true",), ("--compilation-config.pass_config.fuse_norm", "true")),
        (("--override-generation-config.top_k=5",), ("--override-generation-config.top_k", "5")),
        (("-O3",), ("-O3",)),
        (("-O", "2"), ("-O2",)),
        (("-O=1",), ("-O1",)),
        (("--gpu-memory-util", "0.5"), ("--gpu-memory-utilization", "0.5")),
        (("--device-memory-utilization", "0.5"), ("--gpu-memory-utilization", "0.5")),
        (("--max-num-batched-tokens", "8k"), ("--max-num-batched-tokens", "8000")),
        (("--max-num-batched-tokens", "8K"), ("--max-num-batched-tokens", "8192")),
        (("--kv-cache-memory-bytes", "None"), ("--kv-cache-memory-bytes", "None")),
        (("--seed", "-1"), ("--seed", "-1")),
        (("--reasoning-parser=-odd",), ("--reasoning-parser=-odd",)),
        (("--enable-chunked-prefill=False",), ("--no-enable-chunked-prefill",)),
        (("--enable-prefix-caching", "true"), ("--enable-prefix-caching",)),
        (("--no-enable-prefix-caching=false",), ("--enable-prefix-caching",)),
        (("--disable-log-stats=false",), ()),
        (("--moe-backend", "Deep-GEMM"), ("--moe-backend", "Deep-GEMM")),
        (("--lora-modules", "a=/x", "b=/y"), ("--lora-modules", "a=/x", "b=/y")),
        (("--hf-token",), ("--hf-token",)),
        (("--limit-mm-per-prompt", "image=2"), ("--limit-mm-per-prompt", "image=2")),
        (("--limit-mm-per-prompt", '{"image": 2}'), ("--limit-mm-per-prompt", '{"image": 2}')),
        (("--swap-space", "4"), ("--swap-space", "4")),
        (("--task", "generate", "--disable-frontend-multiprocessing"),
         ("--task", "generate", "--disable-frontend-multiprocessing")),
        (("--threads", "2", "--precision=bf16", "--kv-cache-bytes", "1Gi"),
         ("--threads", "2", "--precision", "bf16", "--kv-cache-bytes", "1Gi")),
    ],
)  # fmt: skip
def test_what_vllm_takes_is_taken_under_its_full_name(words: tuple[str, ...], left: tuple[str, ...]) -> None:
    assert args("m/m", *words) == left


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--max-num-sesq", "8"), "there is no argument --max-num-sesq; did you mean --max-num-seqs?"),
        (("--max-modle-len", "8"), "there is no argument --max-modle-len; did you mean --max-model-len?"),
        (("--gpu_memory_utilisation=0.5",),
         "there is no argument --gpu-memory-utilisation; did you mean --gpu-memory-utilization?"),
        (("--no-enable-prefix-cashing",),
         "there is no argument --no-enable-prefix-cashing; did you mean --no-enable-prefix-caching?"),
        (("--utterly-unheard-of",), "there is no argument --utterly-unheard-of"),
        (("-zz", "1"), "there is no argument -zz"),
        (("--no-max-num-seqs",), "there is no argument --no-max-num-seqs; did you mean --max-num-seqs?"),
        (("--swap-spac", "4"), "there is no argument --swap-spac; did you mean --swap-space?"),
        (("--max-num-a", "8"), "--max-num-active-seqs"),
        (("--max-num", "8"), "the argument --max-num may be --max-num-active-seqs, --max-num-batched-tokens"),
        (("--dtype", "bflot16"), "--dtype = 'bflot16', must be one of auto, bfloat16, float, float16, float32, half"),
        (("--mamba-cache-dtype", "fp9"), "--mamba-cache-dtype = 'fp9', must be one of"),
        (("--max-num-seqs", "many"), "--max-num-seqs = 'many', must be a whole number"),
        (("--max-num-seqs", "8.5"), "--max-num-seqs = '8.5', must be a whole number"),
        (("--max-num-seqs=",), "--max-num-seqs = '', must be a whole number"),
        (("--gpu-memory-utilization", "90%"), "--gpu-memory-utilization = '90%', must be a number"),
        (("--max-num-batched-tokens", "8kk"), "--max-num-batched-tokens = '8kk', must be a whole number such as"),
        (("--max-num-batched-tokens", "1.5K"), "--max-num-batched-tokens = '1.5K', must be"),
        (("--max-lora-rank", "7"), "--max-lora-rank = '7', must be one of 1, 8, 16"),
        (("--speculative-config", "{a: 1}"), "--speculative-config = '{a: 1}', must be JSON"),
        (("--max-num-seqs",), "--max-num-seqs has no value"),
        (("--max-num-seqs", "--enforce-eager"), "--max-num-seqs has no value"),
        (("--lora-modules",), "--lora-modules has no value"),
        (("--compilation-config.mode",), "--compilation-config.mode has no value"),
        (("--enforce-eager=maybe",), "--enforce-eager takes no value, and has 'maybe'"),
        (("--dtype.x", "1"), "there is no argument --dtype.x: the value of --dtype has no parts"),
        (("-O",), "-O has no value"),
        (("--precision", "f8"), "--precision = 'f8', must be one of"),
    ],
)  # fmt: skip
def test_what_vllm_does_not_take_is_told(words: tuple[str, ...], message: str) -> None:
    if message == "--max-num-active-seqs":
        assert args("m/m", *words) == (message, "8")
    else:
        (problem,) = told("m/m", *words)
        assert problem.startswith(message)


def test_every_bad_argument_is_told_at_once() -> None:
    assert len(told("m/m", "--dtype", "x", "--nothing-such", "--port", "none", "--seed", "y")) == 4


@pytest.mark.parametrize(
    "words",
    [
        ("--model_id=a/b", "--max_length", "512", "--disable_lower_case", "--task", "text_generation"),
        ("--model_name=x", "--backend=triton", "--return_probabilities", "--enable_grpc=false"),
        ("--max-model-len=8192", "--dtype=bfloat16", "--tensor-parallel-size=2", "--enable-auto-tool-choice"),
        ("--enable_docs_url=True", "--max_asyncio_workers", "4", "--event-loop=uvloop"),
    ],
)
def test_the_hugging_face_server_takes_its_own_options_and_vllm_s(words: tuple[str, ...]) -> None:
    parse(words, server=Server.HUGGINGFACE)


def test_the_hugging_face_server_would_overlook_a_slip_and_ironloom_does_not() -> None:
    assert told("--model_id=a/b", "--max_modle_len=9", server=Server.HUGGINGFACE) == [
        "there is no argument --max-modle-len; did you mean --max-model-len?"
    ]
    assert told("--enable_docs_url=si", server=Server.HUGGINGFACE) == [
        "--enable-docs-url = 'si', must be true or false"
    ]


def test_an_option_of_one_server_is_none_of_the_other() -> None:
    assert told("m/m", "--enable-latency-logging=true")[0].startswith("there is no argument --enable-latency-logging")


MANIFEST = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: a
  annotations: {{{annotations}}}
spec:
  predictor:
    {implementation}
"""
SCRIPT = """\
containers:
    - name: v
      image: vllm/vllm-openai
      command: [sh, -c]
      args:
      - |
        # start
        exec vllm serve a/b \\
          --dtype auto --max-modle-len 9
"""


def problems(implementation: str, annotations: str = "") -> list[ManifestError]:
    """What is wrong with a manifest; each stands at file, line and column."""
    text = MANIFEST.format(implementation=implementation, annotations=annotations)
    with pytest.raises(ManifestError) as caught:
        to_serving(read_text(text, "a.yaml")[0])
    return list(each(caught.value))


def test_a_slip_in_a_list_stands_at_that_very_argument() -> None:
    (problem,) = problems(
        "model: {modelFormat: {name: huggingface}, storageUri: 'hf://a/b', args: [--seed, '1', --dytpe=half]}"
    )
    assert (problem.line, problem.column, problem.path) == (8, 91, "spec.predictor.model.args[2]")
    assert problem.message == "there is no argument --dytpe; did you mean --dtype?"
    assert problem.exit_status == 2


def test_a_slip_in_a_script_stands_at_its_word_and_line() -> None:
    (problem,) = problems(SCRIPT)
    assert (problem.line, problem.column) == (16, 24)
    assert problem.path == "spec.predictor.containers[0].args[0]"


def test_a_slip_in_a_variable_stands_at_the_variable() -> None:
    text = """\
apiVersion: serving.kserve.io/v1alpha2
kind: LLMInferenceService
metadata: {name: a}
spec:
  model: {uri: "hf://a/b"}
  template:
    containers:
    - name: main
      env:
      - name: VLLM_ADDITIONAL_ARGS
        value: "--seed 1 --dytpe half"
"""
    with pytest.raises(ManifestError) as caught:
        to_serving(read_text(text)[0])
    assert (caught.value.line, caught.value.column) == (11, 26)


def test_the_hint_says_how_an_option_of_a_newer_version_is_passed() -> None:
    model = "model: {modelFormat: {name: huggingface}, storageUri: 'hf://a/b', args: [--brand-new=1, --seed, '1']}"
    (problem,) = problems(model)
    assert problem.hint is not None
    assert "ironloom.dev/unchecked-args: --brand-new" in problem.hint
    text = MANIFEST.format(implementation=model, annotations='ironloom.dev/unchecked-args: "--brand_new"')
    assert to_serving(read_text(text)[0]).engine_args == ("--brand-new", "1", "--seed", "1")


def test_a_value_that_a_newer_version_has_is_passed_the_same_way() -> None:
    model = "model: {modelFormat: {name: huggingface}, storageUri: 'hf://a/b', args: [--kv-cache-dtype=fp2, --dtype=x]}"
    (problem,) = problems(model, annotations="ironloom.dev/unchecked-args: --kv-cache-dtype")
    assert problem.message.startswith("--dtype = 'x'")


@pytest.mark.parametrize("value", ["brand-new", '""', "--a; --b"])
def test_names_that_are_no_arguments_cannot_be_exempt(value: str) -> None:
    model = "model: {modelFormat: {name: huggingface}, storageUri: 'hf://a/b'}"
    (problem,) = problems(model, annotations=f"ironloom.dev/unchecked-args: {value}")
    assert "must be names that begin with -" in problem.message


def test_the_fake_engine_has_arguments_of_its_own() -> None:
    model = "model: {modelFormat: {name: huggingface}, storageUri: fake, args: [--token-delay-s, '0.1']}"
    text = MANIFEST.format(implementation=model, annotations="ironloom.dev/engine: fake")
    assert to_serving(read_text(text)[0]).engine_args == ("--token-delay-s", "0.1")


@given(st.lists(st.text(max_size=10) | st.sampled_from(sorted(VLLM.by_name)), min_size=1, max_size=6))
def test_no_argument_is_too_odd(words: list[str]) -> None:
    with contextlib.suppress(BadArguments):
        parse(words, server=Server.VLLM)


@given(st.sampled_from(sorted(VLLM.by_name)))
def test_every_name_of_the_table_is_itself_or_an_alias(name: str) -> None:
    found = VLLM.match(name)
    assert isinstance(found, Match)
    values = {0: [], 1: ["1"], "?": [], "+": ["1"]}[found.option.values]
    argument, position = read_argument([name, *values], 0, VLLM)
    assert position == 1 + len(values)
    assert argument.name in (found.option.name, f"--no-{found.option.name[2:]}", "-O")


def test_the_table_says_what_was_read_and_in_which_version() -> None:
    assert {command for command, _, _ in sources()} == {
        "vllm serve", "python -m huggingfaceserver", "python -m sglang.launch_server", "trtllm-serve"
    }  # fmt: skip
    assert [command for command, _, _ in sources("vllm", "huggingfaceserver")] == [
        "vllm serve", "python -m huggingfaceserver"
    ]  # fmt: skip
    assert all(version and source.startswith("https://") for _, version, source in sources())
    assert len(VLLM.by_name) > 400
