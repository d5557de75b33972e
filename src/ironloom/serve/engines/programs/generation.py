"""What a text generator is to the OpenAI server: prompts in as token ids, tokens out as they come.

Everything here is called and calls back in the thread of the server's event loop. A generator that computes in a
thread of its own hands its tokens over once a step, for all its sequences together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.vector_form import VectorForm


class Finish(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    """An end token, or one of the request's stop tokens."""
    LENGTH = "length"
    """max_tokens, or the context's end."""


class GrammarKind(StrEnum):
    """How a grammar is written."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    EBNF = "ebnf"


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the output must look like."""

    kind: GrammarKind
    text: str
    param: str
    """The request's parameter that asked for it, for error messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How to choose tokens and when to stop, for one sequence. Names and meanings are vLLM's SamplingParams'."""

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is all tokens."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logprobs: bool = False
    """Give the chosen tokens' log probabilities (of the model itself, before temperature and penalties)."""
    num_top_logprobs: int = 0
    """Give so many of the most probable tokens beside each chosen one, by the same log probabilities."""
    grammar: Grammar | None = None


MAX_LOGPROBS = 20
"""Where an engine can tell any number of them: vLLM's default, and OpenAI's most."""

Likely = Sequence[tuple[int, float]]
"""Token ids with their log probabilities, the most probable first."""


class Sink(Protocol):
    """Takes one sequence's tokens."""

    def tokens(
        self, ids: Sequence[int], logprobs: Sequence[float], finish: Finish | None, likely: Sequence[Likely] = ()
    ) -> None:
        """New tokens, at least one unless `finish` is set. Nothing follows a finish.

        At Finish.STOP the last of `ids` is the end or stop token; it counts, and is not shown.
        `logprobs` is as long as `ids` when Sampling.logprobs asked for them, else its content means nothing.
        `likely` is as long as `ids` when Sampling.num_top_logprobs asked for it, else empty.
        """
        ...

    def failed(self, error: RequestError) -> None:
        """The sequence cannot go on; nothing follows."""
        ...


class Ticket(Protocol):
    """A sequence under way."""

    def cancel(self) -> None:
        """Drop it: it computes no more and its sink is not called again. Harmless after its end."""
        ...


class Detokenizer(Protocol):
    """Turns one sequence's tokens into text as they come; never gives half a character."""

    def feed(self, ids: Sequence[int]) -> str:
        """The text that these tokens complete; may be empty."""
        ...

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that stayed incomplete, mostly nothing."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """Counters and gauges of a generator, for /metrics."""

    num_requests_running: int = 0
    num_requests_waiting: int = 0
    kv_cache_usage_fraction: float = 0.0
    prompt_tokens_total: int = 0
    generation_tokens_total: int = 0


class Generator(Protocol):
    """One loaded model."""

    max_model_len: int
    """Prompt and generated tokens together, of one sequence."""
    max_logprobs: int
    """The most that Sampling.num_top_logprobs can be; 0: the chosen token's log probability only, which is at the same
    time the most probable one's where the choice is greedy and nothing changes the odds."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        ...

    async def encode_aside(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """As `encode`, for a long text: nothing else waits for it. Raises RequestError."""
        ...

    @property
    def max_token_bytes(self) -> int:
        """The longest token's bytes, where tokens' bytes joined are the text; 0 where they are not: such a token can
        take in any number."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; a special token's are its name's. Raises IndexError: no such token."""
        ...

    def detokenizer(self, prompt_ids: Sequence[int], *, skip_special_tokens: bool) -> Detokenizer:
        """For one new sequence that continues this prompt (empty: a text's beginning)."""
        ...

    def refuses(self, sampling: Sampling) -> tuple[str, str] | None:
        """None when it can honour all of this, else the parameter's name and why not."""
        ...

    async def check_grammar(self, grammar: Grammar) -> None:
        """Compile it aside, so that a bad or slow one disturbs nobody. Raises RequestError (400)."""
        ...

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, sink: Sink) -> Ticket:
        """Start a sequence; returns at once. The prompt and max_tokens fit max_model_len: the caller has checked."""
        ...

    def stats(self) -> Stats:
        """Counters as they are now."""
        ...


class Parkable(Protocol):
    """A generator whose weights and KV cache can be given back and had again."""

    def park(self) -> None:
        """Free the memory. Sequences under way get `failed` with 503."""
        ...

    def wake(self) -> None:
        """Load again; blocks until it can answer."""
        ...

    @property
    def asleep(self) -> bool:
        """True between park and wake."""
        ...


class Embedder(Protocol):
    """One loaded embedding model."""

    max_model_len: int
    length: int
    """Numbers of a vector."""
    form: VectorForm

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        ...

    async def encode_aside(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """As `encode`, for a long text: nothing else waits for it. Raises RequestError."""
        ...

    @property
    def max_token_bytes(self) -> int:
        """The longest token's bytes, where tokens' bytes joined are the text; 0 where they are not: such a token can
        take in any number."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for."""
        ...

    def detokenizer(self, prompt_ids: Sequence[int], *, skip_special_tokens: bool) -> Detokenizer:
        """For /detokenize."""
        ...

    def embed(self, inputs: Sequence[Sequence[int]], *, dimensions: int | None = None) -> list[list[float]]:
        """One vector for each text's tokens; blocks, and is called in a worker thread, one call at a time.

        `dimensions` is a length that `form` allows; None is the model's own.
        """
        ...

    def stats(self) -> Stats:
        """Counters as they are now."""
        ...
