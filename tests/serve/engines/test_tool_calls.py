"""Tool calls in recorded text, whole and streamed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.serve.engines.programs.tool_calls import PARSERS, detect, required_parser
from ironloom.serve.engines.programs.tool_stream import ToolParser

Calls = list[tuple[str, object]]


def read(parser: ToolParser, pieces: list[str]) -> tuple[str, Calls]:
    """Content and calls of a text that comes in pieces, put together as a client does."""
    content, names, arguments = "", {}, {}
    for parsed in [*map(parser.feed, pieces), parser.flush()]:
        content += parsed.content
        for delta in parsed.calls:
            if delta.name is not None:
                assert delta.index not in names, "a call is named once"
                names[delta.index] = delta.name
            assert delta.index in names, "a call's name comes before its arguments"
            arguments[delta.index] = arguments.get(delta.index, "") + delta.arguments
    assert list(names) == list(range(len(names)))
    return content, [(names[index], json.loads(arguments[index])) for index in names]


PARIS = ("get_weather", {"city": "Paris", "unit": "celsius"})
ROME = ("get_weather", {"city": "Rome"})

# Recorded from Qwen 2.5, Hermes 3, Llama 3.1, Llama 3.2, Mistral and Mistral Small, as their authors document them.
CASES: list[tuple[str, str, str, str, Calls]] = [
    (
        "hermes: one call",
        "hermes",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}\n</tool_call>',
        "",
        [PARIS],
    ),
    (
        "hermes: text, then two calls",
        "hermes",
        (
            'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}\n'
            '</tool_call>\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
        ),
        "Let me look.",
        [PARIS, ROME],
    ),
    (
        "hermes: arguments before the name",
        "hermes",
        '<tool_call>{"arguments": {"city": "Rome"}, "name": "get_weather"}</tool_call>',
        "",
        [ROME],
    ),
    (
        "hermes: arguments as a text of JSON",
        "hermes",
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Rome\\"}"}</tool_call>',
        "",
        [ROME],
    ),
    (
        "hermes: no arguments",
        "hermes",
        '<tool_call>{"name": "now"}</tool_call><tool_call>{"name": "now", "arguments": null}</tool_call>',
        "",
        [("now", {}), ("now", {})],
    ),
    (
        "hermes: braces, quotes and tags inside a text",
        "hermes",
        '<tool_call>{"name": "run", "arguments": {"code": "p(\\"}</tool_call>{\\")", "n": [{"a": []}]}}</tool_call>',
        "",
        [("run", {"code": 'p("}</tool_call>{")', "n": [{"a": []}]})],
    ),
    ("hermes: no call at all", "hermes", "1 < 2 and <tool> is no call", "1 < 2 and <tool> is no call", []),
    ("hermes: not JSON", "hermes", "<tool_call>get_weather</tool_call>", "<tool_call>get_weather</tool_call>", []),
    ("hermes: cut before the name", "hermes", '<tool_call>{"na', '<tool_call>{"na', []),
    (
        "llama3: parameters",
        "llama3_json",
        '{"name": "get_weather", "parameters": {"city": "Paris", "unit": "celsius"}}',
        "",
        [PARIS],
    ),
    (
        "llama3: python tag and two calls",
        "llama3_json",
        (
            '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris", "unit": "celsius"}}; '
            '{"name": "get_weather", "parameters": {"city": "Rome"}}'
        ),
        "",
        [PARIS, ROME],
    ),
    ("llama3: plain text", "llama3_json", "It is 20 degrees in Paris.", "It is 20 degrees in Paris.", []),
    ("llama3: JSON that is no call", "llama3_json", '{"answer": 42}', '{"answer": 42}', []),
    (
        "mistral: a list",
        "mistral",
        (
            '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}, '
            '{"name": "get_weather", "arguments": {"city": "Rome"}}]'
        ),
        "",
        [PARIS, ROME],
    ),
    (
        "mistral: text before",
        "mistral",
        'I will look. [TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Rome"}}]',
        "I will look.",
        [ROME],
    ),
    (
        "mistral small 3.2: name and object, twice",
        "mistral",
        '[TOOL_CALLS]get_weather{"city": "Paris", "unit": "celsius"}[TOOL_CALLS]get_weather[ARGS]{"city": "Rome"}',
        "",
        [PARIS, ROME],
    ),
    (
        "mistral small 3.2: with ids of its own",
        "mistral",
        (
            '[TOOL_CALLS]get_weather[CALL_ID]9Ya5BcD01[ARGS]{"city": "Paris", "unit": "celsius"}'
            '[TOOL_CALLS]get_weather[CALL_ID]zz0000001[ARGS]{"city": "Rome"}'
        ),
        "",
        [PARIS, ROME],
    ),
    ("mistral: plain text", "mistral", "[TOOL] is no marker", "[TOOL] is no marker", []),
    ("pythonic: one", "pythonic", '[get_weather(city="Rome")]', "", [ROME]),
    (
        "pythonic: two, all kinds of values",
        "pythonic",
        "[get_weather(city='Paris', unit='celsius'), set(a=[1, -2.5], b={'x': None}, c=true, d=\"(,)\")]",
        "",
        [PARIS, ("set", {"a": [1, -2.5], "b": {"x": None}, "c": True, "d": "(,)"})],
    ),
    ("pythonic: a dotted name", "pythonic", "[weather.get(city='Rome')]", "", [("weather.get", {"city": "Rome"})]),
    ("pythonic: a plain list", "pythonic", "[1, 2, 3]", "[1, 2, 3]", []),
    ("pythonic: positional arguments are none", "pythonic", "[f(1)]", "[f(1)]", []),
    ("pythonic: code is not run", "pythonic", "[f(x=open('/etc/passwd'))]", "[f(x=open('/etc/passwd'))]", []),
    (
        "required: a list",
        "required",
        (
            '[{"name": "get_weather", "parameters": {"city": "Paris", "unit": "celsius"}}, '
            '{"name": "get_weather", "parameters": {"city": "Rome"}}]'
        ),
        "",
        [PARIS, ROME],
    ),
]


def parser_of(name: str) -> ToolParser:
    return required_parser() if name == "required" else PARSERS[name]()


@pytest.mark.parametrize(("format_name", "text", "content", "calls"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_recorded_text_is_parsed_the_same_whole_and_by_characters(
    format_name: str, text: str, content: str, calls: Calls
) -> None:
    assert read(parser_of(format_name), [text]) == (content, calls)
    assert read(parser_of(format_name), list(text)) == (content, calls)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_cut_of_a_stream_gives_the_same_calls(data: st.DataObject) -> None:
    _, format_name, text, content, calls = data.draw(st.sampled_from(CASES))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(parser_of(format_name), pieces) == (content, calls)


@settings(max_examples=200, deadline=None)
@given(
    format_name=st.sampled_from([*PARSERS, "required"]),
    pieces=st.lists(
        st.one_of(
            st.sampled_from(
                ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", '{"name": "f"', ', "arguments": {', "}", "["]
            ),
            st.text(max_size=8),
        ),
        max_size=8,
    ),
)
def test_no_text_breaks_a_parser(format_name: str, pieces: list[str]) -> None:
    parser = parser_of(format_name)
    for piece in pieces:
        parser.feed(piece)
    parser.flush()


def test_arguments_are_streamed_before_the_call_is_whole() -> None:
    parser = PARSERS["hermes"]()
    deltas = parser.feed('<tool_call>{"name": "write", "arguments": {"text": "Once upon').calls
    assert deltas[0].name == "write"
    assert deltas[1].arguments == '{"text": "Once upon'
    assert [d.arguments for d in parser.feed(" a time").calls] == [" a time"]


def test_a_call_cut_in_its_arguments_keeps_what_came() -> None:
    parser = PARSERS["hermes"]()
    deltas = parser.feed('<tool_call>{"name": "write", "arguments": {"te').calls + parser.flush().calls
    assert "".join(d.arguments for d in deltas) == '{"te'


@pytest.mark.parametrize(
    ("template", "format_name"),
    [
        ("…{{ '[TOOL_CALLS]' }}…", "mistral"),
        ('…<tool_call>\n{"name"…', "hermes"),
        ("…[func_name1(params_name1=params_value1, …)]…", "pythonic"),
        ('…{"name": function name, "parameters": …}… <|eom_id|>', "llama3_json"),
        ("{{ messages }}", "hermes"),
    ],
)
def test_the_format_is_known_from_the_chat_template(template: str, format_name: str) -> None:
    assert detect(template) == format_name
