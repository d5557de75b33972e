"""Tool calls as a list of Python calls: the format of Llama 3.2's small models and of Llama 4."""

from __future__ import annotations

import ast
import json
import re

from ironloom.serve.engines.programs.tool_stream import CallDelta, Parsed


class PythonicParser:
    """`[f(x=1), g()]`: Python calls with keyword arguments that are literals. Each is told when it is whole."""

    def __init__(self) -> None:
        self._text = ""
        self._state = "before"
        self._num_calls = 0

    def feed(self, text: str) -> Parsed:
        out = Parsed()
        if self._state == "content":
            out.content = text
            return out
        if self._state == "after":
            return out
        self._text += text
        if self._state == "before":
            stripped = self._text.lstrip().removeprefix("<|python_tag|>").lstrip()
            if not stripped or "<|python_tag|>".startswith(stripped):
                return out
            if not re.match(r"\[\s*([A-Za-z_][\w.]*\s*(\(|$)|$)", stripped):
                self._state = "content"
                out.content, self._text = self._text, ""
                return out
            if "(" not in stripped:
                return out
            self._state, self._text = "calls", stripped[1:]
        while self._state == "calls" and (end := _call_end(self._text)) is not None:
            source, self._text = self._text[:end].lstrip(" \t\r\n,"), self._text[end:]
            call = _pythonic_call(source)
            if call is None:
                self._state = "content" if not self._num_calls else "after"
                out.content += "[" + source + self._text if not self._num_calls else ""
                self._text = ""
                break
            name, arguments = call
            out.calls += [CallDelta(self._num_calls, name=name), CallDelta(self._num_calls, arguments=arguments)]
            self._num_calls += 1
            if self._text.lstrip().startswith("]"):
                self._state, self._text = "after", ""
        return out

    def flush(self) -> Parsed:
        out = Parsed()
        if self._state == "before":
            out.content = self._text
        elif self._state == "calls" and not self._num_calls:
            out.content = "[" + self._text
        self._text, self._state = "", "after"
        return out


def _call_end(text: str) -> int | None:
    """Where the first whole call ends (after its closing parenthesis), or None while it is not whole."""
    depth, quote, escaped = 0, "", False
    for at, char in enumerate(text):
        if quote:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0 and char == ")":
                return at + 1
            if depth < 0:
                return None
    return None


def _pythonic_call(source: str) -> tuple[str, str] | None:
    """Name and JSON arguments of `f(x=1)`, or None when it is no such call. Nothing is run: literals only."""
    try:
        node = ast.parse(source, mode="eval").body
        if not isinstance(node, ast.Call) or node.args:
            return None
        arguments = {keyword.arg: _literal(keyword.value) for keyword in node.keywords if keyword.arg}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return ast.unparse(node.func), json.dumps(arguments, ensure_ascii=False)


_JSON_NAMES = {"true": True, "false": False, "null": None}


def _literal(node: ast.expr) -> object:
    """A literal's value; JSON's true, false and null count as literals, since models mix them in."""
    if isinstance(node, ast.Name) and node.id in _JSON_NAMES:
        return _JSON_NAMES[node.id]
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {
            str(_literal(key)): _literal(value)
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
    value = ast.literal_eval(node)
    if not isinstance(value, str | int | float | bool | None):
        raise ValueError(f"{value!r} is no JSON value")
    return value
