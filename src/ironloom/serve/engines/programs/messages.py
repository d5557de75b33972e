"""A conversation and its tools, checked and brought into the form that chat templates read."""

from __future__ import annotations

import json
import re
from typing import Any

from ironloom.serve.engines.programs.fields import invalid, unsupported

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


def read_messages(value: Any) -> list[dict[str, Any]]:
    """The conversation as chat templates read it: contents as text, calls' arguments as objects."""
    if not isinstance(value, list) or not value:
        raise invalid("messages", "messages must be a list with at least one message")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(value)]


def _message(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid(path, f"{path} must be an object")
    role = value.get("role")
    if role not in _ROLES:
        raise invalid(f"{path}.role", f"{path}.role is {role!r}; it must be one of {', '.join(sorted(_ROLES))}")
    message = {name: item for name, item in value.items() if item is not None}
    content = message.get("content")
    if isinstance(content, list):
        message["content"] = "\n".join(_part(part, f"{path}.content[{at}]") for at, part in enumerate(content))
    elif content is None:
        if role != "assistant":
            raise invalid(f"{path}.content", f"{path}.content is missing")
        message["content"] = ""
    elif not isinstance(content, str):
        raise invalid(f"{path}.content", f"{path}.content must be a text or a list of parts")
    if "tool_calls" in message:
        message["tool_calls"] = _past_calls(message["tool_calls"], f"{path}.tool_calls")
        if not message["tool_calls"]:
            del message["tool_calls"]
    return message


def _part(part: Any, path: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in {"text", "input_text", "output_text", "refusal"}:
        text = part.get("refusal" if kind == "refusal" else "text")
        if isinstance(text, str):
            return text
        raise invalid(f"{path}.text", f"{path}.text must be a text")
    if isinstance(kind, str):
        raise unsupported(f"{path}.type", f"it is {kind!r}, and this engine reads text")
    raise invalid(path, f"{path} must be an object with a type")


def _past_calls(value: Any, path: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise invalid(path, f"{path} must be a list")
    calls = []
    for index, call in enumerate(value):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise invalid(f"{path}[{index}].function", f"{path}[{index}].function must be an object with a name")
        arguments = function.get("arguments") or {}
        if isinstance(arguments, str):  # Templates write an object as JSON themselves; a text they would quote again.
            try:
                arguments = json.loads(arguments)
            except ValueError as error:
                message = f"{path}[{index}].function.arguments is not JSON"
                raise invalid(f"{path}[{index}].function.arguments", message) from error
        calls.append({**call, "function": {**function, "arguments": arguments}})
    return calls


def read_tools(value: Any) -> list[dict[str, Any]]:
    """The functions offered."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid("tools", "tools must be a list")
    for index, tool in enumerate(value):
        path = f"tools[{index}]"
        if not isinstance(tool, dict) or tool.get("type") != "function":
            kind = tool.get("type") if isinstance(tool, dict) else tool
            raise unsupported(f"{path}.type", f"it is {kind!r}, and only functions can be called")
        function = tool.get("function")
        if not isinstance(function, dict):
            raise invalid(f"{path}.function", f"{path}.function must be an object")
        name = function.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
            message = f"{path}.function.name must be 1 to 64 letters, digits, underscores, dots or dashes"
            raise invalid(f"{path}.function.name", message)
        if not isinstance(function.get("parameters", {}), dict | None):
            raise invalid(f"{path}.function.parameters", f"{path}.function.parameters must be a JSON schema")
    return value
