"""Tool calls in a model's text: found, parsed and streamed, in the formats that models were trained on.

| format      | looks like                                                              | models                   |
|-------------|-------------------------------------------------------------------------|--------------------------|
| hermes      | `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, repeated        | Hermes, Qwen 2.5, Qwen 3 |
| llama3_json | `{"name": …, "parameters": {…}}`, `; ` between, `<|python_tag|>` before | Llama 3.1, 3.2, 3.3      |
| pythonic    | `[get_weather(city="Paris"), …]`                                        | Llama 3.2 small, Llama 4 |
| mistral     | `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`                        | Mistral                  |
|             | `[TOOL_CALLS]name[CALL_ID]…[ARGS]{…}`, repeated, the id left out or not | Mistral Small 3.2        |
| required    | `[{"name": …, "parameters": {…}}, …]`                                   | any, under a grammar     |

The names are those of vLLM's --tool-call-parser. A whole answer is parsed by the same code that parses a stream, fed
at once, so the two cannot differ. Text that begins like a call and turns out to be none is given as content.
"""

from __future__ import annotations

from collections.abc import Callable

from ironloom.serve.engines.programs.tool_json import JsonListParser
from ironloom.serve.engines.programs.tool_pythonic import PythonicParser
from ironloom.serve.engines.programs.tool_stream import ToolParser
from ironloom.serve.engines.programs.tool_tagged import HermesParser, MistralParser

PARSERS: dict[str, Callable[[], ToolParser]] = {
    "hermes": HermesParser,
    "llama3_json": lambda: JsonListParser("<|python_tag|>"),
    "llama4_pythonic": PythonicParser,
    "pythonic": PythonicParser,
    "mistral": MistralParser,
}
"""By vLLM's names."""


def required_parser() -> ToolParser:
    """For an answer that the grammar of tool_choice "required" shaped."""
    return JsonListParser()


def detect(template: str) -> str:
    """The format that a chat template teaches; `hermes` when it teaches none (see templates.py: it is then added)."""
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<tool_call>" in template:
        return "hermes"
    if "func_name1(params_name1=params_value1" in template or "<|python_start|>" in template:
        return "pythonic"
    if '"parameters"' in template and ("<|python_tag|>" in template or "<|eom_id|>" in template):
        return "llama3_json"
    return "hermes"


SHOWS_SPECIAL_TOKENS = frozenset({"llama3_json", "llama4_pythonic", "pythonic", "mistral"})
"""Formats whose markers are special tokens: with tools, these must not be skipped in the text."""
