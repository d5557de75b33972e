"""OpenAI's text API under vLLM's paths, over any Generator: how a request becomes sequences, and they an answer."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.answers import Answer, Meta, StreamAnswer, WholeAnswer
from ironloom.serve.engines.programs.choice import Choice
from ironloom.serve.engines.programs.fields import Fields, invalid
from ironloom.serve.engines.programs.generation import Generator, Parkable, Sampling
from ironloom.serve.engines.programs.params import ChatRequest, CompletionRequest, read_chat, read_completion
from ironloom.serve.engines.programs.prompts import LONG_CHARS, chat_text, check_ids, check_least, fit, truncated
from ironloom.serve.engines.programs.reasoning import CLOSE, OPEN, ReasoningSplitter
from ironloom.serve.engines.programs.server_base import BaseServer, ServerOptions
from ironloom.serve.engines.programs.tool_calls import PARSERS, SHOWS_SPECIAL_TOKENS, detect, required_parser
from ironloom.serve.engines.programs.tool_json import NamedParser
from ironloom.serve.engines.programs.tool_stream import ToolParser
from ironloom.serve.http.exchange import Exchange

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")


class OpenAIServer(BaseServer):
    """/v1/chat/completions and /v1/completions, beside what every server answers."""

    def __init__(self, generator: Generator, options: ServerOptions, *, parkable: Parkable | None = None) -> None:
        super().__init__(generator, options, parkable)
        self._generator = generator
        source = options.template.source if options.template is not None else ""
        self._tool_format = options.tool_parser or detect(source)
        self._reasons = options.reasoning if options.reasoning is not None else CLOSE in source or OPEN in source
        self.routes["/v1/chat/completions"] = {"POST": self._chat}
        self.routes["/v1/completions"] = {"POST": self._completions}
        self.routes["/v1/embeddings"] = {"POST": self._no_embeddings}

    def _no_embeddings(self, exchange: Exchange) -> None:
        self.check_model(Fields(self.body(exchange)).text("model", ""))
        name = self.options.served_name
        raise invalid("model", f'the model of "{name}" makes no embeddings; it generates text', code="no_embeddings")

    def _chat(self, exchange: Exchange) -> None:
        body = self.body(exchange)
        self.require_awake()
        request = read_chat(body, max_logprobs=self._generator.max_logprobs, defaults=self.options.defaults)
        self.check_model(request.model)
        self._when_checked(exchange, request, lambda: self._start_chat(exchange, request))

    def _completions(self, exchange: Exchange) -> None:
        body = self.body(exchange)
        self.require_awake()
        request = read_completion(body, max_logprobs=self._generator.max_logprobs, defaults=self.options.defaults)
        self.check_model(request.model)
        self._when_checked(exchange, request, lambda: self._start_completion(exchange, request))

    def _when_checked(
        self, exchange: Exchange, request: ChatRequest | CompletionRequest, start: Callable[[], None]
    ) -> None:
        """Start at once, or after the grammar was compiled."""
        refused = self._generator.refuses(request.sampling(1, 0))
        if refused is not None:
            param, why = refused
            raise RequestError(400, f"{param} is not supported here: {why}", param=param, code="unsupported_parameter")
        grammar = request.grammar
        if grammar is None:
            start()
            return

        async def check_and_start() -> None:
            await self._generator.check_grammar(grammar)
            if not exchange.gone:
                self.require_awake()
                start()

        self.spawn(exchange, check_and_start())

    def _with_ids(
        self,
        exchange: Exchange,
        request: ChatRequest | CompletionRequest,
        prompts: Sequence[str | list[int]],
        start: Callable[[list[list[int]]], None],
        *,
        param: str,
    ) -> None:
        """Start with the prompts' token ids: at once, or after long texts were tokenised aside."""
        generator, special = self._generator, request.add_special_tokens
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        for prompt in prompts:
            if not isinstance(prompt, str):
                check_ids(prompt, generator)
        if sum(map(len, texts)) <= LONG_CHARS:
            found = [
                generator.encode(each, add_special_tokens=special) if isinstance(each, str) else each
                for each in prompts
            ]
            start([truncated(ids, request) for ids in found])
            return
        if request.truncate_prompt_tokens is None:
            for text in texts:
                check_least(text, generator.max_token_bytes, generator.max_model_len, param=param)

        async def tokenise_and_start() -> None:
            found = []
            for each in prompts:
                if exchange.gone:
                    return
                ids = await generator.encode_aside(each, add_special_tokens=special) if isinstance(each, str) else each
                found.append(truncated(ids, request))
            if not exchange.gone:
                self.require_awake()
                start(found)

        self.spawn(exchange, tokenise_and_start())

    def _start_chat(self, exchange: Exchange, request: ChatRequest) -> None:
        text = chat_text(request, self.options.template)
        start = partial(self._chat_with_ids, exchange, request, text)
        self._with_ids(exchange, request, [text], start, param="messages")

    def _chat_with_ids(self, exchange: Exchange, request: ChatRequest, text: str, found: list[list[int]]) -> None:
        generator, (ids,) = self._generator, found
        max_tokens = fit(request, len(ids), generator.max_model_len, param="messages", defaults=self.options.defaults)
        inside = text.rstrip().endswith(OPEN)
        calls = bool(request.tools)
        skip = request.skip_special_tokens and not (calls and self._tool_format in SHOWS_SPECIAL_TOKENS)
        answer = self._answer(exchange, request, num_prompt_tokens=len(ids), chat=True)
        for index in range(request.n):
            choice = self._choice(
                answer,
                request,
                ids,
                skip_special_tokens=skip,
                splitter=ReasoningSplitter(inside=inside) if self._reasons and request.grammar is None else None,
                tools=self._tools(request) if calls else None,
                calls_finish="stop" if request.tool_choice == "named" else "tool_calls",
            )
            answer.add(choice)
            self._submit(answer, choice, ids, request.sampling(max_tokens, index))

    def _start_completion(self, exchange: Exchange, request: CompletionRequest) -> None:
        start = partial(self._completion_with_ids, exchange, request)
        self._with_ids(exchange, request, request.prompts, start, param="prompt")

    def _completion_with_ids(self, exchange: Exchange, request: CompletionRequest, prompts: list[list[int]]) -> None:
        generator = self._generator
        rooms = [
            fit(request, len(ids), generator.max_model_len, param="prompt", defaults=self.options.defaults)
            for ids in prompts
        ]
        answer = self._answer(exchange, request, num_prompt_tokens=sum(map(len, prompts)), chat=False)
        for prompt, ids, max_tokens in zip(request.prompts, prompts, rooms, strict=True):
            prefix = ""
            if request.echo:
                prefix = (
                    prompt
                    if isinstance(prompt, str)
                    else self.text_of(ids, skip_special_tokens=request.skip_special_tokens)
                )
            for index in range(request.n):
                choice = self._choice(answer, request, ids, skip_special_tokens=request.skip_special_tokens)
                answer.add(choice, prefix=prefix)
                self._submit(answer, choice, ids, request.sampling(max_tokens, index))

    def _submit(self, answer: Answer, choice: Choice, ids: list[int], sampling: Sampling) -> None:
        """Start one sequence, unless the answer has ended: a client that left, a sequence before it that failed."""
        if answer.outcome:
            return
        try:
            choice.ticket = self._generator.submit(ids, sampling, choice)
        except RequestError as error:
            answer.failed(error)

    def _answer(
        self, exchange: Exchange, request: ChatRequest | CompletionRequest, *, num_prompt_tokens: int, chat: bool
    ) -> WholeAnswer | StreamAnswer:
        given = exchange.request.headers.get(b"x-request-id", b"")
        name = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        meta = Meta(
            id=f"{'chatcmpl' if chat else 'cmpl'}-{name}",
            model=self.options.served_name,
            created=int(time.time()),
            chat=chat,
            top_logprobs=request.top_logprobs,
            tokens_as_ids=request.tokens_as_ids,
            short_call_ids=self._tool_format == "mistral",
            token_text=self._generator.token_bytes,
        )
        answer: WholeAnswer | StreamAnswer
        if request.stream:
            answer = StreamAnswer(
                exchange,
                meta,
                num_prompt_tokens=num_prompt_tokens,
                on_end=self._ended,
                include_usage=request.include_usage,
                continuous_usage=request.continuous_usage,
            )
        else:
            answer = WholeAnswer(exchange, meta, num_prompt_tokens=num_prompt_tokens, on_end=self._ended)
        self.num_open += 1
        exchange.on_gone(answer.client_gone)
        return answer

    def _choice(
        self,
        answer: WholeAnswer | StreamAnswer,
        request: ChatRequest | CompletionRequest,
        prompt_ids: list[int],
        *,
        skip_special_tokens: bool,
        splitter: ReasoningSplitter | None = None,
        tools: ToolParser | None = None,
        calls_finish: str = "tool_calls",
    ) -> Choice:
        return Choice(
            len(answer.choices),
            self._generator.detokenizer(prompt_ids, skip_special_tokens=skip_special_tokens),
            on_delta=answer.delta,
            on_failed=answer.failed,
            stop=request.stop,
            stop_token_ids=request.stop_token_ids,
            include_stop=request.include_stop,
            min_tokens=request.min_tokens,
            wants_logprobs=request.logprobs,
            splitter=splitter,
            tools=tools,
            calls_finish=calls_finish,
        )

    def _tools(self, request: ChatRequest) -> ToolParser:
        if request.tool_choice == "named":
            return NamedParser(request.tool_name)
        return required_parser() if request.tool_choice == "required" else PARSERS[self._tool_format]()

    def _ended(self, answer: Answer) -> None:
        self.num_open -= 1
        self.metrics.finished[answer.outcome] += 1
        now_s = time.monotonic()
        if answer.outcome not in {"abort", "error"}:
            self.metrics.e2e_s.observe(now_s - answer.exchange.request.arrived_s)
        first_s = answer.first_token_s
        if first_s is not None:
            self.metrics.ttft_s.observe(first_s - answer.exchange.request.arrived_s)
