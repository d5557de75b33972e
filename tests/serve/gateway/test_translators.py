"""The translators as pure functions: requests in, events out, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.errors import RequestError
from ironloom.serve.gateway.chat import EventReader, read_chat
from ironloom.serve.gateway.messages import CountTranslation, MessagesTranslation, error_body
from ironloom.serve.gateway.responses import ResponsesTranslation

Fields = dict[str, Any]


def responses(**fields: Any) -> ResponsesTranslation:
    return ResponsesTranslation(json.dumps({"model": "small", "input": "Hi", **fields}).encode())


def messages(**fields: Any) -> MessagesTranslation:
    base = {"model": "small", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    return MessagesTranslation(json.dumps({**base, **fields}).encode())


def sent(translation: Any) -> Fields:
    return json.loads(translation.body)


def events(data: bytes) -> list[Fields]:
    return [json.loads(one) for one in EventReader().feed(data)]


def played(translation: Any, *chunks: Fields) -> list[Fields]:
    data = translation.begin() + b"".join(translation.chunk(read_chat(json.dumps(chunk).encode())) for chunk in chunks)
    return events(data + translation.end())


def delta(finish_reason: str | None = None, **fields: Any) -> Fields:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}


# ------------------------------------------------------------------ responses: requests


def test_a_text_becomes_a_user_message_and_instructions_the_system_message() -> None:
    chat = sent(responses(instructions="Be brief", temperature=0.5, max_output_tokens=7, top_k=3))
    assert chat == {
        "model": "small",
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
        "stream": False,
        "temperature": 0.5,
        "top_k": 3,
        "max_completion_tokens": 7,
    }


def test_a_conversation_with_tools_becomes_a_chat() -> None:
    chat = sent(
        responses(
            instructions="A",
            input=[
                {"role": "developer", "content": "B"},
                {"role": "user", "content": [{"type": "input_text", "text": "x"}, {"type": "input_text", "text": "y"}]},
                {"type": "reasoning", "id": "rs_1", "summary": []},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "let me see"}]},
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
                {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "1"},
                {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
            ],
            tools=[{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}],
            tool_choice={"type": "function", "name": "f"},
        )
    )
    calls = [
        {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": "{}"}}
        for number, name in ((1, "f"), (2, "g"))
    ]
    assert chat["messages"] == [
        {"role": "system", "content": "A\n\nB"},
        {"role": "user", "content": "xy"},
        {"role": "assistant", "content": "let me see", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
    ]
    function = {"name": "f", "parameters": {"type": "object"}, "strict": True}
    assert chat["tools"] == [{"type": "function", "function": function}]
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "f"}}


def test_formats_logprobs_and_images_are_translated() -> None:
    schema = {"type": "object"}
    chat = sent(
        responses(
            text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}},
            include=["message.output_text.logprobs"],
            top_logprobs=2,
            reasoning={"effort": "low"},
            input=[{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA=="}]}],
        )
    )
    json_schema = {"name": "n", "schema": schema, "strict": True}
    assert chat["response_format"] == {"type": "json_schema", "json_schema": json_schema}
    assert (chat["logprobs"], chat["top_logprobs"], chat["reasoning_effort"]) == (True, 2, "low")
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    assert chat["messages"][0]["content"] == [image]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"max_tool_calls": 1}, "max_tool_calls"),
        ({"truncation": "auto"}, "truncation"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"include": ["file_search_call.results"]}, "include"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"frequency": 1}, "frequency"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0].type",
        ),
        ({"model": None}, "model"),
        ({"model": 4}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_what_responses_cannot_honour_is_400_by_name(fields: Fields, param: str) -> None:
    with pytest.raises(RequestError) as error:
        responses(**fields)
    assert error.value.status == 400
    assert error.value.param == param
    assert param.partition("[")[0].partition(".")[0] in error.value.message


@pytest.mark.parametrize("fields", [{"store": False}, {"background": False}, {"previous_response_id": None}])
def test_saying_that_nothing_is_kept_is_fine(fields: Fields) -> None:
    assert responses(**fields).service == "small"


# ------------------------------------------------------------------ responses: answers


def test_a_streamed_text_is_told_in_openais_order() -> None:
    told = played(responses(stream=True), delta(content="Hel"), delta(content="lo"), delta("stop"), USAGE)
    assert [event["type"] for event in told] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["sequence_number"] for event in told] == list(range(10))
    response = told[-1]["response"]
    assert response["output"][0]["content"][0]["text"] == "Hello"
    assert response["usage"]["total_tokens"] == 7
    assert response["id"] == told[0]["response"]["id"]
    assert told[4]["item_id"] == response["output"][0]["id"]


def test_a_thought_a_text_and_two_calls_are_four_items() -> None:
    told = played(
        responses(stream=True),
        delta(reasoning_content="hmm"),
        delta(content="ok"),
        delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x"'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]),
        delta(tool_calls=[{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]),
        delta("tool_calls"),
    )
    output = told[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call", "function_call"]
    assert [item.get("arguments") for item in output] == [None, None, '{"x":1}', "{}"]
    added = [event["output_index"] for event in told if event["type"] == "response.output_item.added"]
    done = [event["output_index"] for event in told if event["type"] == "response.output_item.done"]
    assert added == done == [0, 1, 2, 3]


def test_an_answer_cut_by_its_length_is_incomplete() -> None:
    told = played(responses(stream=True), delta("length", content="Hel"), USAGE)
    assert told[-1]["type"] == "response.incomplete"
    assert told[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_an_engine_that_stops_in_the_middle_has_failed() -> None:
    told = played(responses(stream=True), delta(content="Hel"))
    assert told[-1]["type"] == "response.failed"
    assert told[-1]["response"]["error"]["source"] == "engine"
    assert not any(event["type"] == "response.completed" for event in told)


def test_a_whole_answer_is_a_response() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    chat = {
        "choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
    }
    response = json.loads(responses().whole(json.dumps(chat).encode()))
    assert response["status"] == "completed"
    assert [item["type"] for item in response["output"]] == ["function_call"]
    assert response["usage"]["input_tokens_details"] == {"cached_tokens": 4}
    assert response["store"] is False


@pytest.mark.parametrize("garbage", [b"", b"<html>", b"[]", b'{"choices": []}', b'{"choices": 3}', b"\xff"])
def test_garbage_of_an_engine_is_the_engines_failure(garbage: bytes) -> None:
    for translation in (responses(), messages()):
        with pytest.raises(RequestError) as error:
            translation.whole(garbage)
        assert (error.value.status, error.value.source) == (502, "engine")


# ------------------------------------------------------------------ messages: requests


def test_a_message_becomes_a_chat() -> None:
    chat = sent(messages(system="Be brief", stop_sequences=["END"], top_k=5, temperature=0.1, stream=True))
    assert chat == {
        "model": "small",
        "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
        "max_completion_tokens": 9,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "temperature": 0.1,
        "top_k": 5,
        "stop": ["END"],
    }


def test_tool_use_and_results_become_calls_and_tool_messages() -> None:
    chat = sent(
        messages(
            messages=[
                {"role": "user", "content": "weather?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "text", "text": "looking"},
                        {"type": "tool_use", "id": "t1", "name": "w", "input": {"city": "Oslo"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t1", "content": "no", "is_error": True},
                        {"type": "text", "text": "try again", "cache_control": {"type": "ephemeral"}},
                    ],
                },
            ],
            tools=[{"name": "w", "description": "d", "input_schema": {"type": "object"}}],
            tool_choice={"type": "any", "disable_parallel_tool_use": True},
        )
    )
    call = {"id": "t1", "type": "function", "function": {"name": "w", "arguments": '{"city":"Oslo"}'}}
    assert chat["messages"][1:] == [
        {"role": "assistant", "content": "looking", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": "Error: no"},
        {"role": "user", "content": "try again"},
    ]
    assert chat["tools"][0]["function"] == {"name": "w", "description": "d", "parameters": {"type": "object"}}
    assert (chat["tool_choice"], chat["parallel_tool_calls"]) == ("required", False)


def test_an_answer_that_the_client_began_is_gone_on_with() -> None:
    chat = sent(messages(messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}]))
    assert (chat["continue_final_message"], chat["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages.0.content.0.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"container": "c"}, "container"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"system": [{"type": "image", "source": {"type": "url", "url": "u"}}]}, "system"),
        ({"stream": 1}, "stream"),
    ],
)
def test_what_messages_cannot_honour_is_400_by_name_in_anthropics_shape(fields: Fields, param: str) -> None:
    with pytest.raises(RequestError) as error:
        messages(**fields)
    body = json.loads(error_body(error.value))
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["param"] == param


def test_tokens_are_counted_with_the_tools_and_without_max_tokens() -> None:
    body = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "tools": [{"name": "w"}]}
    counting = CountTranslation(json.dumps(body).encode())
    assert counting.path == "/tokenize"
    assert set(sent(counting)) == {"model", "messages", "tools"}
    assert json.loads(counting.whole(b'{"count": 12, "tokens": []}')) == {"input_tokens": 12}


# ------------------------------------------------------------------ messages: answers


def test_a_streamed_message_is_told_in_anthropics_order() -> None:
    told = played(
        messages(stream=True),
        delta(reasoning="hm"),
        delta(content="Hel"),
        delta(content="lo"),
        delta(tool_calls=[{"index": 0, "id": "t", "function": {"name": "w", "arguments": ""}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
        delta("tool_calls"),
        USAGE,
    )
    assert [event["type"] for event in told] == [
        "message_start",
        *("content_block_start", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
        "message_delta",
        "message_stop",
    ]
    assert [event["index"] for event in told if "index" in event] == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert told[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert told[-2]["usage"]["output_tokens"] == 2


def test_message_start_tells_the_prompts_tokens_as_the_first_chunk_does() -> None:
    first = delta(role="assistant", content="") | {
        "usage": {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}}
    }
    start = played(messages(stream=True), first, delta(content="Hi"), delta("stop"), USAGE)[0]
    assert start["type"] == "message_start"
    assert start["message"]["usage"] == {
        "input_tokens": 3, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2, "output_tokens": 1,
    }  # fmt: skip


def test_a_stream_that_fails_before_its_first_chunk_has_no_start() -> None:
    assert [event["type"] for event in played(messages(stream=True))] == ["error"]


@pytest.mark.parametrize(
    ("finish_reason", "stop_reason", "expected"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("stop", 2, ("end_turn", None)),
        ("stop", "<|im_end|>", ("end_turn", None)),
        ("length", None, ("max_tokens", None)),
        ("tool_calls", None, ("tool_use", None)),
        ("content_filter", None, ("refusal", None)),
    ],
)
def test_reasons_to_stop(finish_reason: str, stop_reason: Any, expected: tuple[str, str | None]) -> None:
    choice = {"message": {"content": "x"}, "finish_reason": finish_reason, "stop_reason": stop_reason}
    message = json.loads(messages(stop_sequences=["END"]).whole(json.dumps({"choices": [choice]}).encode()))
    assert (message["stop_reason"], message["stop_sequence"]) == expected


def test_an_engine_that_stops_in_the_middle_is_an_error_event() -> None:
    told = played(messages(stream=True), delta(content="Hel"))
    assert told[-1]["type"] == "error"
    assert told[-1]["error"]["type"] == "api_error"
    assert told[-1]["error"]["source"] == "engine"


# ------------------------------------------------------------------ the reader of events


@given(st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=60))
def test_events_cut_anywhere_are_read_the_same(cuts: list[int]) -> None:
    stream = b': held\n\ndata: {"a": "\xc3\xa9"}\n\nevent: x\r\ndata: {"b": 1}\r\n\r\ndata: [DONE]\n\n'
    reader, found, position = EventReader(), [], 0
    for cut in [*cuts, len(stream)]:
        found += list(reader.feed(stream[position : position + cut]))
        position += cut
    assert found == [b'{"a": "\xc3\xa9"}', b'{"b": 1}']


_KEYS = ["type", "role", "content", "text", "name", "source", "output", "input", "tool_use_id", "call_id", "effort"]
_VALUES = ["user", "assistant", "message", "text", "image", "tool_use", "tool_result", "function", "input_text", "tool"]
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(_VALUES),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)
_NAMES = [
    "include",
    "input",
    "instructions",
    "max_tokens",
    "messages",
    "metadata",
    "reasoning",
    "store",
    "stream",
    "system",
    "text",
    "thinking",
    "tool_choice",
    "tools",
    "top_logprobs",
]


def status_of(make: Any, body: bytes) -> int:
    try:
        make(body)
    except RequestError as error:
        return error.status
    return 200


@given(st.dictionaries(st.sampled_from(_NAMES), _json, max_size=3), st.lists(_json, max_size=2))
def test_no_body_crashes_a_translator(fields: Fields, items: list[Any]) -> None:
    base = {"model": "small"}
    for body in ({**base, "input": items, **fields}, {**base, "input": "x", **fields}):
        assert status_of(ResponsesTranslation, json.dumps(body).encode()) in (200, 400)
    for body in ({**base, "max_tokens": 1, "messages": items, **fields}, {**base, "max_tokens": 1, **fields}):
        assert status_of(MessagesTranslation, json.dumps(body).encode()) in (200, 400)
        assert status_of(CountTranslation, json.dumps(body).encode()) in (200, 400)
