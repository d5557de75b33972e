"""From a request to token ids that fit the context."""

from __future__ import annotations

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.fields import invalid
from ironloom.serve.engines.programs.generation import Generator
from ironloom.serve.engines.programs.params import ChatRequest, TextRequest
from ironloom.serve.engines.programs.sampling_defaults import NEUTRAL, SamplingDefaults
from ironloom.serve.engines.programs.templates import ChatTemplate

LONG_CHARS = 65536
"""A text of more characters is tokenised aside: this many take some 10 ms, in which no stream gets a token."""
NORMALISED = 4
"""A tokenizer that normalises (NFC, NFKC) reads at least one byte of this many."""


def chat_text(request: ChatRequest, template: ChatTemplate | None) -> str:
    """The rendered conversation. Raises RequestError (400)."""
    if template is None:
        message = "this model has no chat template; use /v1/completions, or start the engine with --chat-template FILE"
        raise invalid("messages", message, code="no_chat_template")
    return template.render(
        request.messages,
        tools=request.tools or None,
        add_generation_prompt=request.add_generation_prompt,
        continue_final_message=request.continue_final_message,
        variables=request.template_variables,
    )


def check_ids(ids: list[int], generator: Generator) -> None:
    """Raises RequestError (400) for an id that is no token's."""
    try:
        generator.token_bytes(max(ids))
    except IndexError:
        raise invalid("prompt", f"the token id {max(ids)} is not in the model's vocabulary") from None


def least_tokens(text: str, max_token_bytes: int) -> int:
    """The text has no fewer tokens than this; 0 where a token can take in any number of bytes.

    White space is not counted: a special token may take in all that stands beside it.
    """
    if not max_token_bytes:
        return 0
    num_bytes = len(text.encode("utf-8", "replace")) - sum(map(text.count, " \t\n\r"))
    return -(-num_bytes // (max_token_bytes * NORMALISED))


def check_least(text: str, max_token_bytes: int, max_model_len: int, *, param: str) -> None:
    """Raises RequestError (400) for a text that is too long by its bytes alone, so that nobody counts its tokens."""
    least = least_tokens(text, max_token_bytes)
    if least > max_model_len:
        raise RequestError(
            400,
            f"this model's context length is {max_model_len} tokens; the {param} here, {len(text)} characters, has at "
            f"least {least}, as no token stands for more than {max_token_bytes} bytes",
            param=param,
            code="context_length_exceeded",
            hint="shorten the prompt",
        )


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
