"""From a request to token ids that fit the context."""

from __future__ import annotations

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.fields import invalid
from ironloom.serve.engines.programs.generation import Generator
from ironloom.serve.engines.programs.params import ChatRequest, CompletionRequest, TextRequest
from ironloom.serve.engines.programs.sampling_defaults import NEUTRAL, SamplingDefaults
from ironloom.serve.engines.programs.templates import ChatTemplate


def chat_prompt(request: ChatRequest, template: ChatTemplate | None, generator: Generator) -> tuple[str, list[int]]:
    """The rendered conversation and its token ids. Raises RequestError (400)."""
    if template is None:
        message = "this model has no chat template; use /v1/completions, or start the engine with --chat-template FILE"
        raise invalid("messages", message, code="no_chat_template")
    text = template.render(
        request.messages,
        tools=request.tools or None,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        variables=request.template_variables,
    )
    return text, truncated(generator.encode(text, add_special_tokens=request.add_special_tokens), request)


def completion_prompt(request: CompletionRequest, prompt: str | list[int], generator: Generator) -> list[int]:
    """One prompt's token ids. Raises RequestError (400)."""
    if isinstance(prompt, str):
        ids = generator.encode(prompt, add_special_tokens=request.add_special_tokens)
    else:
        ids = prompt
        try:
            generator.token_bytes(max(ids))
        except IndexError:
            raise invalid("prompt", f"the token id {max(ids)} is not in the model's vocabulary") from None
    return truncated(ids, request)


def truncated(ids: list[int], request: TextRequest) -> list[int]:
    """The last truncate_prompt_tokens of them, where that was asked for."""
    limit = request.truncate_prompt_tokens
    return ids if limit is None else ids[-limit:]


def fit(
    request: TextRequest,
    num_prompt_tokens: int,
    max_model_len: int,
    *,
    param: str,
    defaults: SamplingDefaults = NEUTRAL,
) -> int:
    """max_tokens for this prompt. Raises RequestError (400) with the real numbers when it does not fit."""
    if num_prompt_tokens == 0:
        raise invalid(param, f"{param} is empty: there is no token to begin with")
    room = max_model_len - num_prompt_tokens
    wanted = request.max_tokens
    if room < 1 or (wanted is not None and wanted > room):
        asked = (
            f"{num_prompt_tokens + (wanted or 1)} tokens ({num_prompt_tokens} in the prompt, {wanted or 1} to generate)"
        )
        raise RequestError(
            400,
            f"this model's context length is {max_model_len} tokens; the request asks for {asked}",
            param=param if room < 1 else "max_tokens",
            code="context_length_exceeded",
            hint="shorten the prompt, or ask for fewer tokens",
        )
    most = defaults.max_tokens if wanted is None else wanted
    found = min(limit for limit in (room, most, defaults.limit_tokens) if limit is not None)
    if request.min_tokens > found:
        raise invalid("min_tokens", f"min_tokens is {request.min_tokens}; there is room for {found}")
    return found
