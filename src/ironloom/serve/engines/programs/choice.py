"""One sequence's way from tokens to what its client sees: text, reasoning, tool calls, log probabilities, an end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import NamedTuple

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.generation import Detokenizer, Finish, Likely, Ticket
from ironloom.serve.engines.programs.reasoning import ReasoningSplitter
from ironloom.serve.engines.programs.stops import StopStrings
from ironloom.serve.engines.programs.tool_stream import CallDelta, ToolParser


class TokenLogprob(NamedTuple):
    """A chosen token and its log probability under the model."""

    token_id: int
    logprob: float
    likely: Likely = ()
    """The most probable tokens in its place, where they were asked for."""


@dataclass(slots=True)
class Delta:
    """What one step added to a choice."""

    content: str = ""
    reasoning: str = ""
    calls: list[CallDelta] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None
    """OpenAI's finish_reason: stop, length or tool_calls."""

    def empty(self) -> bool:
        """True when a client need not be told."""
        return not (self.content or self.reasoning or self.calls or self.finish)


class Choice:
    """One sequence: a Sink that turns tokens into deltas."""

    __slots__ = (
        "_called",
        "_calls_finish",
        "_detokenizer",
        "_failed",
        "_include_stop",
        "_logprobs",
        "_min_tokens",
        "_on_delta",
        "_splitter",
        "_stop_token_ids",
        "_stops",
        "_tools",
        "_wants_logprobs",
        "finished",
        "index",
        "num_tokens",
        "stop_reason",
        "ticket",
        "token_ids",
    )

    def __init__(
        self,
        index: int,
        detokenizer: Detokenizer,
        *,
        on_delta: Callable[[Choice, Delta], None],
        on_failed: Callable[[RequestError], None],
        stop: Sequence[str] = (),
        stop_token_ids: frozenset[int] = frozenset(),
        include_stop: bool = False,
        min_tokens: int = 0,
        wants_logprobs: bool = False,
        splitter: ReasoningSplitter | None = None,
        tools: ToolParser | None = None,
        calls_finish: str = "tool_calls",
    ) -> None:
        """`calls_finish` is the finish_reason after tool calls: OpenAI says stop where tool_choice named one."""
        self.index = index
        self.num_tokens = 0
        self.token_ids: list[int] | None = None
        """Collected when set to a list."""
        self.finished = False
        self.stop_reason: str | int | None = None
        """The stop string or stop token that ended it; None at the model's own end token."""
        self.ticket: Ticket | None = None
        self._detokenizer = detokenizer
        self._on_delta = on_delta
        self._failed = on_failed
        self._stops = StopStrings(stop, include=include_stop) if stop else None
        self._stop_token_ids = stop_token_ids
        self._include_stop = include_stop
        self._min_tokens = min_tokens
        self._wants_logprobs = wants_logprobs
        self._logprobs: list[TokenLogprob] = []
        self._splitter = splitter
        self._tools = tools
        self._called = False
        self._calls_finish = calls_finish

    def tokens(
        self, ids: Sequence[int], logprobs: Sequence[float], finish: Finish | None, likely: Sequence[Likely] = ()
    ) -> None:
        """See Sink."""
        self.num_tokens += len(ids)
        if self.token_ids is not None:
            self.token_ids.extend(ids)
        if self._wants_logprobs:
            self._logprobs.extend(map(TokenLogprob, ids, logprobs, likely or repeat(())))
        shown = ids if finish is not Finish.STOP or self._include_stop else ids[:-1]
        text = self._detokenizer.feed(shown)
        if finish is not None:
            text += self._detokenizer.flush()
        reason = None if finish is None else finish.value
        if finish is Finish.STOP and ids and ids[-1] in self._stop_token_ids:
            self.stop_reason = ids[-1]
        if self._stops is not None and self.num_tokens > self._min_tokens:
            text = self._stops.feed(text)
            if self._stops.matched is not None:
                reason, self.stop_reason = "stop", self._stops.matched
                if finish is None and self.ticket is not None:
                    self.ticket.cancel()
            elif finish is not None:
                text += self._stops.flush()
        self.finished = reason is not None
        delta = self._part(text, reason)
        if not delta.empty():
            if self._logprobs:
                delta.logprobs, self._logprobs = self._logprobs, []
            self._on_delta(self, delta)

    def failed(self, error: RequestError) -> None:
        """See Sink."""
        self.finished = True
        self._failed(error)

    def _part(self, text: str, reason: str | None) -> Delta:
        """Part a piece of text into reasoning, content and calls."""
        delta = Delta(content=text, finish=reason)
        if self._splitter is not None:
            delta.reasoning, delta.content = self._splitter.feed(text)
            if reason is not None:
                rest = self._splitter.flush()
                delta.reasoning += rest.reasoning
                delta.content += rest.content
        if self._tools is not None:
            parsed = self._tools.feed(delta.content)
            delta.content, delta.calls = parsed.content, parsed.calls
            if reason is not None:
                parsed = self._tools.flush()
                delta.content += parsed.content
                delta.calls += parsed.calls
            self._called = self._called or bool(delta.calls)
            if reason == "stop" and self._called:
                delta.finish = self._calls_finish
        return delta
