"""Runs prompts in this process, on OpenVINO: what LLM uses where that is the engine that fits the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ironloom.errors import CapacityError, EngineError, EngineUnavailable, RequestError, UsageError
from ironloom.serve.engines.programs.choice import Choice, Delta, TokenLogprob
from ironloom.serve.engines.programs.generation import Grammar
from ironloom.serve.engines.programs.params import CompletionRequest, read_completion
from ironloom.serve.engines.programs.prompts import fit, truncated
from ironloom.serve.llm_types import CompletionOutput, RequestOutput, SamplingParams, token_logprobs

Progress = Callable[[int], None]
"""Called with the number of prompts that ended."""


class LocalRunner:
    """A loaded text model. Not for several threads at once."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        """Load it; `arguments` as openvino_server takes them. Raises EngineUnavailable, UsageError, CapacityError."""
        from ironloom.serve.engines.programs import openvino_server
        from ironloom.serve.engines.programs.model_facts import read_facts
        from ironloom.serve.engines.programs.openvino_generator import OpenVinoGenerator
        from ironloom.serve.engines.programs.openvino_pipeline import load

        parsed = openvino_server.parser().parse_args(
            ["--model", str(folder), "--served-name", "local", "--port", "0", *arguments]
        )
        facts = read_facts(folder)
        try:
            settings = openvino_server.settings_of(parsed, facts)
        except ValueError as error:
            raise CapacityError(str(error)) from error
        try:
            loaded = load(settings, facts)
        except RuntimeError as error:
            raise EngineUnavailable(f"OpenVINO cannot load {folder}: {error}") from error
        self.generator = OpenVinoGenerator(settings, facts, loaded)
        self.template = openvino_server.template_of(parsed, facts, loaded)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        return self.generator.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of token ids."""
        detokenizer = self.generator.detokenizer((), skip_special_tokens=skip_special_tokens)
        return detokenizer.feed(ids) + detokenizer.flush()

    def render(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        """A conversation as the model's chat template writes it. Raises UsageError."""
        if self.template is None:
            raise UsageError("this model has no chat template", hint="use generate() with prompts of your own")
        try:
            return self.template.render(messages, **options)
        except RequestError as error:
            raise UsageError(error.message) from error

    def run(
        self, prompts: Sequence[tuple[str | None, list[int]]], params: Sequence[SamplingParams], progress: Progress
    ) -> list[RequestOutput]:
        """Answer them all, batched as the engine can. Raises UsageError for what it cannot honour, EngineError."""
        try:
            jobs = [
                _Job(str(index), text, ids, each, self.generator, progress)
                for index, ((text, ids), each) in enumerate(zip(prompts, params, strict=True))
            ]
            for grammar in {job.request.grammar for job in jobs if job.request.grammar is not None}:
                self._check(grammar)
            for job in jobs:
                job.start()
        except RequestError as error:
            raise UsageError(error.message, hint=error.hint) from error
        try:
            while self.generator.has_work:
                self.generator.step()
        except BaseException:
            for job in jobs:
                job.cancel()
            raise
        for job in jobs:
            if job.error is not None:
                raise EngineError(job.error.message)
        return [job.output for job in jobs]

    def _check(self, grammar: Grammar) -> None:
        import asyncio

        asyncio.run(self.generator.check_grammar(grammar))

    def sleep(self) -> None:
        """Give the weights and the KV cache back."""
        self.generator.park()

    def wake_up(self) -> None:
        """Load again."""
        self.generator.wake()

    def close(self) -> None:
        """Give the memory back for good."""
        self.generator.park()


class _Job:
    """One prompt and its n sequences."""

    def __init__(
        self,
        request_id: str,
        text: str | None,
        ids: list[int],
        params: SamplingParams,
        generator: Any,
        progress: Progress,
    ) -> None:
        request = read_completion({"prompt": "x", **params.to_request()}, max_logprobs=generator.max_logprobs)
        if params.max_tokens is None:
            request = replace(request, max_tokens=None)
        refused = generator.refuses(request.sampling(1, 0))
        if refused is not None:
            raise RequestError(400, f"{refused[0]} is not supported here: {refused[1]}", param=refused[0])
        ids = truncated(ids, request)
        self.request: CompletionRequest = request
        self.output = RequestOutput(request_id, text, ids)
        self.error: RequestError | None = None
        self._generator = generator
        self._progress = progress
        self._max_tokens = fit(request, len(ids), generator.max_model_len, param="prompt")
        self._detokenize = params.detokenize
        self._choices: list[Choice] = []
        self._texts: list[list[str]] = []
        self._logprobs: list[list[TokenLogprob]] = []
        self._num_open = request.n

    def start(self) -> None:
        """Hand its sequences to the engine."""
        request, ids = self.request, self.output.prompt_token_ids
        for index in range(request.n):
            choice = Choice(
                index,
                self._generator.detokenizer(ids, skip_special_tokens=request.skip_special_tokens),
                on_delta=self._delta,
                on_failed=self._failed,
                stop=request.stop,
                stop_token_ids=request.stop_token_ids,
                include_stop=request.include_stop,
                min_tokens=request.min_tokens,
                wants_logprobs=request.logprobs,
            )
            choice.token_ids = []
            self._choices.append(choice)
            self._texts.append([])
            self._logprobs.append([])
            choice.ticket = self._generator.submit(ids, request.sampling(self._max_tokens, index), choice)

    def cancel(self) -> None:
        """Drop what is under way."""
        for choice in self._choices:
            if choice.ticket is not None and not choice.finished:
                choice.ticket.cancel()

    def _delta(self, choice: Choice, delta: Delta) -> None:
        self._texts[choice.index].append(delta.content)
        self._logprobs[choice.index] += delta.logprobs
        if delta.finish is None:
            return
        logprobs = self._logprobs[choice.index]
        output = CompletionOutput(
            index=choice.index,
            text="".join(self._texts[choice.index]) if self._detokenize else "",
            token_ids=choice.token_ids or [],
            finish_reason=delta.finish,
            stop_reason=choice.stop_reason,
        )
        if self.request.logprobs:
            output.cumulative_logprob = sum(entry.logprob for entry in logprobs)
            output.logprobs = [
                token_logprobs(entry.token_id, entry.logprob, entry.likely, self._name) for entry in logprobs
            ]
        self.output.outputs.append(output)
        self._ended()

    def _failed(self, error: RequestError) -> None:
        self.error = error
        self._ended()

    def _ended(self) -> None:
        self._num_open -= 1
        if self._num_open == 0:
            self.output.outputs.sort(key=lambda output: output.index)
            self._progress(1)

    def _name(self, token_id: int) -> str:
        try:
            return str(self._generator.token_bytes(token_id).decode("utf-8", "replace"))
        except IndexError:  # a model's padded vocabulary has more ids than its tokenizer
            return ""
