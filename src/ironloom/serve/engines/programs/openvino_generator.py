"""A Generator on openvino-genai's ContinuousBatchingPipeline.

One thread owns the pipeline: the one that calls `step`. In the server that is the event loop's, and a step is a
callback of the loop: openvino-genai holds Python's lock for the whole of `step()`, so a thread of its own would run
nothing beside it, and would pay for hand-overs and for lost turns at every socket call. Between two steps the loop
does what came in: new requests join the next batch, and what a step made goes out in one write a connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.aside import Aside
from ironloom.serve.engines.programs.generation import Detokenizer, Finish, Grammar, Sampling, Sink, Stats
from ironloom.serve.engines.programs.model_facts import ModelFacts
from ironloom.serve.engines.programs.openvino_grammar import GrammarChecker, structured_output
from ironloom.serve.engines.programs.openvino_park import MemoryDoubtful, NotParked, Swap
from ironloom.serve.engines.programs.openvino_pipeline import Loaded, LoadSettings, give_back_memory, load
from ironloom.serve.engines.programs.openvino_tokens import Tokens
from ironloom.units import format_bytes, format_duration

logger = logging.getLogger(__name__)

_NONE, _STOP, _LENGTH = 0, 1, 2
"""openvino_genai.GenerationFinishReason."""
_QUIET_TURNS = 3
"""Turns of the loop without a new request before a step: accepting, reading and one to spare; some 10 µs each."""
_PATIENCE_S = 0.005
"""A step is not put off longer than this, however many requests come in."""
_IGNORED = 2
"""openvino_genai.GenerationStatus: the KV cache had no room for any sequence."""


class OpenVinoGenerator:
    """See Generator and Parkable. `step` does one step; `pump_in` makes a loop do them while there is work."""

    max_logprobs = 0

    def __init__(self, settings: LoadSettings, facts: ModelFacts, loaded: Loaded, *, swap: Swap | None = None) -> None:
        """`swap` was made before the model was loaded; without one, parking lets go of the model."""
        self.max_model_len = settings.max_model_len
        self._settings = settings
        self._facts = facts
        self._loaded: Loaded | None = loaded
        self._swap = swap
        self._settled = False
        """A first request was answered: what is allocated at the first steps has been."""
        self._swapped_out = False
        self._tokens = Tokens(loaded.tokenizer, facts.special_token_ids)
        self._aside: Aside | None = None
        self._grammars: GrammarChecker | None = None
        self._grammar_thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._live: dict[int, _Sequence] = {}
        self._next_id = 0
        self._poke: Callable[[], None] = lambda: None
        self._prompt_tokens_total = 0
        self._generation_tokens_total = 0

    # --- tokens ---

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return self._tokens.encode(text, add_special_tokens=add_special_tokens)

    async def encode_aside(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if self._aside is None:
            self._aside = Aside(self._settings.model)
        return await self._aside.encode(text, add_special_tokens=add_special_tokens)

    @property
    def max_token_bytes(self) -> int:
        return self._tokens.max_token_bytes

    def token_bytes(self, token_id: int) -> bytes:
        return self._tokens.token_bytes(token_id)

    def detokenizer(self, prompt_ids: Sequence[int], *, skip_special_tokens: bool) -> Detokenizer:
        return self._tokens.detokenizer(prompt_ids, skip_special_tokens=skip_special_tokens)

    # --- requests ---

    def refuses(self, sampling: Sampling) -> tuple[str, str] | None:
        if sampling.min_p >= 1.0:
            return "min_p", "it must be less than 1"
        return None

    async def check_grammar(self, grammar: Grammar) -> None:
        if self._grammars is None:
            vocab_size = self._facts.vocab_size or self._tokens.size
            self._grammars = GrammarChecker(self._pipeline.tokenizer, vocab_size)
        if not self._grammars.knows(grammar):
            # One thread for all: the default executor would run two checks of the same pipeline at once.
            await asyncio.get_running_loop().run_in_executor(self._grammar_thread, self._grammars.check, grammar)

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, sink: Sink) -> _Sequence:
        import numpy as np
        import openvino

        self._next_id += 1
        tensor = openvino.Tensor(np.array([prompt_ids], dtype=np.int64))
        try:
            handle = self._pipeline.pipeline.add_request(self._next_id, tensor, self._config(sampling))
        except RuntimeError as error:
            message = f"OpenVINO refuses this request: {str(error).strip().splitlines()[-1]}"
            raise RequestError(400, message, source="engine") from error
        sequence = _Sequence(self, self._next_id, handle, sampling, sink)
        self._live[self._next_id] = sequence
        self._prompt_tokens_total += len(prompt_ids)
        self._poke()
        return sequence

    def _config(self, sampling: Sampling) -> Any:
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = sampling.max_tokens
        config.min_new_tokens = sampling.min_tokens
        config.ignore_eos = sampling.ignore_eos
        config.stop_token_ids = set(sampling.stop_token_ids).union(self._eos_token_ids)
        if sampling.temperature > 0.0:
            config.do_sample = True
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.min_p = sampling.min_p
            if sampling.top_k:
                config.top_k = sampling.top_k
            # Its own default is one fixed seed for every request.
            config.rng_seed = random.getrandbits(63) if sampling.seed is None else sampling.seed % 2**64
        config.presence_penalty = sampling.presence_penalty
        config.frequency_penalty = sampling.frequency_penalty
        config.repetition_penalty = sampling.repetition_penalty
        config.logprobs = int(sampling.logprobs)
        if sampling.grammar is not None:
            config.structured_output_config = structured_output(sampling.grammar)
        return config

    @property
    def _eos_token_ids(self) -> tuple[int, ...]:
        return self._facts.eos_token_ids or (self._pipeline.tokenizer.get_eos_token_id(),)

    # --- steps ---

    @property
    def has_work(self) -> bool:
        """True while a step has something to do; cancelled sequences need one to be dropped."""
        return not self.asleep and self._pipeline.pipeline.has_non_finished_requests()

    def step(self) -> None:
        """One step of the batch; hands each sequence its tokens."""
        try:
            self._pipeline.pipeline.step()
        except RuntimeError as error:
            self._recover(error)
            return
        for sequence in list(self._live.values()):
            try:
                sequence.read()
            except Exception:  # One answer's bug must not stop the others.
                logger.exception("an answer could not be written")
                sequence.cancel()
                sequence.sink.failed(RequestError(500, "internal error", type="server_error", source="engine"))

    def pump_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on step by callbacks of this loop, so that it serves its sockets between steps.

        A step waits until the loop's turns bring no new request: libuv accepts one connection a turn, so that a burst
        of 32 would otherwise take 32 steps to get into the batch.
        """
        pending = False
        seen, num_quiet, patience_until_s = 0, 0, 0.0

        def pump() -> None:
            nonlocal pending, seen, num_quiet, patience_until_s
            num_quiet = num_quiet + 1 if self._next_id == seen else 0
            seen = self._next_id
            if num_quiet < _QUIET_TURNS and loop.time() < patience_until_s:
                loop.call_soon(pump)
            elif self.has_work:
                self.step()
                num_quiet, patience_until_s = 0, loop.time() + _PATIENCE_S
                loop.call_soon(pump)
            else:
                pending = False
                if not self._settled:
                    self._settle()

        def poke() -> None:
            nonlocal pending
            nonlocal num_quiet, patience_until_s
            if not pending:
                pending = True
                num_quiet, patience_until_s = 0, loop.time() + _PATIENCE_S
                loop.call_soon(pump)

        self._poke = poke

    def _recover(self, error: RuntimeError) -> None:
        """A step threw: what the pipeline now holds is not known, so all sequences fail and it is built anew."""
        reason = str(error).strip().splitlines()[-1]
        logger.error("a step failed, loading the model again: %s", error)
        self._fail_all(RequestError(500, f"the engine failed: {reason}", type="server_error", source="engine"))
        self._let_go()
        self._load()

    def _fail_all(self, error: RequestError) -> None:
        live, self._live = self._live, {}
        for sequence in live.values():
            sequence.cancel()
            sequence.sink.failed(error)

    def forget(self, sequence: _Sequence) -> None:
        """A sequence ended."""
        self._live.pop(sequence.id, None)

    def cancelled(self) -> None:
        """A sequence was cancelled: the pipeline drops it at its next step."""
        self._poke()

    def count(self, num_tokens: int) -> None:
        """Tokens that came."""
        self._generation_tokens_total += num_tokens

    # --- parking ---

    def park(self) -> None:
        """Swap out, or let go of the model where that cannot be."""
        self._fail_all(RequestError(503, "the engine was parked", type="server_error", code="parked", source="engine"))
        if self._aside is not None:
            self._aside.close()
        if not self.asleep and not self._swap_out():
            self._let_go()

    def wake(self) -> None:
        if self._swapped_out and self._swap is not None:
            took_s = self._swap.wake()
            self._swapped_out = False
            logger.info("read back in %s", format_duration(took_s))
        elif self._loaded is None:
            self._load()

    @property
    def asleep(self) -> bool:
        return self._swapped_out or self._loaded is None

    def _swap_out(self) -> bool:
        if self._swap is None or self._loaded is None:
            return False
        try:
            while self._loaded.pipeline.has_non_finished_requests():
                self._loaded.pipeline.step()  # drops what was cancelled
            parked = self._swap.park()
        except (NotParked, RuntimeError) as error:
            logger.warning("not swapped out, so the model is let go of: %s", error)
            return False
        except MemoryDoubtful as error:
            # A wrong answer is worse than none: the daemon sees the process end, and starts another when one is needed.
            logger.critical("this process ends: %s", error)
            logging.shutdown()
            os._exit(1)
        self._swapped_out = True
        freed, written = format_bytes(parked.freed_bytes), format_bytes(parked.written_bytes)
        logger.info("swapped out in %s: %s freed, %s written", format_duration(parked.took_s), freed, written)
        return True

    def _settle(self) -> None:
        self._settled = True
        if self._swap is not None:
            self._swap.settle()

    def _let_go(self) -> None:
        self._grammars = None
        self._loaded = None
        self._tokens.release()
        give_back_memory()

    def _load(self) -> None:
        self._loaded = load(self._settings, self._facts)
        self._tokens.renew(self._loaded.tokenizer)

    @property
    def _pipeline(self) -> Loaded:
        if self._loaded is None or self._swapped_out:
            raise RequestError(503, "the engine is parked", type="server_error", code="parked", source="engine")
        return self._loaded

    # --- counters ---

    def stats(self) -> Stats:
        """Running and waiting as the pipeline itself counts them."""
        running = waiting = 0
        usage = 0.0
        if self.has_work:
            metrics = self._pipeline.pipeline.get_metrics()
            running = metrics.scheduled_requests
            waiting = max(0, len(self._live) - running)
            usage = metrics.cache_usage / 100.0
        return Stats(
            num_requests_running=running,
            num_requests_waiting=waiting,
            kv_cache_usage_fraction=usage,
            prompt_tokens_total=self._prompt_tokens_total,
            generation_tokens_total=self._generation_tokens_total,
        )


class _Sequence:
    """One sequence in the pipeline: a Ticket."""

    __slots__ = ("_generator", "_handle", "_own_stops", "_tells_likely", "id", "sink")

    def __init__(
        self, generator: OpenVinoGenerator, sequence_id: int, handle: Any, sampling: Sampling, sink: Sink
    ) -> None:
        self.id = sequence_id
        self.sink = sink
        self._generator = generator
        self._handle = handle
        # With ignore_eos, OpenVINO ignores the request's own stop tokens too, so they are looked for here.
        self._own_stops = sampling.stop_token_ids if sampling.ignore_eos else frozenset()
        self._tells_likely = sampling.num_top_logprobs > 0

    def read(self) -> None:
        """Take what the last step made, and hand it on."""
        handle, came = self._handle, False
        while handle is not None and handle.can_read():
            came = True
            output = handle.read()[0]
            ids, reason = output.generated_ids, int(output.finish_reason)
            finish = None if reason == _NONE else Finish.LENGTH if reason == _LENGTH else Finish.STOP
            if self._own_stops and (at := _first(ids, self._own_stops)) is not None:
                ids, finish = ids[: at + 1], Finish.STOP
                handle.cancel()
            if finish is not None:
                self.end()
            self._generator.count(len(ids))
            logprobs = output.generated_log_probs
            likely = [[pair] for pair in zip(ids, logprobs, strict=False)] if self._tells_likely else ()
            self.sink.tokens(ids, logprobs, finish, likely)
            handle = self._handle
        if not came and handle is not None and int(handle.get_status()) == _IGNORED:
            self.end()
            message = "the KV cache is full; start the engine with a larger --kv-cache-bytes"
            self.sink.failed(RequestError(503, message, type="server_error", source="engine", code="kv_cache_full"))

    def end(self) -> None:
        """It is over; nothing more is read."""
        self._handle = None
        self._generator.forget(self)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self.end()
            self._generator.cancelled()


def _first(ids: Sequence[int], wanted: frozenset[int]) -> int | None:
    return next((at for at, token_id in enumerate(ids) if token_id in wanted), None)
