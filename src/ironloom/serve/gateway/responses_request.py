"""A request of the Responses API as a chat completion request. Pure.

Source of the shapes: https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from typing import Any

from ironloom.serve.gateway.chat import text_field, unsupported, wrong

Fields = dict[str, Any]

_STATELESS = "this API keeps nothing between calls; send the whole conversation in `input`"
_REFUSED = {
    "previous_response_id": _STATELESS,
    "conversation": _STATELESS,
    "prompt": "stored prompts are not kept here; send the text in `instructions` and `input`",
    "max_tool_calls": "it bounds built-in tools, and there are none here",
}
_COPIED = ("temperature", "top_p", "user", "parallel_tool_calls")
_ENGINE_OWN = (
    "chat_template_kwargs",
    "frequency_penalty",
    "ignore_eos",
    "min_p",
    "min_tokens",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "top_k",
)
"""Not of this API; clients send them as `extra_body`, and the engine judges them."""
_HINTS = ("metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier")
"""Change nothing in an answer; metadata is echoed."""
_ONLY: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "store": (False,),
    "truncation": ("disabled",),
    "service_tier": ("auto", "default"),
}
"""Parameters of which only these values are honoured."""
_TRANSLATED = frozenset(
    {
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "model",
        "reasoning",
        "stream",
        "stream_options",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
    }
)
_KNOWN = _TRANSLATED | set(_REFUSED) | set(_COPIED) | set(_ENGINE_OWN) | set(_HINTS) | set(_ONLY)
_LOGPROBS = "message.output_text.logprobs"


def chat_request(fields: Fields) -> Fields:
    """The chat completion request. `fields` are those of the request that are not null.

    Raises RequestError 400 with the parameter's name for what is wrong or not honoured.
    """
    _refuse(fields)
    chat: Fields = {
        "model": text_field(fields, "model"),
        "messages": _messages(fields),
        "stream": fields.get("stream", False),
    }
    if not isinstance(chat["stream"], bool):
        raise wrong("stream", "it must be true or false")
    if chat["stream"]:
        chat["stream_options"] = {"include_usage": True}
    chat |= {name: fields[name] for name in (*_COPIED, *_ENGINE_OWN) if name in fields}
    if "max_output_tokens" in fields:
        chat["max_completion_tokens"] = fields["max_output_tokens"]
    if "tools" in fields:
        chat["tools"] = _tools(fields["tools"])
    if "tool_choice" in fields:
        chat["tool_choice"] = _tool_choice(fields["tool_choice"])
    if "text" in fields:
        chat |= _text_format(_object(fields, "text"))
    if "reasoning" in fields:
        chat |= _reasoning(_object(fields, "reasoning"))
    wants_logprobs = _LOGPROBS in fields.get("include", [])
    if wants_logprobs or fields.get("top_logprobs"):
        chat |= {"logprobs": True, "top_logprobs": fields.get("top_logprobs", 0)}
    return chat


def template(fields: Fields) -> Fields:
    """The fields of a Response object that are known before there is any output."""
    return {
        "object": "response",
        "model": fields["model"],
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": fields.get("instructions"),
        "max_output_tokens": fields.get("max_output_tokens"),
        "metadata": fields.get("metadata", {}),
        "output": [],
        "parallel_tool_calls": fields.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "reasoning": {"effort": fields.get("reasoning", {}).get("effort"), "summary": None},
        "store": False,
        "temperature": fields.get("temperature"),
        "text": {"format": fields.get("text", {}).get("format") or {"type": "text"}},
        "tool_choice": fields.get("tool_choice", "auto"),
        "tools": fields.get("tools", []),
        "top_logprobs": fields.get("top_logprobs", 0),
        "top_p": fields.get("top_p"),
        "truncation": "disabled",
        "usage": None,
        "user": fields.get("user"),
    }


def _refuse(fields: Fields) -> None:
    for name, value in fields.items():
        if name not in _KNOWN:
            raise unsupported(name, "this is no parameter of /v1/responses")
        if name in _REFUSED:
            raise unsupported(name, _REFUSED[name])
        if name in _ONLY and value not in _ONLY[name]:
            why = _STATELESS if name in ("background", "store") else "it is not supported here"
            raise unsupported(name, f"{value!r} is not honoured: {why}"[:300])
    include = fields.get("include", [])
    if not isinstance(include, list) or any(one != _LOGPROBS for one in include):
        raise unsupported("include", f"only {_LOGPROBS} can be included")
    if fields.get("stream_options", {}) not in ({}, {"include_obfuscation": False}):
        raise unsupported("stream_options", "only include_obfuscation: false is honoured")


def _messages(fields: Fields) -> list[Fields]:
    """The conversation. Leading system texts become one message: many chat templates take no second."""
    messages: list[Fields] = []
    if "instructions" in fields:
        messages.append({"role": "system", "content": text_field(fields, "instructions")})
    items = fields.get("input")
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    if not isinstance(items, list) or not items:
        raise wrong("input", "it must be a text or a list of items")
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise wrong(f"input[{index}]", "it must be an object")
        _add_item(messages, item, f"input[{index}]")
    while len(messages) > 1 and messages[0]["role"] == messages[1]["role"] == "system":
        joined = f"{messages[0]['content']}\n\n{messages[1]['content']}"
        messages[:2] = [{"role": "system", "content": joined}]
    return messages


def _add_item(messages: list[Fields], item: Fields, where: str) -> None:
    kind = item.get("type", "message" if "role" in item else None)
    if kind == "message":
        messages.append(_message(item, where))
    elif kind == "function_call":
        call = {
            "id": text_field(item, "call_id", f"{where}."),
            "type": "function",
            "function": {
                "name": text_field(item, "name", f"{where}."),
                "arguments": text_field(item, "arguments", f"{where}."),
            },
        }
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": None})
        messages[-1].setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        content = _content(item.get("output"), f"{where}.output")
        messages.append({"role": "tool", "tool_call_id": text_field(item, "call_id", f"{where}."), "content": content})
    elif kind == "item_reference":
        raise unsupported(where, _STATELESS)
    elif kind != "reasoning":
        raise unsupported(f"{where}.type", f"items of type {kind!r} are not honoured here"[:200])


def _message(item: Fields, where: str) -> Fields:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise wrong(f"{where}.role", "it must be user, assistant, system or developer")
    content = _content(item.get("content"), f"{where}.content")
    if role in ("system", "developer"):
        if not isinstance(content, str):
            raise unsupported(f"{where}.content", "a system message is text")
        return {"role": "system", "content": content}
    return {"role": role, "content": content}


def _content(content: Any, where: str) -> str | list[Fields]:
    """A message's content: one text where all its parts are texts, since every engine takes that."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(where, "it must be a text or a list of parts")
    parts: list[Fields] = []
    for index, part in enumerate(content):
        here = f"{where}[{index}]"
        if not isinstance(part, dict):
            raise wrong(here, "it must be an object")
        kind = part.get("type")
        if kind in ("input_text", "output_text", "text"):
            parts.append({"type": "text", "text": text_field(part, "text", f"{here}.")})
        elif kind == "refusal":
            parts.append({"type": "text", "text": text_field(part, "refusal", f"{here}.")})
        elif kind == "input_image" and isinstance(part.get("image_url"), str):
            url = {"url": part["image_url"]}
            parts.append({"type": "image_url", "image_url": url | _detail(part)})
        else:
            raise unsupported(f"{here}.type", f"parts of type {kind!r} are not honoured here"[:200])
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _detail(part: Fields) -> Fields:
    return {"detail": part["detail"]} if part.get("detail") else {}


def _tools(tools: Any) -> list[Fields]:
    if not isinstance(tools, list):
        raise wrong("tools", "it must be a list")
    made = []
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if not isinstance(tool, dict):
            raise wrong(where, "it must be an object")
        if tool.get("type") != "function":
            raise unsupported(f"{where}.type", f"tools of type {tool.get('type')!r} are not here; only function"[:200])
        text_field(tool, "name", f"{where}.")
        names = ("name", "description", "parameters", "strict")
        function = {name: tool[name] for name in names if tool.get(name) is not None}
        made.append({"type": "function", "function": function})
    return made


def _tool_choice(choice: Any) -> str | Fields:
    if choice in ("auto", "none", "required"):
        return str(choice)
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": text_field(choice, "name", "tool_choice.")}}
    raise unsupported("tool_choice", "it must be auto, none, required or a function")


def _text_format(text: Fields) -> Fields:
    if text.get("verbosity") not in (None, "medium"):
        raise unsupported("text.verbosity", "only medium is honoured")
    form = text.get("format")
    if form is None or form == {"type": "text"}:
        return {}
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if kind == "json_schema":
        names = ("name", "description", "schema", "strict")
        schema = {name: form[name] for name in names if form.get(name) is not None}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    raise unsupported("text.format.type", "it must be text, json_object or json_schema")


def _reasoning(reasoning: Fields) -> Fields:
    for name, value in reasoning.items():
        if name in ("summary", "generate_summary") and value in (None, "auto"):
            continue
        if name != "effort" and value is not None:
            raise unsupported(f"reasoning.{name}", "it is not honoured here")
    effort = reasoning.get("effort")
    return {} if effort is None else {"reasoning_effort": effort}


def _object(fields: Fields, name: str) -> Fields:
    value = fields[name]
    if not isinstance(value, dict):
        raise wrong(name, "it must be an object")
    return value
