"""The output of the Responses API: its objects, and the events of a stream made from the chunks of a chat. Pure.

Source of the shapes: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

import secrets
from typing import Any

from ironloom.errors import RequestError
from ironloom.serve.gateway.chat import Chat, ToolCall, Usage, event

Item = dict[str, Any]


def message(text: str, logprobs: list[Any], item_id: str | None = None) -> Item:
    """A finished message item."""
    return {
        "id": item_id or new_id("msg"),
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [text_part(text, logprobs)],
    }


def text_part(text: str, logprobs: list[Any]) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def reasoning(text: str, item_id: str | None = None) -> Item:
    """A finished reasoning item."""
    content = [{"type": "reasoning_text", "text": text}]
    return {
        "id": item_id or new_id("rs"),
        "type": "reasoning",
        "summary": [],
        "content": content,
        "status": "completed",
    }


def function_call(call_id: str | None, name: str, arguments: str, item_id: str | None = None) -> Item:
    """A finished function call item."""
    return {
        "id": item_id or new_id("fc"),
        "type": "function_call",
        "call_id": call_id or new_id("call"),
        "name": name,
        "arguments": arguments,
        "status": "completed",
    }


def finished(template: Item, output: list[Item], finish_reason: str | None, usage: Usage | None) -> Item:
    """The Response object once its output is whole."""
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(finish_reason or "")
    return template | {
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "output": output,
        "usage": _usage(usage),
    }


def whole(template: Item, chat: Chat) -> Item:
    """The Response object of a whole chat completion. Raises RequestError 502 when it has no choice."""
    if not chat.choices:
        raise RequestError(502, "the engine's answer has no choice", type="server_error", source="engine")
    choice = chat.choices[0]
    output: list[Item] = []
    if choice.message.thought:
        output.append(reasoning(choice.message.thought))
    if choice.message.content or not choice.message.tool_calls:
        output.append(message(choice.message.content or "", (choice.logprobs or {}).get("content") or []))
    output += [
        function_call(call.id, call.function.name or "", call.function.arguments or "")
        for call in choice.message.tool_calls or []
    ]
    return finished(template, output, choice.finish_reason, chat.usage)


class ResponseEvents:
    """The events of one stream. Items are open one at a time: a thought, a message, each function call."""

    def __init__(self, template: Item) -> None:
        self._template = template
        self._number = 0
        self._output: list[Item] = []
        self._open: _OpenItem | None = None
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    def begin(self) -> bytes:
        return self._event("response.created", response=self._template) + self._event(
            "response.in_progress", response=self._template
        )

    def chunk(self, chat: Chat) -> bytes:
        """The events of one chunk."""
        self._usage = chat.usage or self._usage
        out = b""
        for choice in chat.choices[:1]:
            delta = choice.delta
            if delta.thought:
                out += self._add("reasoning", delta.thought)
            if delta.content:
                out += self._add("message", delta.content, (choice.logprobs or {}).get("content") or [])
            for call in delta.tool_calls or []:
                out += self._add_call(call)
            self._finish_reason = choice.finish_reason or self._finish_reason
        return out

    def end(self) -> bytes:
        """The end of a stream: an engine that stopped without a finish_reason did not finish."""
        if self._finish_reason is None:
            return self.failed(
                RequestError(
                    502,
                    "the engine's answer ended before it was finished",
                    type="server_error",
                    code="engine_failed",
                    source="engine",
                )
            )
        out = b""
        if not self._output and self._open is None:
            out += self._add("message", "")
        out += self._close()
        response = finished(self._template, self._output, self._finish_reason, self._usage)
        return out + self._event(f"response.{response['status']}", response=response)

    def failed(self, error: RequestError) -> bytes:
        """The stream ends in response.failed, with the error in OpenAI's shape and who failed."""
        told = {"code": error.error_code or "server_error", "message": error.message, "source": error.source}
        output = [*self._output, *([self._open.item("incomplete")] if self._open else [])]
        response = self._template | {"status": "failed", "error": told, "output": output}
        return self._event("response.failed", response=response)

    def _add(self, kind: str, text: str, logprobs: list[Any] | None = None) -> bytes:
        out = b""
        if self._open is None or self._open.kind != kind:
            out += self._close() + self._begin(_OpenItem(kind))
        assert self._open is not None
        self._open.text += text
        self._open.logprobs += logprobs or []
        if kind == "reasoning":
            return out + self._item_event("response.reasoning_text.delta", content_index=0, delta=text)
        if text:
            out += self._item_event("response.output_text.delta", content_index=0, delta=text, logprobs=logprobs or [])
        return out

    def _add_call(self, call: ToolCall) -> bytes:
        out = b""
        is_new = self._open is None or self._open.kind != "function_call" or self._open.index != call.index
        if is_new:
            item = _OpenItem("function_call", index=call.index, call_id=call.id, name=call.function.name or "")
            out += self._close() + self._begin(item)
        assert self._open is not None
        if call.function.arguments:
            self._open.text += call.function.arguments
            out += self._item_event("response.function_call_arguments.delta", delta=call.function.arguments)
        return out

    def _begin(self, item: _OpenItem) -> bytes:
        self._open = item
        out = self._event(
            "response.output_item.added", output_index=len(self._output), item=item.item("in_progress", empty=True)
        )
        if item.kind != "function_call":
            out += self._item_event("response.content_part.added", content_index=0, part=item.part(empty=True))
        return out

    def _close(self) -> bytes:
        """The events that finish the open item."""
        opened = self._open
        if opened is None:
            return b""
        item = opened.item("completed")
        if opened.kind == "function_call":
            out = self._item_event("response.function_call_arguments.done", name=opened.name, arguments=opened.text)
        else:
            name = "reasoning_text" if opened.kind == "reasoning" else "output_text"
            more = {} if opened.kind == "reasoning" else {"logprobs": opened.logprobs}
            out = self._item_event(f"response.{name}.done", content_index=0, text=opened.text, **more)
            out += self._item_event("response.content_part.done", content_index=0, part=opened.part())
        out += self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._open = None
        return out

    def _item_event(self, kind: str, **fields: Any) -> bytes:
        assert self._open is not None
        return self._event(kind, item_id=self._open.id, output_index=len(self._output), **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return event(kind, {"type": kind, "sequence_number": self._number - 1, **fields})


class _OpenItem:
    """The item that is being written."""

    def __init__(self, kind: str, *, index: int = 0, call_id: str | None = None, name: str = "") -> None:
        self.kind = kind
        self.id = new_id({"message": "msg", "reasoning": "rs", "function_call": "fc"}[kind])
        self.index = index
        self.call_id = call_id or new_id("call")
        self.name = name
        self.text = ""
        self.logprobs: list[Any] = []

    def item(self, status: str, *, empty: bool = False) -> Item:
        if self.kind == "function_call":
            made = function_call(self.call_id, self.name, self.text, self.id)
        elif self.kind == "reasoning":
            made = reasoning(self.text, self.id)
        else:
            made = message(self.text, self.logprobs, self.id)
        return made | {"status": status} | ({"content": []} if empty and self.kind != "function_call" else {})

    def part(self, *, empty: bool = False) -> Item:
        text = "" if empty else self.text
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return text_part(text, [] if empty else self.logprobs)


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def _usage(usage: Usage | None) -> Item | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
