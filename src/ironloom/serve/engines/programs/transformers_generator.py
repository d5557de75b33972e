"""A Generator on Transformers' `generate`: the plain baseline.

One thread runs `generate` on a batch, left-padded. Each row has its own sampling and its own end, through a logits
processor and a stopping criterion. A sequence that arrives meanwhile ends the batch at its next step, at least
MIN_STEPS after it began: all sequences then go on in a new batch, whose texts are read again from the start. That costs
one prefill a join, and keeps the library's own loop as it is.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.generation import MAX_LOGPROBS, Detokenizer, Finish, Grammar, Sampling, Sink, Stats
from ironloom.serve.engines.programs.transformers_sampling import Next, Row, next_tokens
from ironloom.serve.engines.programs.transformers_tokens import Tokens

logger = logging.getLogger(__name__)
MIN_STEPS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadSettings:
    """What the model is loaded with."""

    model: Path
    max_model_len: int
    max_num_seqs: int
    dtype: str = "auto"
    device: str = "cpu"
    trust_remote_code: bool = False


class TransformersGenerator:
    """See Generator and Parkable. `submit` and the rest are the loop's; `_work` is the thread's."""

    max_logprobs = MAX_LOGPROBS

    def __init__(self, settings: LoadSettings, loop: asyncio.AbstractEventLoop) -> None:
        """Loads model and tokenizer; blocks. Raises OSError or ValueError when they cannot be loaded."""
        from transformers import AutoTokenizer

        self.max_model_len = settings.max_model_len
        self._settings = settings
        self._loop = loop
        self.tokenizer = AutoTokenizer.from_pretrained(
            settings.model, trust_remote_code=settings.trust_remote_code, local_files_only=True
        )
        self._tokens = Tokens(self.tokenizer)
        self._model: Any = None
        self._end_ids: frozenset[int] = frozenset()
        self._condition = threading.Condition()
        self._waiting: deque[_Sequence] = deque()
        self._live: list[_Sequence] = []
        self._computing = threading.Lock()
        """Held while a batch runs, so that parking waits for its end."""
        self._prompt_tokens_total = 0
        self._generation_tokens_total = 0
        self.wake()
        threading.Thread(target=self._work, name="generate", daemon=True).start()

    # --- tokens ---

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return self._tokens.encode(text, add_special_tokens=add_special_tokens) if text else []

    async def encode_aside(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return await asyncio.to_thread(self.encode, text, add_special_tokens=add_special_tokens)

    @property
    def max_token_bytes(self) -> int:
        return self._tokens.max_token_bytes

    def token_bytes(self, token_id: int) -> bytes:
        return self._tokens.token_bytes(token_id)

    def detokenizer(self, prompt_ids: Sequence[int], *, skip_special_tokens: bool) -> Detokenizer:
        return self._tokens.detokenizer(prompt_ids, skip_special_tokens=skip_special_tokens)

    # --- requests ---

    def refuses(self, sampling: Sampling) -> tuple[str, str] | None:
        if sampling.grammar is not None:
            return sampling.grammar.param, "the transformers engine does not force a form on its output"
        return None

    async def check_grammar(self, grammar: Grammar) -> None:
        raise RequestError(400, f"{grammar.param} is not supported here", param=grammar.param)

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, sink: Sink) -> _Sequence:
        if self.asleep:
            raise _parked()
        sequence = _Sequence(self, Row(sampling, tuple(prompt_ids)), sink)
        self._prompt_tokens_total += len(prompt_ids)
        with self._condition:
            self._waiting.append(sequence)
            self._condition.notify()
        return sequence

    # --- the thread ---

    def _work(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._live:
                    self._condition.wait()
                self._live = [sequence for sequence in self._live if not sequence.over]
                while self._waiting and len(self._live) < self._settings.max_num_seqs:
                    sequence = self._waiting.popleft()
                    if not sequence.over:
                        self._live.append(sequence)
                batch = list(self._live)
            if not batch:
                continue
            with self._computing:
                try:
                    if self._model is not None:
                        self._generate(batch)
                except Exception as error:
                    logger.exception("a batch failed")
                    message = f"the engine failed: {error}"
                    failure = RequestError(500, message, type="server_error", source="engine")
                    self._loop.call_soon_threadsafe(self._fail, batch, failure)
                    for sequence in batch:
                        sequence.over = True

    def _generate(self, batch: list[_Sequence]) -> None:
        from transformers import LogitsProcessorList, StoppingCriteriaList

        texts = [[*sequence.row.prompt_ids, *sequence.row.output_ids] for sequence in batch]
        longest = max(map(len, texts))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (longest - len(text)) + text for text in texts], device=self._model.device)
        mask = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in texts], device=ids.device)
        step = _Step(self, batch)
        with torch.inference_mode():
            self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=self.max_model_len,
                pad_token_id=pad,
                eos_token_id=None,
                logits_processor=LogitsProcessorList([step.choose]),
                stopping_criteria=StoppingCriteriaList([step.ended]),
            )

    def step(self, logits: Any, batch: list[_Sequence]) -> list[int]:
        """A token for each sequence of the batch, handed over to the loop."""
        rows = [None if sequence.over else sequence.row for sequence in batch]
        found = next_tokens(logits, rows, sorted(self._end_ids))
        news: list[tuple[_Sequence, Next, Finish | None]] = []
        for sequence, made in zip(batch, found, strict=True):
            if sequence.over:
                continue
            sequence.row.output_ids.append(made.token_id)
            finish = sequence.finish_at(made.token_id, self._end_ids)
            sequence.over = finish is not None
            news.append((sequence, made, finish))
        self._generation_tokens_total += len(news)
        self._loop.call_soon_threadsafe(self._hand_over, news)
        return [made.token_id for made in found]

    @property
    def someone_waits(self) -> bool:
        """True when a sequence could join the batch."""
        return bool(self._waiting) and len(self._live) < self._settings.max_num_seqs

    # --- the loop ---

    def _hand_over(self, news: list[tuple[_Sequence, Next, Finish | None]]) -> None:
        for sequence, made, finish in news:
            if not sequence.cancelled:
                likely = [made.likely] if sequence.row.sampling.num_top_logprobs else ()
                sequence.sink.tokens([made.token_id], [made.logprob], finish, likely)

    def _fail(self, batch: list[_Sequence], error: RequestError) -> None:
        for sequence in batch:
            if not sequence.cancelled:
                sequence.cancelled = True
                sequence.sink.failed(error)

    # --- parking ---

    def park(self) -> None:
        with self._condition:
            every = [*self._live, *self._waiting]
            self._waiting.clear()
            unfinished = [sequence for sequence in every if not sequence.over]
            for sequence in unfinished:
                sequence.over = True
        with self._computing:
            self._model = None
        self._fail(unfinished, _parked())
        gc.collect()
        if self._settings.device != "cpu":
            torch.cuda.empty_cache()

    def wake(self) -> None:
        if self._model is None:
            from transformers import AutoModelForCausalLM

            settings = self._settings
            model = AutoModelForCausalLM.from_pretrained(
                settings.model,
                dtype=settings.dtype,
                use_safetensors=True,
                trust_remote_code=settings.trust_remote_code,
                local_files_only=True,
            )
            model.to(settings.device).eval()
            self._end_ids = _end_ids(model, self.tokenizer)
            self._model = model

    @property
    def asleep(self) -> bool:
        return self._model is None

    def stats(self) -> Stats:
        with self._condition:
            running = sum(not sequence.over for sequence in self._live)
            waiting = sum(not sequence.over for sequence in self._waiting)
        return Stats(
            num_requests_running=running,
            num_requests_waiting=waiting,
            prompt_tokens_total=self._prompt_tokens_total,
            generation_tokens_total=self._generation_tokens_total,
        )


class _Step:
    """What `generate` calls at each step of one batch."""

    def __init__(self, generator: TransformersGenerator, batch: list[_Sequence]) -> None:
        self._generator = generator
        self._batch = batch
        self._num_steps = 0

    def choose(self, _: Any, logits: Any) -> Any:
        """A logits processor: leaves only the token that was chosen, so that the greedy loop takes it."""
        tokens = self._generator.step(logits, self._batch)
        self._num_steps += 1
        chosen = torch.full_like(logits, -torch.inf)
        chosen[torch.arange(len(tokens)), torch.tensor(tokens)] = 0.0
        return chosen

    def ended(self, ids: Any, _: Any) -> Any:
        """A stopping criterion: which rows are over; all of them when others wait to join."""
        if self._num_steps >= MIN_STEPS and self._generator.someone_waits:
            return torch.ones(len(self._batch), dtype=torch.bool, device=ids.device)
        return torch.tensor([sequence.over for sequence in self._batch], dtype=torch.bool, device=ids.device)


class _Sequence:
    """One sequence: a Ticket. `over` is set by the thread or by a cancel; `cancelled` belongs to the loop."""

    __slots__ = ("_generator", "cancelled", "over", "row", "sink")

    def __init__(self, generator: TransformersGenerator, row: Row, sink: Sink) -> None:
        self._generator = generator
        self.row = row
        self.sink = sink
        self.over = False
        self.cancelled = False

    def finish_at(self, token_id: int, end_ids: frozenset[int]) -> Finish | None:
        """How this token ends it, if it does."""
        sampling = self.row.sampling
        num_tokens = len(self.row.output_ids)
        ends = token_id in sampling.stop_token_ids or (token_id in end_ids and not sampling.ignore_eos)
        if ends and num_tokens >= sampling.min_tokens:
            return Finish.STOP
        return Finish.LENGTH if num_tokens >= sampling.max_tokens else None

    def cancel(self) -> None:
        self.cancelled = True
        self.over = True


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The model's end tokens, by its generation config, else its config, else its tokenizer."""
    for holder in (model.generation_config, model.config, tokenizer):
        found = getattr(holder, "eos_token_id", None)
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset()


def _parked() -> RequestError:
    return RequestError(503, "the engine is parked", type="server_error", code="parked", source="engine")
