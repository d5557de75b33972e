"""From a request's JSON to what it asks for. What is unknown or cannot be honoured gets 400 and its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ironloom.serve.engines.programs.fields import Fields, invalid, unsupported
from ironloom.serve.engines.programs.generation import Grammar, Sampling
from ironloom.serve.engines.programs.grammars import call_grammar, read_grammar
from ironloom.serve.engines.programs.messages import read_messages, read_tools
from ironloom.serve.engines.programs.sampling_defaults import NEUTRAL, SamplingDefaults, read_sampling

MAX_N = 128
MAX_STOPS = 16
_MANY = 2**31 - 1

_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "logit_bias": (({},), "single tokens' odds cannot be changed"),
    "bad_words": (([],), "single tokens' odds cannot be changed"),
    "allowed_token_ids": ((), "single tokens' odds cannot be changed"),
    "use_beam_search": ((False,), "there is no beam search"),
    "length_penalty": ((1, 1.0), "it belongs to beam search, which is not there"),
    "early_stopping": ((False,), "it belongs to beam search, which is not there"),
    "prompt_logprobs": ((), "the prompt's log probabilities are not computed"),
    "spaces_between_special_tokens": ((True,), "text is decoded as the tokenizer says"),
    "priority": ((0,), "requests are served in the order of their arrival"),
    "cache_salt": ((), "the prefix cache is shared"),
    "store": ((False,), "nothing is stored"),
    "service_tier": (("auto", "default"), "there is one tier"),
    "return_token_ids": ((False,), "token ids are not returned"),
    "kv_transfer_params": ((), "there is no transfer of caches"),
    "vllm_xargs": (({},), "there are no extensions"),
    "reasoning_effort": ((), "pass what the chat template reads in chat_template_kwargs"),
    "verbosity": ((), "the model has no such setting"),
    "modalities": ((["text"],), "this engine reads and writes text"),
    "audio": ((), "this engine reads and writes text"),
    "prediction": ((), "predicted outputs are not used"),
    "web_search_options": ((), "there is no web search"),
    "functions": (([],), "use tools"),
    "function_call": (("none",), "use tool_choice"),
    "documents": (([],), "put them into the messages"),
    "chat_template": ((), "the model's own chat template is used; start the engine with --chat-template"),
    "media_io_kwargs": (({},), "this engine reads and writes text"),
    "mm_processor_kwargs": (({},), "this engine reads and writes text"),
    "echo": ((False,), "it belongs to /v1/completions; see continue_final_message"),
    "suffix": (("",), "text cannot be inserted"),
    "prompt_embeds": ((), "prompts are texts or token ids"),
}
"""Known parameters that are refused: the values that ask nothing, and why the others are refused."""

ASKS_NOTHING = ("user", "metadata", "safety_identifier", "prompt_cache_key", "request_id", "include_reasoning")
"""Read and passed over: they ask nothing of the engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRequest:
    """What chat and completions have in common."""

    model: str
    stream: bool
    include_usage: bool
    continuous_usage: bool
    n: int
    max_tokens: int | None
    """None: chat fills the context."""
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    seed: int | None
    stop: tuple[str, ...]
    include_stop: bool
    stop_token_ids: frozenset[int]
    ignore_eos: bool
    skip_special_tokens: bool
    logprobs: bool
    top_logprobs: int
    """Alternatives wanted a token."""
    tokens_as_ids: bool
    truncate_prompt_tokens: int | None
    grammar: Grammar | None

    def sampling(self, max_tokens: int, index: int) -> Sampling:
        """For the index-th of the n sequences; a seed counts up with them, as vLLM's does."""
        return Sampling(
            max_tokens=max_tokens,
            min_tokens=self.min_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            seed=None if self.seed is None else self.seed + index,
            stop_token_ids=self.stop_token_ids,
            ignore_eos=self.ignore_eos,
            logprobs=self.logprobs,
            num_top_logprobs=self.top_logprobs,
            grammar=self.grammar,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatRequest(TextRequest):
    """/v1/chat/completions."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    """Shown to the model; empty under tool_choice none."""
    tool_choice: str
    """none, auto, required, or named."""
    tool_name: str
    """The function, where tool_choice is named."""
    parallel_tool_calls: bool
    add_generation_prompt: bool
    continue_final_message: bool
    add_special_tokens: bool
    template_variables: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionRequest(TextRequest):
    """/v1/completions."""

    prompts: list[str | list[int]]
    echo: bool
    add_special_tokens: bool


def read_chat(body: Mapping[str, Any], *, max_logprobs: int, defaults: SamplingDefaults = NEUTRAL) -> ChatRequest:
    """`defaults` is the sampling where it says nothing. Raises RequestError (400) with the parameter's name."""
    fields = Fields(body)
    messages = read_messages(fields.take("messages"))
    tools = read_tools(fields.take("tools"))
    parallel = fields.flag("parallel_tool_calls", True)
    choice, name = _tool_choice(fields, tools)
    wants_logprobs = fields.flag("logprobs", False)
    top = fields.integer("top_logprobs", 0, 0, _MANY) or 0
    if top and not wants_logprobs:
        raise invalid("top_logprobs", "top_logprobs asks for logprobs: true as well")
    template_variables = fields.mapping("chat_template_kwargs")
    continue_final = fields.flag("continue_final_message", False)
    add_prompt = fields.flag("add_generation_prompt", not continue_final)
    if continue_final and add_prompt:
        raise invalid("continue_final_message", "continue_final_message asks for add_generation_prompt: false")
    max_tokens = fields.integer("max_completion_tokens", None, 1, _MANY)
    older = fields.integer("max_tokens", None, 1, _MANY)
    max_tokens = older if max_tokens is None else max_tokens
    common = _common(
        fields, defaults, max_tokens=max_tokens, max_logprobs=max_logprobs, top=top, top_param="top_logprobs"
    )
    if choice in {"required", "named"}:
        if common["grammar"] is not None:
            raise invalid("tool_choice", f"tool_choice and {common['grammar'].param} both say what the output must be")
        common["grammar"] = call_grammar(tools, name or None, parallel=parallel)
    elif common["grammar"] is not None and tools and choice == "auto":
        message = f"with {common['grammar'].param} the model cannot call tools; send tool_choice: none"
        raise invalid(common["grammar"].param, message)
    request = ChatRequest(
        messages=messages,
        tools=[] if choice == "none" else tools,
        tool_choice=choice,
        tool_name=name,
        parallel_tool_calls=parallel,
        add_generation_prompt=add_prompt,
        continue_final_message=continue_final,
        add_special_tokens=fields.flag("add_special_tokens", False),
        template_variables=template_variables,
        logprobs=wants_logprobs,
        top_logprobs=top,
        **common,
    )
    fields.end(_REFUSED)
    return request


def read_completion(
    body: Mapping[str, Any], *, max_logprobs: int, defaults: SamplingDefaults = NEUTRAL
) -> CompletionRequest:
    """`defaults` is the sampling where it says nothing. Raises RequestError (400) with the parameter's name."""
    fields = Fields(body)
    prompts = _prompts(fields.take("prompt"))
    logprobs = fields.integer("logprobs", None, 0, _MANY)
    best_of = fields.integer("best_of", None, 1, MAX_N)
    max_tokens = fields.integer("max_tokens", 16, 1, _MANY)
    common = _common(
        fields, defaults, max_tokens=max_tokens, max_logprobs=max_logprobs, top=logprobs or 0, top_param="logprobs"
    )
    if best_of is not None and best_of != common["n"]:
        raise unsupported("best_of", "as many choices are made as n asks for")
    echo = fields.flag("echo", False)
    if echo and logprobs is not None:
        raise unsupported("logprobs", "with echo it asks for the prompt's log probabilities, which are not computed")
    request = CompletionRequest(
        prompts=prompts,
        echo=echo,
        add_special_tokens=fields.flag("add_special_tokens", True),
        logprobs=logprobs is not None,
        top_logprobs=logprobs or 0,
        **common,
    )
    fields.end(_REFUSED)
    return request


def _common(
    fields: Fields,
    defaults: SamplingDefaults,
    *,
    max_tokens: int | None,
    max_logprobs: int,
    top: int,
    top_param: str,
) -> dict[str, Any]:
    stream = fields.flag("stream", False)
    options = fields.mapping("stream_options")
    if options and not stream:
        raise invalid("stream_options", "stream_options asks for stream: true")
    for name, value in options.items():
        if name not in {"include_usage", "continuous_usage_stats", "include_obfuscation"}:
            raise invalid(
                f"stream_options.{name}", f"unknown parameter: stream_options.{name}", code="unknown_parameter"
            )
        if not isinstance(value, bool):
            raise invalid(f"stream_options.{name}", f"stream_options.{name} is {value!r}; it must be true or false")
    sampling = read_sampling(fields, defaults)
    n = fields.integer("n", 1, 1, MAX_N) or 1
    if n > 1 and sampling["temperature"] == 0.0:
        raise invalid("n", "n must be 1 when temperature is 0: all choices would be the same")
    grammar = read_grammar(fields)
    penalties = (sampling["presence_penalty"], sampling["frequency_penalty"], sampling["repetition_penalty"])
    plain = sampling["temperature"] == 0.0 and penalties == (0.0, 0.0, 1.0) and grammar is None
    allowed = max(max_logprobs, 1 if plain else 0)
    if top > allowed:
        why = (
            f"{top} alternatives a token were asked for, and this engine tells the chosen token's log probability only"
            if max_logprobs == 0
            else f"{top} alternatives a token were asked for, and this engine tells at most {max_logprobs}"
        )
        raise unsupported(top_param, why)
    min_tokens = fields.integer("min_tokens", 0, 0, _MANY) or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise invalid("min_tokens", f"min_tokens is {min_tokens}, more than max_tokens, {max_tokens}")
    stop_token_ids = fields.take("stop_token_ids", [])
    if not isinstance(stop_token_ids, list) or not all(type(i) is int and i >= 0 for i in stop_token_ids):
        raise invalid("stop_token_ids", "stop_token_ids must be a list of token ids")
    common = {
        "model": fields.text("model", ""),
        "stream": stream,
        "include_usage": options.get("include_usage", False),
        "continuous_usage": options.get("continuous_usage_stats", False),
        "n": n,
        "max_tokens": max_tokens,
        "min_tokens": min_tokens,
        **sampling,
        "seed": fields.integer("seed", None, -(2**63), 2**63 - 1),
        "stop": fields.texts("stop", MAX_STOPS),
        "include_stop": fields.flag("include_stop_str_in_output", False),
        "stop_token_ids": frozenset(stop_token_ids),
        "ignore_eos": fields.flag("ignore_eos", False),
        "skip_special_tokens": fields.flag("skip_special_tokens", True),
        "tokens_as_ids": fields.flag("return_tokens_as_token_ids", False),
        "truncate_prompt_tokens": fields.integer("truncate_prompt_tokens", None, 1, _MANY),
        "grammar": grammar,
    }
    fields.ignore(*ASKS_NOTHING)
    return common


def _prompts(value: Any) -> list[str | list[int]]:
    def is_ids(item: Any) -> bool:
        return isinstance(item, list) and bool(item) and all(type(i) is int and i >= 0 for i in item)

    if isinstance(value, str):
        return [value]
    if is_ids(value):
        return [value]
    if isinstance(value, list) and value and all(isinstance(item, str) or is_ids(item) for item in value):
        return value
    raise invalid("prompt", "prompt must be a text, a list of texts, a list of token ids or a list of such lists")


def _tool_choice(fields: Fields, tools: list[dict[str, Any]]) -> tuple[str, str]:
    choice = fields.take("tool_choice", "auto" if tools else "none")
    if choice in ("none", "auto", "required"):
        if choice != "none" and not tools:
            raise invalid("tool_choice", f"tool_choice is {choice!r}, and there are no tools")
        return choice, ""
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise invalid("tool_choice", "tool_choice must be none, auto, required or {type: function, function: {name}}")
    return "named", name
