"""What requests may ask: every parameter is honoured or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.errors import RequestError
from ironloom.serve.engines.programs import params
from ironloom.serve.engines.programs.params import read_chat, read_completion

USER = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def chat(**body: Any) -> params.ChatRequest:
    return read_chat({"messages": USER, **body}, max_logprobs=0)


def refused(**body: Any) -> tuple[str | None, str]:
    with pytest.raises(RequestError) as caught:
        chat(**body)
    assert caught.value.status == 400
    return caught.value.param, caught.value.message


def test_defaults_are_vllms() -> None:
    request = chat()
    sampling = request.sampling(7, 0)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (1.0, 1.0, 0, 0.0)
    assert (sampling.max_tokens, sampling.seed, sampling.repetition_penalty) == (7, None, 1.0)
    assert read_completion({"prompt": "x"}, max_logprobs=0).max_tokens == 16


def test_null_is_absent() -> None:
    assert chat(temperature=None, stop=None, tools=None, logit_bias=None, audio=None) == chat()


@pytest.mark.parametrize(
    "harmless",
    [
        {"user": "u"}, {"metadata": {"a": "b"}}, {"logit_bias": {}}, {"use_beam_search": False}, {"store": False},
        {"top_k": -1}, {"n": 1}, {"modalities": ["text"]}, {"service_tier": "auto"}, {"length_penalty": 1.0},
        {"response_format": {"type": "text"}}, {"stop": []}, {"parallel_tool_calls": True},
    ],
)  # fmt: skip
def test_what_asks_nothing_is_taken(harmless: dict[str, Any]) -> None:
    assert chat(**harmless) == chat()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"n": 0}, "n"),
        ({"n": 2, "temperature": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens"),
        ({"stop": 3}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids"),
        ({"seed": "x"}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream": True, "stream_options": {"include_usages": True}}, "stream_options.include_usages"),
        ({"logprobs": 3}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 1, "temperature": 0, "presence_penalty": 1}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"guided_json": {"type": "objekt"}}, "guided_json.type"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": {"type": "string", "format": "colour"}}, "guided_json.format"),
        ({"guided_json": {"type": "string", "pattern": "a+", "maxLength": 3}}, "guided_json.maxLength"),
        ({"guided_json": {"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": {}}}}, "guided_json.minimum"),
        ({"guided_json": {"items": {"not": {}}}}, "guided_json.items.not"),
        ({"guided_json": {"type": "object"}, "guided_regex": "a"}, "guided_regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {"yaml": 1}}, "structured_outputs.yaml"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        *(({name: "x"}, name) for name in params._REFUSED if name not in {"suffix", "service_tier", "function_call"}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_honoured_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    found, message = refused(**body)
    assert found == param
    assert param.split(".", maxsplit=1)[0].split("[", maxsplit=1)[0] in message


def test_a_keyword_of_a_schema_that_would_be_passed_over_is_refused_with_its_path() -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer", "multipleOf": 5}}}
    param, _ = refused(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert param == "response_format.json_schema.schema.properties.age.multipleOf"


def test_the_most_probable_token_is_the_chosen_one_when_it_is_greedy() -> None:
    assert chat(logprobs=True, top_logprobs=1, temperature=0).top_logprobs == 1


def test_content_parts_become_text_and_past_arguments_objects() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    request = chat(
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "2"},
        ]
    )
    assert request.messages[0]["content"] == "a\nb"
    assert request.messages[1]["tool_calls"][0]["function"]["arguments"] == {"x": 1}


def test_choices_become_a_regular_expression_of_literal_texts() -> None:
    grammar = chat(guided_choice=["a.b", "c"]).grammar
    assert grammar is not None
    assert grammar.text == "(a\\.b)|(c)"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [*params._REFUSED, "temperature", "top_p", "n", "stop", "messages", "tools", "tool_choice", "response_format",
     "stream", "stream_options", "logprobs", "guided_json", "structured_outputs", "prompt", "max_tokens", "seed"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(body=st.dictionaries(NAMES, JSON, max_size=4))
def test_no_body_raises_anything_but_a_request_error(body: dict[str, Any]) -> None:
    for read in (read_chat, read_completion):
        error = None
        try:
            read({"messages": USER, "prompt": "x", **body}, max_logprobs=0)
        except RequestError as caught:
            error = caught
        assert error is None or (error.status == 400 and error.param)


def test_every_parameter_stands_in_the_reference() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/engine-api.md").read_text()
    honoured = {f.name for f in __import__("dataclasses").fields(params.ChatRequest)}
    renamed = {
        "include_usage": "stream_options.include_usage", "continuous_usage": "stream_options.continuous_usage_stats",
        "include_stop": "include_stop_str_in_output", "tokens_as_ids": "return_tokens_as_token_ids",
        "grammar": "response_format", "tool_name": "tool_choice", "template_variables": "chat_template_kwargs",
    }  # fmt: skip
    wanted = {renamed.get(name, name) for name in honoured} | set(params._REFUSED) | set(params.ASKS_NOTHING)
    assert sorted(name for name in wanted if f"`{name}`" not in page) == []
