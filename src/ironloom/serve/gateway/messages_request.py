"""A request of Anthropic's Messages API as a chat completion request. Pure.

Source of the shapes: https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

from typing import Any

import msgspec

from ironloom.serve.gateway.chat import text_field, unsupported, wrong

Fields = dict[str, Any]

_COPIED = ("temperature", "top_p", "top_k")
_HINTS = ("metadata", "cache_control")
"""Change nothing in an answer: prefixes are cached without being asked."""
_ONLY: dict[str, tuple[Any, ...]] = {
    "service_tier": ("auto", "standard_only"),
    "thinking": ({"type": "disabled"}, {"type": "adaptive"}),
}
"""Parameters of which only these values are honoured."""
_TRANSLATED = frozenset(
    {"max_tokens", "messages", "model", "stop_sequences", "stream", "system", "tool_choice", "tools"}
)
_KNOWN = _TRANSLATED | set(_COPIED) | set(_HINTS) | set(_ONLY)


def chat_request(fields: Fields) -> Fields:
    """The chat completion request. `fields` are those of the request that are not null.

    Raises RequestError 400 with the parameter's name for what is wrong or not honoured.
    """
    chat = prompt_request(fields)
    max_tokens = fields.get("max_tokens")
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
        raise wrong("max_tokens", "it must be a whole number of at least 1")
    chat["max_completion_tokens"] = max_tokens
    chat["stream"] = fields.get("stream", False)
    if not isinstance(chat["stream"], bool):
        raise wrong("stream", "it must be true or false")
    if chat["stream"]:
        # With each chunk, so that message_start can tell the prompt's tokens.
        chat["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    chat |= {name: fields[name] for name in _COPIED if name in fields}
    if "stop_sequences" in fields:
        chat["stop"] = fields["stop_sequences"]
    if "tool_choice" in fields:
        chat |= _tool_choice(fields["tool_choice"])
    if chat["messages"][-1]["role"] == "assistant":  # the client began the answer; it goes on from there
        chat |= {"add_generation_prompt": False, "continue_final_message": True}
    return chat


def prompt_request(fields: Fields) -> Fields:
    """What makes the prompt: model, messages, tools. Enough to count its tokens."""
    for name, value in fields.items():
        if name not in _KNOWN:
            raise unsupported(name, "it is not honoured here")
        if name in _ONLY and value not in _ONLY[name]:
            raise unsupported(name, f"{value!r} is not honoured here"[:300])
    chat: Fields = {"model": text_field(fields, "model"), "messages": _messages(fields)}
    if "tools" in fields:
        chat["tools"] = _tools(fields["tools"])
    return chat


def _messages(fields: Fields) -> list[Fields]:
    messages: list[Fields] = []
    if "system" in fields:
        system = _content(fields["system"], "system")
        if not isinstance(system, str):
            raise unsupported("system", "a system prompt is text")
        messages.append({"role": "system", "content": system})
    given = fields.get("messages")
    if not isinstance(given, list) or not given:
        raise wrong("messages", "it must be a list of at least one message")
    for index, message in enumerate(given):
        where = f"messages.{index}"
        if not isinstance(message, dict):
            raise wrong(where, "it must be an object")
        content = message.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
            raise wrong(f"{where}.content", "it must be a text or a list of blocks")
        if message.get("role") == "user":
            messages += _user(blocks, f"{where}.content")
        elif message.get("role") == "assistant":
            messages.append(_assistant(blocks, f"{where}.content"))
        else:
            raise wrong(f"{where}.role", "it must be user or assistant")
    return messages


def _user(blocks: list[Fields], where: str) -> list[Fields]:
    """Results of tools are messages of their own in a chat, before what the user says besides."""
    results: list[Fields] = []
    said: list[Fields] = []
    for index, block in enumerate(blocks):
        if block.get("type") != "tool_result":
            said.append(block)
            continue
        here = f"{where}.{index}"
        content = _content(block.get("content", ""), f"{here}.content")
        if block.get("is_error") is True and isinstance(content, str):
            content = f"Error: {content}"
        call_id = text_field(block, "tool_use_id", f"{here}.")
        results.append({"role": "tool", "tool_call_id": call_id, "content": content})
    if said or not results:
        results.append({"role": "user", "content": _content(said, where)})
    return results


def _assistant(blocks: list[Fields], where: str) -> Fields:
    calls = []
    said = []
    for index, block in enumerate(blocks):
        kind = block.get("type")
        if kind == "tool_use":
            here = f"{where}.{index}."
            arguments = msgspec.json.encode(block.get("input", {})).decode()
            function = {"name": text_field(block, "name", here), "arguments": arguments}
            calls.append({"id": text_field(block, "id", here), "type": "function", "function": function})
        elif kind not in ("thinking", "redacted_thinking"):  # chat templates drop earlier thoughts
            said.append(block)
    message: Fields = {"role": "assistant", "content": _content(said, where) if said else None}
    if calls:
        message["tool_calls"] = calls
    elif message["content"] is None:
        message["content"] = ""
    return message


def _content(content: Any, where: str) -> str | list[Fields]:
    """Content as a chat has it: one text where all blocks are texts, since every engine takes that."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(where, "it must be a text or a list of blocks")
    parts: list[Fields] = []
    for index, block in enumerate(content):
        here = f"{where}.{index}"
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            parts.append({"type": "text", "text": text_field(block, "text", f"{here}.")})
        elif kind == "image":
            parts.append({"type": "image_url", "image_url": {"url": _image_url(block.get("source"), here)}})
        else:
            raise unsupported(f"{here}.type", f"blocks of type {kind!r} are not honoured here"[:200])
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _image_url(source: Any, where: str) -> str:
    if isinstance(source, dict) and source.get("type") == "url":
        return text_field(source, "url", f"{where}.source.")
    if isinstance(source, dict) and source.get("type") == "base64":
        media_type = text_field(source, "media_type", f"{where}.source.")
        return f"data:{media_type};base64,{text_field(source, 'data', f'{where}.source.')}"
    raise unsupported(f"{where}.source.type", "it must be base64 or url")


def _tools(tools: Any) -> list[Fields]:
    if not isinstance(tools, list):
        raise wrong("tools", "it must be a list")
    made = []
    for index, tool in enumerate(tools):
        where = f"tools.{index}"
        if not isinstance(tool, dict):
            raise wrong(where, "it must be an object")
        if tool.get("type") not in (None, "custom"):
            raise unsupported(f"{where}.type", f"tools of type {tool['type']!r} are not here; only your own"[:200])
        function = {"name": text_field(tool, "name", f"{where}."), "parameters": tool.get("input_schema", {})}
        if isinstance(tool.get("description"), str):
            function["description"] = tool["description"]
        made.append({"type": "function", "function": function})
    return made


def _tool_choice(choice: Any) -> Fields:
    if not isinstance(choice, dict):
        raise wrong("tool_choice", "it must be an object")
    chat: Fields = {"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") is True else {}
    kind = choice.get("type")
    if kind in ("auto", "none"):
        return chat | {"tool_choice": kind}
    if kind == "any":
        return chat | {"tool_choice": "required"}
    if kind == "tool":
        return chat | {
            "tool_choice": {"type": "function", "function": {"name": text_field(choice, "name", "tool_choice.")}}
        }
    raise wrong("tool_choice.type", "it must be auto, any, tool or none")
