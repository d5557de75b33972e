"""A Generator on llama.cpp, by the server that xllamacpp carries inside this process."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import random
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.detokenize import ByteDetokenizer, WindowDetokenizer, is_bytewise
from ironloom.serve.engines.programs.generation import (
    MAX_LOGPROBS,
    Detokenizer,
    Finish,
    Grammar,
    GrammarKind,
    Likely,
    Sampling,
    Sink,
    Stats,
)
from ironloom.serve.engines.programs.gguf_vocabulary import Vocabulary
from ironloom.serve.engines.programs.llamacpp_link import Link, TokenStream, ids_of

NUM_SPARE_HTTP_THREADS = 4
_SAMPLERS = ["penalties", "temperature", "min_p", "top_k", "top_p"]
"""vLLM's order; llama.cpp's own puts temperature last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadSettings:
    """What llama.cpp is started with."""

    model: Path
    max_model_len: int
    max_num_seqs: int
    num_threads: int = 0
    num_batched_tokens: int = 2048
    prefix_caching: bool = True


class LlamaCppGenerator:
    """See Generator and Parkable. Sequences beyond the slots wait here, so that their order is that of arrival."""

    max_logprobs = MAX_LOGPROBS

    def __init__(self, settings: LoadSettings, vocabulary: Vocabulary) -> None:
        """Loads the model; blocks. Raises RuntimeError when llama.cpp cannot."""
        self.max_model_len = settings.max_model_len
        self._settings = settings
        self._vocabulary = vocabulary
        self._server: Any = None
        self._link: Link | None = None
        self._running: set[_Sequence] = set()
        self._waiting: deque[_Sequence] = deque()
        self._prompt_tokens_total = 0
        self._generation_tokens_total = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.wake()
        self._bytewise = is_bytewise(
            lambda text: self.encode(text, add_special_tokens=False), self._decode, vocabulary.pieces.__getitem__
        )

    # --- tokens ---

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return _encode(self._loaded, text, add_special_tokens=add_special_tokens)

    async def encode_aside(self, text: str, *, add_special_tokens: bool) -> list[int]:
        link = self._loaded.again()  # a connection is one thread's
        try:
            return await asyncio.to_thread(_encode, link, text, add_special_tokens=add_special_tokens)
        finally:
            link.close()

    @property
    def max_token_bytes(self) -> int:
        return max(map(len, self._vocabulary.pieces), default=0) if self._bytewise else 0

    def token_bytes(self, token_id: int) -> bytes:
        if token_id < 0:
            raise IndexError(f"no token has the id {token_id}")
        return self._vocabulary.pieces[token_id]

    def detokenizer(self, prompt_ids: Sequence[int], *, skip_special_tokens: bool) -> Detokenizer:
        vocabulary = self._vocabulary
        hidden = vocabulary.control if skip_special_tokens else frozenset()
        if self._bytewise:
            pieces = vocabulary.pieces
            return ByteDetokenizer(lambda i: b"" if i in hidden or i >= len(pieces) else pieces[i])
        return WindowDetokenizer(lambda ids: self._decode([i for i in ids if i not in hidden]), prompt_ids)

    def _decode(self, ids: list[int]) -> str:
        return str(self._loaded.ask("/detokenize", {"tokens": ids})["content"]) if ids else ""

    # --- requests ---

    def refuses(self, sampling: Sampling) -> tuple[str, str] | None:
        if sampling.min_tokens > 0:
            return "min_tokens", "llama.cpp has no least length"
        if sampling.grammar is not None and sampling.grammar.kind is GrammarKind.REGEX:
            return sampling.grammar.param, "llama.cpp takes JSON schemas and GBNF grammars, no regular expressions"
        return None

    async def check_grammar(self, grammar: Grammar) -> None:
        if grammar.kind is not GrammarKind.JSON_SCHEMA:
            return  # llama.cpp refuses a bad one when the sequence begins
        import xllamacpp

        try:
            xllamacpp.json_schema_to_grammar(grammar.text)
        except (RuntimeError, ValueError, TypeError) as error:
            message = f"{grammar.param} is no schema that llama.cpp can follow: {error}"
            raise RequestError(400, message, param=grammar.param) from error

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, sink: Sink) -> _Sequence:
        request = self._loaded.request(completion_body(prompt_ids, sampling, cache=self._settings.prefix_caching))
        sequence = _Sequence(self, request, sampling, sink)
        self._prompt_tokens_total += len(prompt_ids)
        self._waiting.append(sequence)
        self._begin_waiting()
        return sequence

    def _begin_waiting(self) -> None:
        while self._waiting and len(self._running) < self._settings.max_num_seqs:
            sequence = self._waiting.popleft()
            self._running.add(sequence)
            stream = TokenStream(
                sequence.request,
                sequence,
                self._vocabulary,
                sequence.sampling.stop_token_ids,
                sequence.ended,
                tells_likely=sequence.sampling.num_top_logprobs > 0,
            )
            sequence.stream = stream
            task = asyncio.get_running_loop().create_task(self._connect(stream))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, stream: TokenStream) -> None:
        try:
            link = self._loaded
            await asyncio.get_running_loop().create_connection(lambda: stream, link.host, link.port)
        except (OSError, RequestError):
            stream.connection_lost(None)

    def forget(self, sequence: _Sequence, num_tokens: int) -> None:
        """A sequence is over, begun or not."""
        self._generation_tokens_total += num_tokens
        self._running.discard(sequence)
        with contextlib.suppress(ValueError):
            self._waiting.remove(sequence)
        if self._link is not None:
            self._begin_waiting()

    # --- parking ---

    def park(self) -> None:
        error = RequestError(503, "the engine was parked", type="server_error", code="parked", source="engine")
        link, self._link = self._link, None
        for sequence in [*self._running, *self._waiting]:
            sequence.cancel()
            sequence.sink.failed(error)
        if link is not None:
            link.close()
        self._server = None  # the last reference: its threads end, weights and cache are freed
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)

    def wake(self) -> None:
        if self._link is None:
            key = secrets.token_hex(16)
            self._server = load(self._settings, key)
            self._link = Link(self._server.listening_address, key)

    @property
    def asleep(self) -> bool:
        return self._link is None

    @property
    def _loaded(self) -> Link:
        if self._link is None:
            raise RequestError(503, "the engine is parked", type="server_error", code="parked", source="engine")
        return self._link

    # --- counters ---

    def stats(self) -> Stats:
        running = sum(sequence.num_tokens for sequence in self._running)
        return Stats(
            num_requests_running=len(self._running),
            num_requests_waiting=len(self._waiting),
            prompt_tokens_total=self._prompt_tokens_total,
            generation_tokens_total=self._generation_tokens_total + running,
        )


class _Sequence:
    """One sequence: a Ticket for the server, a Sink for its stream."""

    def __init__(self, generator: LlamaCppGenerator, request: bytes, sampling: Sampling, sink: Sink) -> None:
        self.request = request
        self.sampling = sampling
        self.sink = sink
        self.stream: TokenStream | None = None
        self._generator: LlamaCppGenerator | None = generator

    @property
    def num_tokens(self) -> int:
        return 0 if self.stream is None else self.stream.num_tokens

    def cancel(self) -> None:
        if self.stream is not None:
            self.stream.cancel()
        else:
            self.ended(None)

    def ended(self, _: TokenStream | None) -> None:
        """The stream is over."""
        generator, self._generator = self._generator, None
        if generator is not None:
            generator.forget(self, self.num_tokens)

    def tokens(
        self, ids: Sequence[int], logprobs: Sequence[float], finish: Finish | None, likely: Sequence[Likely] = ()
    ) -> None:
        self.sink.tokens(ids, logprobs, finish, likely)

    def failed(self, error: RequestError) -> None:
        self.sink.failed(error)


def _encode(link: Link, text: str, *, add_special_tokens: bool) -> list[int]:
    if not text:
        return []
    clean = text.encode("utf-8", "replace").decode()  # a lone surrogate becomes a question mark
    body = {"content": clean, "add_special": add_special_tokens, "parse_special": True}
    return ids_of(link.ask("/tokenize", body))


def completion_body(prompt_ids: Sequence[int], sampling: Sampling, *, cache: bool) -> dict[str, Any]:
    """llama.cpp's words for a sequence. It has defaults of its own for nearly all of them, so all are said."""
    body: dict[str, Any] = {
        "prompt": list(prompt_ids),
        "n_predict": sampling.max_tokens,
        "stream": True,
        "return_tokens": True,
        "cache_prompt": cache,
        "samplers": _SAMPLERS,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": len(prompt_ids) + sampling.max_tokens if _has_penalties(sampling) else 0,
        "seed": random.getrandbits(32) if sampling.seed is None else sampling.seed % 2**32,
        "ignore_eos": sampling.ignore_eos,
        "n_probs": max(int(sampling.logprobs), sampling.num_top_logprobs),
    }
    if sampling.grammar is not None:
        if sampling.grammar.kind is GrammarKind.JSON_SCHEMA:
            import msgspec

            body["json_schema"] = msgspec.json.decode(sampling.grammar.text)
        else:
            body["grammar"] = sampling.grammar.text
    return body


def _has_penalties(sampling: Sampling) -> bool:
    return (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) != (0.0, 0.0, 1.0)


def load(settings: LoadSettings, key: str) -> Any:
    """The inner server, ready. Raises RuntimeError."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(settings.model)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.n_parallel = settings.max_num_seqs
    params.n_ctx = settings.max_model_len * settings.max_num_seqs
    params.n_batch = settings.num_batched_tokens
    params.n_threads_http = settings.max_num_seqs + NUM_SPARE_HTTP_THREADS
    if settings.num_threads:
        params.cpuparams.n_threads = settings.num_threads
        params.cpuparams_batch.n_threads = settings.num_threads
    params.fit_params = False  # the context was fitted to the memory before
    params.cache_ram_mib = 0  # its second cache of prompts, 8 GiB by default
    params.warmup = False
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = 1
    return xllamacpp.Server(params)
