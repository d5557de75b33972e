"""The OpenAI wire over a generator that says what it is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.fakes.generator import FakeExchange, ScriptedGenerator, ScriptedSequence, send

from ironloom.errors import RequestError
from ironloom.serve.engines.programs.generation import Finish
from ironloom.serve.engines.programs.openai_server import OpenAIServer
from ironloom.serve.engines.programs.server_base import ServerOptions
from ironloom.serve.engines.programs.templates import ChatTemplate

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)
USER = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


class Rig:
    """A server and its generator."""

    def __init__(self, template: str = TEMPLATE, *, max_model_len: int = 100, **options: Any) -> None:
        self.generator = ScriptedGenerator()
        self.generator.max_model_len = max_model_len
        served = ServerOptions(served_name="m", template=ChatTemplate(template), **options)
        self.server = OpenAIServer(self.generator, served, parkable=self.generator)

    def post(self, path: str, **body: Any) -> FakeExchange:
        return send(self.server.handle, path, body)

    def chat(self, **body: Any) -> FakeExchange:
        return self.post("/v1/chat/completions", **{"messages": USER, **body})

    def complete(self, **body: Any) -> FakeExchange:
        return self.post("/v1/completions", **{"prompt": "once", **body})

    @property
    def last(self) -> ScriptedSequence:
        return self.generator.sequences[-1]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def delta_text(exchange: FakeExchange, field: str = "content") -> str:
    return "".join(e["choices"][0]["delta"].get(field) or "" for e in exchange.events if e["choices"])


def test_a_chat_goes_through_the_template_and_back(rig: Rig) -> None:
    exchange = rig.chat(max_tokens=9)
    assert rig.last.prompt == b"[user]hi[a]"
    assert rig.last.sampling.max_tokens == 9
    rig.last.say("Hello 🤗", Finish.STOP)
    answer = exchange.json
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Hello 🤗"}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 11, "completion_tokens": 11, "total_tokens": 22}


def test_embeddings_are_refused_by_what_the_model_is(rig: Rig) -> None:
    exchange = rig.post("/v1/embeddings", model="m", input="hi")
    assert exchange.status == 400
    error = exchange.json["error"]
    assert error["message"] == 'the model of "m" makes no embeddings; it generates text'
    assert (error["param"], error["code"]) == ("model", "no_embeddings")


def test_a_chat_without_max_tokens_may_fill_the_context(rig: Rig) -> None:
    rig.chat()
    assert rig.last.sampling.max_tokens == 100 - len(b"[user]hi[a]")


def test_a_long_text_is_tokenised_aside_and_answered_as_any_other() -> None:
    async def scenario() -> None:
        rig = Rig(max_model_len=200_000)
        exchanges = [rig.chat(messages=[{"role": "user", "content": "x" * 70_000}]), rig.complete(prompt="y" * 70_000)]
        assert not rig.generator.sequences, "nothing waits for it"
        await asyncio.sleep(0.01)
        assert rig.generator.num_aside == 2
        for exchange, sequence in zip(exchanges, rig.generator.sequences, strict=True):
            sequence.say("hi", Finish.STOP)
            assert exchange.json["usage"]["prompt_tokens"] == len(sequence.prompt) >= 70_000

    asyncio.run(scenario())


def test_a_long_text_whose_client_left_or_whose_engine_was_parked_meanwhile_starts_nothing() -> None:
    async def scenario() -> None:
        rig = Rig(max_model_len=200_000)
        left = rig.complete(prompt="x" * 70_000)
        left.leave()
        parked = rig.complete(prompt="x" * 70_000)
        rig.generator.park()
        await asyncio.sleep(0.01)
        assert not rig.generator.sequences
        assert (left.status, parked.status) == (0, 503)

    asyncio.run(scenario())


def test_a_text_too_long_by_its_bytes_is_refused_without_being_tokenised(rig: Rig) -> None:
    exchange = rig.complete(prompt="x" * 70_000)
    assert exchange.status == 400
    error = exchange.json["error"]
    assert error["code"] == "context_length_exceeded"
    assert "100 tokens" in error["message"]
    assert "at least 17500" in error["message"]
    assert rig.generator.num_aside == 0


def test_a_long_text_that_may_be_cut_is_cut() -> None:
    async def scenario() -> None:
        rig = Rig()
        rig.complete(prompt="x" * 70_000 + "end", truncate_prompt_tokens=3)
        await asyncio.sleep(0.01)
        assert rig.last.prompt == b"end"

    asyncio.run(scenario())


def test_a_long_text_is_counted_aside_too() -> None:
    async def scenario() -> None:
        rig = Rig()
        exchange = rig.post("/tokenize", prompt="x" * 70_000)
        await asyncio.sleep(0.01)
        assert exchange.json["count"] == 70_000
        assert rig.generator.num_aside == 1

    asyncio.run(scenario())


def test_a_stream_has_a_role_text_an_end_and_usage(rig: Rig) -> None:
    exchange = rig.chat(stream=True, stream_options={"include_usage": True})
    assert not exchange.status, "nothing is sent before the first token"
    rig.last.say("né", Finish.LENGTH)
    events = exchange.events
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [e["choices"][0]["delta"].get("content") for e in events[1:-1]] == ["n", "é"]
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 3
    assert all(e["usage"] is None for e in events[:-1])
    assert exchange.ended


def test_each_step_is_one_write(rig: Rig) -> None:
    exchange = rig.chat(stream=True)
    rig.last.say("ab")
    assert len(exchange.writes) == 2


def test_continuous_usage_counts_up(rig: Rig) -> None:
    exchange = rig.chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    rig.last.say("abc", Finish.STOP)
    counts = [e["usage"]["completion_tokens"] for e in exchange.events]
    assert counts == [1, 1, 2, 3, 4, 4]


def test_echo_puts_the_prompt_first_whole_and_streamed(rig: Rig) -> None:
    whole, stream = rig.complete(echo=True), rig.complete(echo=True, stream=True)
    for sequence in rig.generator.sequences:
        sequence.say(" upon", Finish.STOP)
    assert whole.json["choices"][0]["text"] == "once upon"
    assert "".join(e["choices"][0]["text"] for e in stream.events) == "once upon"


def test_several_prompts_and_n_give_choices_in_order(rig: Rig) -> None:
    exchange = rig.complete(prompt=["a", [98]], n=2, seed=5)
    assert [s.prompt for s in rig.generator.sequences] == [b"a", b"a", b"b", b"b"]
    assert [s.sampling.seed for s in rig.generator.sequences] == [5, 6, 5, 6]
    for at, sequence in enumerate(rig.generator.sequences):
        sequence.say(str(at), Finish.STOP)
    assert [(c["index"], c["text"]) for c in exchange.json["choices"]] == [(0, "0"), (1, "1"), (2, "2"), (3, "3")]


def test_a_stop_string_ends_the_text_and_the_sequence(rig: Rig) -> None:
    exchange = rig.complete(stop=["END"], stream=True)
    rig.last.say("one EN two END three", Finish.LENGTH)
    assert rig.last.cancelled
    assert "".join(e["choices"][0]["text"] for e in exchange.events) == "one EN two "
    assert exchange.events[-1]["choices"][0]["finish_reason"] == "stop"
    assert exchange.events[-1]["choices"][0]["stop_reason"] == "END"


def test_min_tokens_come_before_a_stop_string_counts(rig: Rig) -> None:
    exchange = rig.complete(stop="x", min_tokens=3)
    rig.last.say("axbxc", Finish.LENGTH)
    assert exchange.json["choices"][0]["text"] == "axb"


def test_a_stop_token_is_told_and_not_shown(rig: Rig) -> None:
    exchange = rig.complete(stop_token_ids=[99])
    rig.last.sink.tokens([97, 99], [0.0, 0.0], Finish.STOP)
    choice = exchange.json["choices"][0]
    assert (choice["text"], choice["stop_reason"]) == ("a", 99)


def test_logprobs_of_a_chat(rig: Rig) -> None:
    exchange = rig.chat(logprobs=True)
    rig.last.say("a", Finish.STOP)
    content = exchange.json["choices"][0]["logprobs"]["content"]
    assert content[0] == {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    assert len(content) == 2


def test_logprobs_of_a_completion_with_offsets_and_ids(rig: Rig) -> None:
    exchange = rig.complete(logprobs=1, temperature=0, return_tokens_as_token_ids=True)
    for token in b"ab":
        rig.last.sink.tokens([token], [-0.5], Finish.LENGTH if token == ord("b") else None, [[(token, -0.5)]])
    assert exchange.json["choices"][0]["logprobs"] == {
        "tokens": ["token_id:97", "token_id:98"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"token_id:97": -0.5}, {"token_id:98": -0.5}],
        "text_offset": [0, 1],
    }


def test_likely_tokens_of_a_chat_are_told_in_their_order(rig: Rig) -> None:
    rig.generator.max_logprobs = 2
    exchange = rig.chat(logprobs=True, top_logprobs=2)
    assert rig.last.sampling.num_top_logprobs == 2
    rig.last.sink.tokens([97], [-0.1], Finish.LENGTH, [[(97, -0.1), (98, -2.5)]])
    place = exchange.json["choices"][0]["logprobs"]["content"][0]
    assert place["top_logprobs"] == [
        {"token": "a", "logprob": -0.1, "bytes": [97]},
        {"token": "b", "logprob": -2.5, "bytes": [98]},
    ]


def test_likely_tokens_of_a_streamed_completion_have_the_chosen_one_too(rig: Rig) -> None:
    rig.generator.max_logprobs = 2
    exchange = rig.complete(logprobs=2, stream=True)
    rig.last.sink.tokens([97], [-3.0], None, [[(98, -0.5), (999, float("-inf"))]])
    rig.last.say("c", Finish.LENGTH)
    assert exchange.events[0]["choices"][0]["logprobs"]["top_logprobs"] == [{"b": -0.5, "": -9999.0, "a": -3.0}]


def test_more_likely_tokens_than_the_engine_tells_are_refused_with_its_limit(rig: Rig) -> None:
    rig.generator.max_logprobs = 2
    error = rig.chat(logprobs=True, top_logprobs=3).json["error"]
    assert (error["param"], error["code"]) == ("top_logprobs", "unsupported_parameter")
    assert "at most 2" in error["message"]
    assert "at most 2" in rig.complete(logprobs=3).json["error"]["message"]


def test_a_client_that_goes_cancels_its_sequences(rig: Rig) -> None:
    exchange = rig.chat(stream=True, n=2, temperature=1)
    rig.generator.sequences[0].say("a")
    exchange.leave()
    assert all(sequence.cancelled for sequence in rig.generator.sequences)
    assert rig.server.num_open == 0


def test_an_engine_that_fails_before_the_first_token_is_a_status(rig: Rig) -> None:
    exchange = rig.chat(stream=True)
    rig.last.sink.failed(RequestError(503, "it was parked", source="engine"))
    assert (exchange.status, exchange.json["error"]["source"]) == (503, "engine")


def test_an_engine_that_fails_in_a_stream_is_an_event(rig: Rig) -> None:
    exchange = rig.chat(stream=True)
    rig.last.say("a")
    rig.last.sink.failed(RequestError(500, "it broke", source="engine"))
    assert exchange.events[-1]["error"]["message"] == "it broke"


def test_a_sequence_that_cannot_start_ends_those_before_it(rig: Rig) -> None:
    submit, count = rig.generator.submit, 0

    def refusing(*args: Any) -> ScriptedSequence:
        nonlocal count
        count += 1
        if count == 3:
            raise RequestError(503, "no room", source="engine")
        return submit(*args)

    rig.generator.submit = refusing  # type: ignore[method-assign]
    exchange = rig.complete(n=4)
    assert (exchange.status, count) == (503, 3)
    assert [sequence.cancelled for sequence in rig.generator.sequences] == [True, True]
    assert rig.server.num_open == 0


def test_a_bug_behind_an_await_is_a_500_and_not_silence() -> None:
    async def run() -> None:
        rig = Rig()

        async def broken(_: object) -> None:
            raise KeyError("x")

        rig.generator.check_grammar = broken  # type: ignore[method-assign]
        exchange = rig.complete(guided_regex="a")
        await asyncio.sleep(0.01)
        assert (exchange.status, exchange.json["error"]["source"]) == (500, "engine")

    asyncio.run(run())


def test_tool_calls_are_parsed_streamed_and_end_as_such() -> None:
    rig = Rig(max_model_len=4000)
    text = 'Hm.<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    whole, stream = rig.chat(tools=TOOLS), rig.chat(tools=TOOLS, stream=True)
    for sequence in rig.generator.sequences:
        sequence.say(text, Finish.STOP)
    choice = whole.json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Hm."
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    calls = [c for e in stream.events for c in e["choices"][0]["delta"].get("tool_calls", [])]
    assert calls[0]["function"] == {"name": "f", "arguments": ""}
    assert calls[0]["id"].startswith("call_")
    assert "".join(c["function"]["arguments"] for c in calls) == '{"a": 1}'
    assert stream.events[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_tools_reach_a_model_whose_template_has_no_place_for_them() -> None:
    rig = Rig(max_model_len=4000)
    rig.chat(tools=TOOLS)
    rig_prompt = rig.last.prompt.decode()
    assert rig_prompt.startswith("[system]# Tools")
    assert '"name": "f"' in rig_prompt


def test_tool_choice_none_hides_the_tools() -> None:
    rig = Rig(max_model_len=4000)
    rig.chat(tools=TOOLS, tool_choice="none")
    assert b"Tools" not in rig.last.prompt


def test_required_and_named_tool_calls_are_made_by_a_grammar() -> None:
    async def run() -> None:
        rig = Rig(max_model_len=4000)
        required = rig.chat(tools=TOOLS, tool_choice="required")
        named = rig.chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "f"}})
        await asyncio.sleep(0.01)
        first, second = rig.generator.sequences
        assert json.loads(first.sampling.grammar.text)["minItems"] == 1  # type: ignore[union-attr]
        first.say('[{"name": "f", "parameters": {}}]', Finish.STOP)
        second.say('{"a": 2}', Finish.STOP)
        assert required.json["choices"][0]["finish_reason"] == "tool_calls"
        assert required.json["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == "{}"
        assert named.json["choices"][0]["finish_reason"] == "stop"
        assert named.json["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"a": 2}'

    asyncio.run(run())


def test_a_grammar_is_checked_before_the_sequence_starts() -> None:
    async def run() -> None:
        rig = Rig()
        rig.generator.bad_grammars.add("(")
        bad = rig.complete(guided_regex="(")
        good = rig.complete(guided_regex="a|b")
        await asyncio.sleep(0.01)
        assert (bad.status, bad.json["error"]["param"]) == (400, "guided_regex")
        assert len(rig.generator.sequences) == 1
        rig.last.say("a", Finish.STOP)
        assert good.json["choices"][0]["text"] == "a"

    asyncio.run(run())


def test_reasoning_has_its_own_field() -> None:
    rig = Rig(TEMPLATE + "{# <think> #}")
    whole, stream = rig.chat(), rig.chat(stream=True)
    for sequence in rig.generator.sequences:
        sequence.say("<think>\nhm\n</think>\n\n4", Finish.STOP)
    assert whole.json["choices"][0]["message"] == {"role": "assistant", "content": "4", "reasoning_content": "hm"}
    assert delta_text(stream, "reasoning_content") == "hm"
    assert delta_text(stream) == "4"


def test_a_template_that_opens_the_thinking_begins_inside_it() -> None:
    rig = Rig(TEMPLATE + "<think>\n")
    exchange = rig.chat()
    rig.last.say("hm</think>4", Finish.STOP)
    assert exchange.json["choices"][0]["message"] == {"role": "assistant", "content": "4", "reasoning_content": "hm"}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/chat/completions", {"messages": USER, "temprature": 1}, 400, "temprature"),
        ("/v1/chat/completions", {"messages": USER, "temperature": "hot"}, 400, "temperature"),
        ("/v1/chat/completions", {"messages": USER, "logit_bias": {"1": 5}}, 400, "logit_bias"),
        ("/v1/chat/completions", {"messages": USER, "min_p": 0.5}, 400, "min_p"),
        ("/v1/chat/completions", {"messages": USER, "top_logprobs": 2}, 400, "top_logprobs"),
        ("/v1/chat/completions", {"messages": USER, "logprobs": True, "top_logprobs": 1}, 400, "top_logprobs"),
        ("/v1/chat/completions", {"messages": USER, "model": "x"}, 404, "model"),
        ("/v1/chat/completions", {"messages": USER, "max_tokens": 90}, 400, "max_tokens"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 200}]}, 400, "messages"),
        ("/v1/chat/completions", {}, 400, "messages"),
        ("/v1/completions", {"prompt": "x", "logprobs": 5}, 400, "logprobs"),
        ("/v1/completions", {"prompt": "x", "suffix": "y"}, 400, "suffix"),
        ("/v1/completions", {"prompt": [999]}, 400, "prompt"),
        ("/v1/completions", {"prompt": ""}, 400, "prompt"),
        ("/v1/completions", {"prompt": "x", "stream_options": {"include_usage": True}}, 400, "stream_options"),
        ("/tokenize", {}, 400, "prompt"),
        ("/detokenize", {"tokens": [999]}, 400, "tokens"),
        ("/detokenize", {"tokens": "x"}, 400, "tokens"),
    ],
)
def test_bad_requests_are_refused_by_name_and_start_nothing(
    rig: Rig, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    exchange = rig.post(path, **body)
    assert (exchange.status, exchange.json["error"]["param"]) == (status, param)
    assert rig.generator.sequences == []


def test_a_long_prompt_is_told_with_numbers(rig: Rig) -> None:
    message = rig.complete(prompt="x" * 95, max_tokens=10).json["error"]["message"]
    assert "100 tokens" in message
    assert "95 in the prompt, 10 to generate" in message


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 20_000])
def test_bodies_that_are_no_object_are_refused(rig: Rig, body: bytes) -> None:
    assert send(rig.server.handle, "/v1/completions", body).status == 400


def test_paths_and_methods_that_are_not_there(rig: Rig) -> None:
    assert send(rig.server.handle, "/v1/nothing").status == 404
    assert send(rig.server.handle, "/v1/completions").status == 405


def test_models_health_and_metrics(rig: Rig) -> None:
    assert send(rig.server.handle, "/v1/models").json["data"][0]["id"] == "m"
    assert send(rig.server.handle, "/health").status == 200
    rig.complete()
    page = send(rig.server.handle, "/metrics").body.decode()
    assert 'vllm:num_requests_running{model_name="m"} 1' in page


def test_tokenize_and_detokenize_have_vllms_shape(rig: Rig) -> None:
    assert rig.post("/tokenize", prompt="ab", return_token_strs=True).json == {
        "count": 2,
        "max_model_len": 100,
        "tokens": [97, 98],
        "token_strs": ["a", "b"],
    }
    assert rig.post("/tokenize", messages=USER).json["count"] == len(b"[user]hi[a]")
    assert rig.post("/detokenize", tokens=[97, 98]).json == {"prompt": "ab"}


def test_a_parked_engine_says_so(rig: Rig) -> None:
    assert rig.post("/sleep?level=1").status == 200
    assert send(rig.server.handle, "/is_sleeping").json == {"is_sleeping": True}
    parked = rig.chat()
    assert (parked.status, parked.json["error"]["code"]) == (503, "parked")
    assert ("Retry-After", "1") in parked.headers
    assert rig.post("/wake_up").status == 200
    assert not rig.chat().status


def test_a_request_id_goes_into_the_answers_id(rig: Rig) -> None:
    exchange = send(rig.server.handle, "/v1/completions", {"prompt": "x"}, x_request_id="abc-1")
    rig.last.say("y", Finish.STOP)
    assert exchange.json["id"] == "cmpl-abc-1"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages": "\xff\xfe"}', b'{"a": ' + b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(rig: Rig, body: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
        exchange = send(rig.server.handle, path, body)
        assert exchange.status == 400
        assert exchange.json["error"]["code"] == "invalid_json"
