"""Arguments of engines in Python: code that is not pinned, names and values that the engine refuses."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from ironloom.check.finding import Confidence, Severity
from ironloom.check.rule import Context, Problem, Source, rule
from ironloom.check.scripts import at, line, replace, shown
from ironloom.workload.manifests.engine_options import earlier_names, options_of
from ironloom.workload.manifests.suggest import nearest
from ironloom.workload.scripts.model import Call, Script
from ironloom.workload.scripts.terms import SAMPLING

_VLLM = frozenset({"vllm.LLM", "vllm.EngineArgs", "vllm.AsyncEngineArgs"})
_SERVERS_OWN = frozenset(
    {"host", "port", "api_key", "uvicorn_log_level", "ssl_keyfile", "ssl_certfile", "root_path", "allowed_origins"}
)
"""Options of the server's HTTP side."""
_MEANT: Mapping[str, str] = {
    "model_path": "model", "model_name": "model", "model_id": "model", "tp": "tensor_parallel_size",
    "tp_size": "tensor_parallel_size", "num_gpus": "tensor_parallel_size", "device_map": "tensor_parallel_size",
    "pp": "pipeline_parallel_size", "dp": "data_parallel_size", "torch_dtype": "dtype", "max_length": "max_model_len",
    "max_seq_len": "max_model_len", "context_length": "max_model_len", "load_in_4bit": "quantization",
    "load_in_8bit": "quantization", "max_batch_size": "max_num_seqs", "mem_fraction_static": "gpu_memory_utilization",
}  # fmt: skip
"""Names of other libraries for the same thing."""
_SAMPLING_FIELDS = frozenset(
    {
        "n", "presence_penalty", "frequency_penalty", "repetition_penalty", "temperature", "top_p", "top_k", "min_p",
        "seed", "stop", "stop_token_ids", "ignore_eos", "max_tokens", "min_tokens", "logprobs", "prompt_logprobs",
        "prompt_logprob_token_ids", "prompt_logprob_start", "logprob_token_ids", "flat_logprobs", "detokenize",
        "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output", "output_kind",
        "stream_interval", "skip_clone", "output_text_buffer_length", "structured_outputs", "logit_bias",
        "allowed_token_ids", "extra_args", "bad_words", "skip_reading_prefix_cache", "thinking_token_budget",
        "repetition_detection", "routed_experts_prompt_start", "trace_decode_token_ids",
    }
)  # fmt: skip
_SAMPLING_GONE = frozenset(
    {
        "best_of", "use_beam_search", "length_penalty", "early_stopping", "guided_decoding", "truncate_prompt_tokens",
        "logits_processors", "_real_n",
    }
)  # fmt: skip
"""Fields that earlier versions had."""
_SAMPLING_MEANT: Mapping[str, str] = {
    "max_new_tokens": "max_tokens", "max_length": "max_tokens", "max_gen_len": "max_tokens",
    "min_new_tokens": "min_tokens",
    "do_sample": "temperature=0 for greedy", "num_return_sequences": "n", "num_beams": "LLM.beam_search",
    "eos_token_id": "stop_token_ids", "stop_sequences": "stop", "stop_strings": "stop", "random_seed": "seed",
}  # fmt: skip
_SAMPLING_SOURCE = Source(
    "https://github.com/vllm-project/vllm/blob/main/vllm/sampling_params.py", "the fields, and what each may be"
)
_LLM_SOURCE = Source("https://docs.vllm.ai/en/latest/configuration/engine_args.html", "the arguments that there are")
_MAX_NAMES = 400
"""Arguments of one call that are looked at; there are fewer to choose from."""
_NUMBER = (int, float)
Range = tuple[Callable[[Any], bool], str]
_SAMPLING_RANGES: Mapping[str, Range] = {
    "n": (lambda n: n >= 1, "at least 1"),
    "temperature": (lambda t: 0 <= t < math.inf, "0 or more"),
    "top_p": (lambda p: 0 < p <= 1, "above 0, at most 1"),
    "min_p": (lambda p: 0 <= p <= 1, "0 to 1"),
    "top_k": (lambda k: k >= -1, "0 or -1 for all, or at least 1"),
    "presence_penalty": (lambda p: -2 <= p <= 2, "-2 to 2"),
    "frequency_penalty": (lambda p: -2 <= p <= 2, "-2 to 2"),
    "repetition_penalty": (lambda p: p > 0, "above 0"),
    "max_tokens": (lambda n: n >= 1, "at least 1"),
    "min_tokens": (lambda n: n >= 0, "0 or more"),
}
_ENGINE_RANGES: Mapping[str, Range] = {
    "gpu_memory_utilization": (lambda u: 0 < u <= 1, "above 0, at most 1: a share of the GPU's memory"),
    "tensor_parallel_size": (lambda n: n >= 1, "at least 1"),
    "pipeline_parallel_size": (lambda n: n >= 1, "at least 1"),
    "data_parallel_size": (lambda n: n >= 1, "at least 1"),
    "max_model_len": (lambda n: n >= 1 or n == -1, "at least 1"),
    "max_num_seqs": (lambda n: n >= 1, "at least 1"),
    "swap_space": (lambda n: n >= 0, "0 or more GiB"),
    "cpu_offload_gb": (lambda n: n >= 0, "0 or more GiB"),
}


@cache
def _engine_names() -> frozenset[str]:
    options = options_of("vllm")
    names = {name.removeprefix("--").replace("-", "_") for name in options.by_name if name.startswith("--")}
    return frozenset(names)


@cache
def _engine_gone() -> Mapping[str, str]:
    """Arguments that earlier versions had, each with the last one."""
    return {name.removeprefix("--").replace("-", "_"): until for name, until in earlier_names("vllm").items()}


@rule(
    id="IL758",
    name="remote-code-unpinned",
    family="serving-script",
    severity=Severity.NOTE,
    subject=Script,
    summary="code from the hub, of whatever revision is newest",
    why="trust_remote_code=True runs Python that comes with the model, with the rights of the job. Without a revision "
    "it is whatever its owner, or who has the owner's account, pushed last. A commit's hash keeps it as it was looked "
    "at.",
    bad="""\
from vllm import LLM

llm = LLM(model="owner/model-with-code", trust_remote_code=True)
""",
    good="""\
from vllm import LLM

llm = LLM(
    model="owner/model-with-code",
    trust_remote_code=True,
    revision="7ae557604adf67be50417f59c2c2f167def9a775",
)
""",
    sources=(
        Source("https://huggingface.co/docs/transformers/main/en/models#custom-models", "pin a commit for remote code"),
        Source("https://docs.vllm.ai/en/latest/usage/security.html", "what vLLM says of untrusted models"),
    ),
)
def remote_code_unpinned(script: Script, _context: Context) -> Iterator[Problem]:
    for engine in script.serving.engines:
        arguments = engine.call.arguments
        if script.serving.number(engine, "trust_remote_code") is not True or not engine.is_on_hub or engine.is_default:
            continue
        if arguments.lacks("revision") and arguments.lacks("code_revision"):
            yield at(
                script,
                arguments.places["trust_remote_code"],
                f"the code that comes with {engine.model} runs here, of whatever revision is newest",
                path="trust_remote_code",
                help="give revision, a commit's hash; leave trust_remote_code out where the engine knows the model",
            )


@rule(
    id="IL760",
    name="engine-argument-unknown",
    family="serving-script",
    severity=Severity.ERROR,
    subject=Script,
    summary="an argument that the engine does not have",
    why="LLM() hands its arguments to EngineArgs, and SamplingParams is a record with fixed fields: a name that is "
    "none of theirs ends the script with a TypeError before the model is loaded. Names of transformers, such as "
    "max_new_tokens, are not those of vLLM.",
    bad="""\
from vllm import LLM, SamplingParams

llm = LLM(model="Qwen/Qwen2.5-7B", tensor_paralel_size=2)
params = SamplingParams(max_new_tokens=256)
""",
    good="""\
from vllm import LLM, SamplingParams

llm = LLM(model="Qwen/Qwen2.5-7B", tensor_parallel_size=2)
params = SamplingParams(max_tokens=256)
""",
    sources=(
        _LLM_SOURCE,
        _SAMPLING_SOURCE,
        Source("https://github.com/vllm-project/vllm/issues/9398", "unexpected keyword argument of EngineArgs"),
    ),
)
def engine_argument_unknown(script: Script, _context: Context) -> Iterator[Problem]:
    for engine in script.serving.engines:
        if engine.name not in _VLLM:
            continue
        for name, place in list(engine.call.arguments.places.items())[:_MAX_NAMES]:
            if name in _SERVERS_OWN:
                yield at(
                    script,
                    place,
                    f"{name} is an argument of the server, and {engine.name} has none of that name: a TypeError",
                    path=name,
                    help="`vllm serve` takes it",
                )
            elif name not in _engine_names() and not name.startswith("_"):
                meant = _MEANT.get(name) or nearest(name, _engine_names())
                yield _unknown(script, place, engine.name, name, meant, engine.call)
    for call in script.calls_of(SAMPLING[0]):
        if call.name != SAMPLING[0]:
            continue
        for name, place in call.arguments.places.items():
            if name not in _SAMPLING_FIELDS | _SAMPLING_GONE and not name.startswith("_"):
                meant = _SAMPLING_MEANT.get(name) or nearest(name, _SAMPLING_FIELDS)
                yield _unknown(script, place, "SamplingParams", name, meant, call)


def _unknown(script: Script, place: ast.AST, owner: str, name: str, meant: str | None, call: Call) -> Problem:
    patch = None
    if (
        meant is not None
        and meant.isidentifier()
        and isinstance(place, ast.keyword)
        and meant not in call.arguments.named
    ):
        value = script.source(place.value)
        patch = replace(script, place, f"{meant}={value}", f"write {meant}", is_safe=nearest(name, [meant]) is not None)
    return at(
        script,
        place,
        f"{owner} has no argument {name}: a TypeError",
        path=name,
        help=f"{meant} is its name for it" if meant else "the reference of vLLM's engine arguments lists them",
        patch=patch,
        confidence=Confidence.CERTAIN if meant else Confidence.LIKELY,
    )


@rule(
    id="IL761",
    name="engine-argument-gone",
    family="serving-script",
    severity=Severity.WARNING,
    subject=Script,
    summary="an argument that newer versions of the engine do not have",
    why="vLLM takes arguments out as its parts are replaced. A script that worked ends with a TypeError when its "
    "image moves to a newer version. The version that is named is the last one that had it.",
    bad="""\
from vllm import LLM

llm = LLM(model="Qwen/Qwen2.5-7B", num_scheduler_steps=8)
""",
    good="""\
from vllm import LLM

llm = LLM(model="Qwen/Qwen2.5-7B")
""",
    sources=(
        Source("https://github.com/vllm-project/vllm/issues/23283", "disable_log_requests, taken out"),
        Source("https://github.com/hiyouga/LlamaFactory/issues/5966", "use_beam_search, taken out of SamplingParams"),
    ),
)
def engine_argument_gone(script: Script, _context: Context) -> Iterator[Problem]:
    title = options_of("vllm").title.replace("`", "").replace("vllm serve", "vLLM")
    for engine in script.serving.engines:
        if engine.name not in _VLLM:
            continue
        for name, place in engine.call.arguments.places.items():
            until = _engine_gone().get(name)
            if until is not None:
                yield at(
                    script,
                    place,
                    f"{title} has no argument {name}: the last version that had it is {until}",
                    path=name,
                    help="take it out, or keep to that version",
                    confidence=Confidence.LIKELY,
                )
    for call in script.calls_of(SAMPLING[0]):
        for name, place in call.arguments.places.items():
            if call.name == SAMPLING[0] and name in _SAMPLING_GONE and not name.startswith("_"):
                yield at(
                    script,
                    place,
                    f"{title} has no field {name} in SamplingParams any more: a TypeError",
                    path=name,
                    help={
                        "use_beam_search": "call LLM.beam_search",
                        "guided_decoding": "structured_outputs takes its place",
                    }.get(name, "take it out, or keep to an older version"),
                    confidence=Confidence.LIKELY,
                )


@rule(
    id="IL762",
    name="engine-argument-value",
    family="serving-script",
    severity=Severity.ERROR,
    subject=Script,
    summary="a value that the engine refuses",
    why="The engine checks these numbers when it is made, and SamplingParams when it is written: a ValueError, before "
    "any token.",
    bad="""\
from vllm import LLM, SamplingParams

llm = LLM(model="Qwen/Qwen2.5-7B", gpu_memory_utilization=90)
""",
    good="""\
from vllm import LLM, SamplingParams

llm = LLM(model="Qwen/Qwen2.5-7B", gpu_memory_utilization=0.90)
""",
    sources=(
        _SAMPLING_SOURCE,
        Source(
            "https://github.com/vllm-project/vllm/blob/main/vllm/config/cache.py", "gpu_memory_utilization: gt 0, le 1"
        ),
    ),
)
def engine_argument_value(script: Script, _context: Context) -> Iterator[Problem]:
    for engine in script.serving.engines:
        if engine.name in _VLLM:
            yield from _out_of_range(script, engine.call, _ENGINE_RANGES)
            yield from _prompt_beyond_a_step(script, engine.call)
    for call in script.calls_of(*SAMPLING):
        if call.name not in SAMPLING:
            continue
        yield from _out_of_range(script, call, _SAMPLING_RANGES)
        n, temperature = (script.values.of(call.get(name)) for name in ("n", "temperature"))
        if type(n) is int and n > 1 and isinstance(temperature, _NUMBER) and temperature == 0:
            yield at(
                script,
                call.arguments.places["n"],
                f"n = {n} with temperature 0, must be 1: greedy answers are all the same",
                path="n",
                help="give a temperature above 0, or n=1",
            )
        most, least = (script.values.of(call.get(name)) for name in ("max_tokens", "min_tokens"))
        if type(most) is int and type(least) is int and least > most >= 1:
            yield at(
                script,
                call.arguments.places["min_tokens"],
                f"min_tokens = {least}, must be at most max_tokens, which is {most}",
                path="min_tokens",
            )


def _prompt_beyond_a_step(script: Script, call: Call) -> Iterator[Problem]:
    """Without chunked prefill a prompt goes into one step, whole.

    Source: https://github.com/vllm-project/vllm/blob/main/vllm/config/scheduler.py, verify_max_model_len.
    """
    names = ("enable_chunked_prefill", "max_num_batched_tokens", "max_model_len")
    is_chunked, tokens, length = (script.values.of(call.get(name)) for name in names)
    if is_chunked is False and type(tokens) is int and type(length) is int and 0 < tokens < length:
        yield at(
            script,
            call.arguments.places["max_num_batched_tokens"],
            f"max_num_batched_tokens = {tokens}, must be at least max_model_len, which is {length}: without chunked "
            "prefill a prompt goes into one step",
            path="max_num_batched_tokens",
            help=f"leave chunked prefill on, or set max_num_batched_tokens to {length}",
        )


def _out_of_range(script: Script, call: Call, ranges: Mapping[str, Range]) -> Iterator[Problem]:
    for name, (is_allowed, words) in ranges.items():
        node = call.arguments.named.get(name)
        value = script.values.of(node)
        if node is not None and type(value) in _NUMBER and not is_allowed(value):
            yield at(
                script,
                call.arguments.places[name],
                f"{name} = {value}, must be {words}",
                path=name,
                evidence=(f"{line(script, node)}: {shown(script, node)}",),
            )
