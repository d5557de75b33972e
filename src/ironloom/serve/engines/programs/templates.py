"""The model's own chat template, rendered in Jinja's sandbox.

Where the template is looked for, in this order: --chat-template, `chat_template.jinja` beside the model,
`tokenizer_config.json`, and what the tokenizer itself brings (a GGUF's metadata, an OpenVINO tokenizer's rt_info).
The environment is that of Transformers' `apply_chat_template` (same filters, globals and whitespace rules), so that
templates written for it render the same. A template is a stranger's program: the sandbox keeps it from attributes of
Python's own, and from changing what it is given.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ironloom.errors import RequestError

HERMES_TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
"""Put into the system message where a template has no place for tools: the Hermes format, worded as Qwen 2.5's."""


class ChatTemplate:
    """A compiled chat template with the model's special tokens."""

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        """Raises ValueError when the template cannot be compiled."""
        from jinja2 import TemplateError, meta

        environment = _environment()
        try:
            self._template = environment.from_string(source)
            names = meta.find_undeclared_variables(environment.parse(source))
        except TemplateError as error:
            raise ValueError(f"the chat template cannot be compiled: {error}") from error
        self.source = source
        self.takes_tools = "tools" in names
        self.takes_developer = "developer" in source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt. Raises RequestError (400) when the template refuses these messages.

        `continue_final_message` leaves the last message open, so that the model goes on with it.
        """
        from jinja2 import TemplateError

        shown = [dict(message) for message in messages]
        if not self.takes_developer:
            for message in shown:
                if message.get("role") == "developer":
                    message["role"] = "system"
        if tools and not self.takes_tools:
            _add_tools(shown, tools)
        marker = ""
        if continue_final_message:
            marker = "\x02ironloom\x03"
            shown[-1]["content"] = str(shown[-1].get("content") or "") + marker
        try:
            text: str = self._template.render(
                messages=shown,
                tools=list(tools) if tools and self.takes_tools else None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **{**self._tokens, **(variables or {})},
            )
        except TemplateError as error:
            raise RequestError(
                400, f"the model's chat template refuses these messages: {error}", param="messages"
            ) from error
        except (TypeError, KeyError, AttributeError, ValueError, RecursionError, ArithmeticError) as error:
            why = f"the model's chat template cannot render these messages: {type(error).__name__}: {error}"
            raise _refused(why, "messages") from error
        if marker:
            at = text.rfind(marker)
            if at < 0:
                why = "the model's chat template does not show the last message as it is, so it cannot be continued"
                raise _refused(why, "continue_final_message")
            text = text[:at]
        return text


def find_template(folder: Path, override: Path | None = None) -> str | None:
    """A template's text from --chat-template or the model's folder, or None.

    Raises ValueError when a file that must hold one cannot be read.
    """
    if override is not None:
        try:
            return override.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"--chat-template {override} cannot be read: {error.strerror}") from error
    if not folder.is_dir():
        return None
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    found = read_json(folder / "tokenizer_config.json").get("chat_template")
    if found is None:
        found = read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(found, list):  # Several by name: `default`, `tool_use`, …
        named = {str(item.get("name")): item.get("template") for item in found if isinstance(item, dict)}
        found = named.get("default") or next(iter(named.values()), None)
    return found if isinstance(found, str) else None


def special_token(folder: Path, name: str) -> str | None:
    """`bos_token` or `eos_token` of tokenizer_config.json, which writes it as text or as an object."""
    value = read_json(folder / "tokenizer_config.json").get(name) if folder.is_dir() else None
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is no file. Raises ValueError for a file that is no JSON object."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    return found


def _refused(message: str, param: str) -> RequestError:
    return RequestError(400, message, param=param)


def _add_tools(messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> None:
    text = HERMES_TOOLS.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if messages and messages[0].get("role") == "system":
        messages[0]["content"] = f"{messages[0].get('content') or ''}\n\n{text}"
    else:
        messages.insert(0, {"role": "system", "content": text})
    for message in messages:
        calls = message.pop("tool_calls", None)
        if calls:
            written = "\n".join(
                f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>" for call in calls
            )
            message["content"] = "\n".join(filter(None, (message.get("content"), written)))
        elif message.get("role") == "tool":
            message["role"] = "user"
            message["content"] = f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"


def _environment() -> Any:
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}…{% endgeneration %}`: marks the assistant's text for training; renders its body."""

        tags = {"generation"}  # noqa: RUF012 (Jinja's own shape)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            from jinja2 import nodes

            return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Callable[[], str]) -> str:
            return caller()

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(pattern: str) -> str:
        return datetime.datetime.now().strftime(pattern)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment
