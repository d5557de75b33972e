"""SamplingParams and the outputs of LLM, with vLLM's names and defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

_SAMPLING = frozenset(
    {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"}
)


@dataclass(kw_only=True)
class SamplingParams:
    """How to choose tokens and when to stop. Names, defaults and meanings are vLLM's.

    What the engine cannot honour is refused by name when it is used.
    Source: https://docs.vllm.ai/en/stable/api/vllm/sampling_params.html
    """

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 and -1 are all tokens."""
    min_p: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    stop_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    """None fills the context."""
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    truncate_prompt_tokens: int | None = None
    logit_bias: Mapping[int, float] | None = None
    allowed_token_ids: Sequence[int] | None = None
    structured_outputs: Any = None
    """A mapping or an object with json, regex, choice, grammar or json_object, as vLLM's StructuredOutputsParams."""
    guided_decoding: Any = None
    """The older name of structured_outputs."""

    def to_request(self) -> dict[str, Any]:
        """As /v1/completions takes it. What is at its default is left out, but for the sampling: there a server's own
        defaults, the model's, would take its place."""
        body: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            is_said = value != each.default or each.name in _SAMPLING
            if value is None or not is_said or each.name in {"detokenize", "guided_decoding"}:
                continue
            body[each.name] = list(value) if isinstance(value, tuple | set | frozenset) else value
        structured = self.structured_outputs if self.structured_outputs is not None else self.guided_decoding
        if structured is not None:
            body["structured_outputs"] = _structured(structured)
        return body


def _structured(value: Any) -> dict[str, Any]:
    names = ("json", "regex", "choice", "grammar", "json_object")
    found = value if isinstance(value, Mapping) else {name: getattr(value, name, None) for name in names}
    return {name: item for name, item in found.items() if item is not None and item is not False}


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token's log probability under the model."""

    logprob: float
    rank: int | None = None
    """1 is the most probable; None where it is not among those that were asked for."""
    decoded_token: str | None = None


def token_logprobs(
    token_id: int, logprob: float, likely: Sequence[tuple[int, float]], name: Callable[[int], str]
) -> dict[int, Logprob]:
    """One place of CompletionOutput.logprobs: the chosen token first, then the most probable in their order."""
    told = {token_id: Logprob(logprob, decoded_token=name(token_id))}
    for at, (other_id, other) in enumerate(likely):
        told[other_id] = Logprob(other, rank=at + 1, decoded_token=name(other_id))
    return told


@dataclass(slots=True)
class CompletionOutput:
    """One of a prompt's n answers."""

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: str | None = None
    """stop or length."""
    stop_reason: int | str | None = None
    """The stop string or token that ended it; None at the model's own end token."""


@dataclass(slots=True)
class RequestOutput:
    """A prompt and its answers."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput] = field(default_factory=list)
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Embedding:
    """A text's vector."""

    embedding: list[float]


@dataclass(frozen=True, slots=True)
class EmbeddingRequestOutput:
    """A text and its vector."""

    request_id: str
    prompt_token_ids: list[int]
    outputs: Embedding
    finished: bool = True
