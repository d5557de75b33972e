"""The unmodified openai and anthropic clients, over a real socket, against the translators, files and batches."""

from __future__ import annotations

import json
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import Answer, Running, hello, running, service_view, sse

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the clients' own, of the Python version they meet
    import anthropic
    import openai

TOOL = {"type": "object", "properties": {"city": {"type": "string"}}}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("clients"), services=[service_view("small")], heartbeat_s=0.05) as daemon:
        yield daemon


@pytest.fixture
def gpt(daemon: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(daemon: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=daemon.url, api_key="none", max_retries=0) as client:
        yield client


def test_a_response(gpt: openai.OpenAI) -> None:
    response = gpt.responses.create(model="small", input="Hi", instructions="Be brief", metadata={"a": "b"})
    assert response.output_text == "Hello from small"
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.total_tokens == 10
    assert response.metadata == {"a": "b"}


def test_a_streamed_response(gpt: openai.OpenAI) -> None:
    with gpt.responses.stream(model="small", input="Hi") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == "Hello from small"
    assert kinds.count("response.output_text.delta") == 3
    assert kinds[-1] == "response.completed"


def test_a_response_that_calls_a_tool_and_takes_its_output(gpt: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "name": "weather", "parameters": TOOL, "strict": True}]
    with gpt.responses.stream(model="small", input="weather?", tools=tools) as stream:
        for _ in stream:
            pass
        response = stream.get_final_response()
    call: Any = response.output[0]
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Oslo"})
    items: Any = [*response.output, {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    again = gpt.responses.create(model="small", input=items, tools=tools)
    assert again.output_text == "Hello from small"


@pytest.mark.parametrize(
    ("param", "value"), [("previous_response_id", "resp_1"), ("store", True), ("background", True)]
)
def test_what_is_stateful_is_refused_by_name(gpt: openai.OpenAI, param: str, value: Any) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        gpt.responses.create(model="small", input="Hi", **{param: value})
    assert error.value.param == param


def test_a_message(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(model="small", max_tokens=20, messages=[{"role": "user", "content": "Hi"}])
    assert message.content[0].text == "Hello from small"  # type: ignore[union-attr]
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (7, 3)


def test_a_streamed_message(claude: anthropic.Anthropic) -> None:
    asked: Any = [{"role": "user", "content": "Hi"}]
    with claude.messages.stream(model="small", max_tokens=20, messages=asked) as stream:
        assert list(stream.text_stream) == ["Hello", " from", " small"]
        final = stream.get_final_message()
    assert final.stop_reason == "end_turn"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (7, 3)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_message_that_uses_a_tool(claude: anthropic.Anthropic, streamed: bool) -> None:
    asked: Any = {
        "model": "small",
        "max_tokens": 20,
        "messages": [{"role": "user", "content": "weather?"}],
        "tools": [{"name": "weather", "input_schema": TOOL}],
    }
    if streamed:
        with claude.messages.stream(**asked) as stream:
            message: Any = stream.get_final_message()
    else:
        message = claude.messages.create(**asked)
    assert message.stop_reason == "tool_use"
    assert (message.content[0].name, message.content[0].input) == ("weather", {"city": "Oslo"})


def test_counted_tokens(claude: anthropic.Anthropic) -> None:
    count = claude.messages.count_tokens(model="small", messages=[{"role": "user", "content": "Hi"}])
    assert count.input_tokens == 11


def test_errors_reach_both_clients_as_their_own(gpt: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        gpt.responses.create(model="nope", input="Hi")
    assert missing.value.code == "model_not_found"
    with pytest.raises(anthropic.NotFoundError) as absent:
        claude.messages.create(model="nope", max_tokens=5, messages=[{"role": "user", "content": "Hi"}])
    assert absent.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError, match="thinking"):
        claude.messages.create(
            model="small",
            max_tokens=2000,
            messages=[{"role": "user", "content": "Hi"}],
            thinking={"type": "enabled", "budget_tokens": 1024},
        )


def test_an_engines_refusal_is_told_with_its_status_and_source(
    daemon: Running, gpt: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    error = {
        "message": "too long: 9000 > 8192",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context",
    }
    daemon.gateway.script = lambda path, fields: Answer(400, [json.dumps({"error": error}).encode()])
    try:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="too long") as told:
                gpt.responses.create(model="small", input="Hi", stream=stream)  # type: ignore[call-overload]
            assert told.value.code == "context"
            with pytest.raises(anthropic.BadRequestError, match="too long"):
                claude.messages.create(
                    model="small",
                    max_tokens=5,
                    messages=[{"role": "user", "content": "Hi"}],
                    stream=stream,  # type: ignore[call-overload]
                )
    finally:
        daemon.gateway.script = hello


def test_a_stream_that_fails_in_the_middle_ends_in_an_error(
    daemon: Running, gpt: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    broken = sse({"choices": [{"delta": {"content": "Hel"}}]}, {"error": {"message": "it died", "source": "engine"}})
    daemon.gateway.script = lambda path, fields: Answer(200, broken)
    try:
        kinds = [event.type for event in gpt.responses.create(model="small", input="Hi", stream=True)]
        assert kinds[-1] == "response.failed"
        asked: Any = [{"role": "user", "content": "Hi"}]
        with (
            pytest.raises(anthropic.APIStatusError, match="it died"),
            claude.messages.stream(model="small", max_tokens=9, messages=asked) as stream,
        ):
            list(stream.text_stream)
    finally:
        daemon.gateway.script = hello


def test_a_held_stream_gets_heartbeats_and_then_its_answer(
    daemon: Running, gpt: openai.OpenAI, claude: anthropic.Anthropic
) -> None:
    daemon.gateway.hold_s = 0.2
    try:
        body = {"model": "small", "input": "Hi", "stream": True}
        _, raw, headers = daemon.ask("POST", "/v1/responses", body, {"X-Request-Id": "mine-1"})
        assert raw.startswith(b": held\n\n: held\n\n")
        assert headers["x-request-id"] == "mine-1"
        assert daemon.gateway.calls[-1][4] == "mine-1"
        with gpt.responses.stream(model="small", input="Hi") as stream:
            assert stream.get_final_response().output_text == "Hello from small"
        asked: Any = [{"role": "user", "content": "Hi"}]
        with claude.messages.stream(model="small", max_tokens=9, messages=asked) as messages:
            assert messages.get_final_text() == "Hello from small"
    finally:
        daemon.gateway.hold_s = 0.0


def test_heartbeats_of_the_gateway_are_passed_on_in_the_apis_own_way(daemon: Running) -> None:
    beat = b": held until a replica of small is ready\n\n"
    daemon.gateway.script = lambda path, fields: Answer(200, [beat, beat, *hello(path, fields).pieces])
    try:
        body = {"model": "small", "stream": True}
        raw = daemon.ask("POST", "/v1/responses", body | {"input": "Hi"})[1]
        assert raw.count(b": held\n\n") == 2
        asked = body | {"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
        raw = daemon.ask("POST", "/v1/messages", asked)[1]
        assert raw.count(b"event: ping\n") == 2
        assert raw.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    finally:
        daemon.gateway.script = hello


def test_a_client_that_goes_away_drops_its_request(daemon: Running) -> None:
    body = json.dumps({"model": "small", "input": "Hi", "stream": True}).encode()
    daemon.gateway.hold_s = 30.0
    try:
        with socket.create_connection(("127.0.0.1", daemon.port)) as client:
            client.sendall(
                b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            assert client.recv(10)
    finally:
        daemon.gateway.hold_s = 0.0
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and daemon.gateway.num_running:
        time.sleep(0.01)
    assert daemon.gateway.num_running == 0


def test_a_batch_from_upload_to_output(gpt: openai.OpenAI, tmp_path: Path) -> None:
    rows = [
        {
            "custom_id": f"row-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "small", "messages": [{"role": "user", "content": str(number)}]},
        }
        for number in range(5)
    ]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with path.open("rb") as handle:
        file = gpt.files.create(file=handle, purpose="batch")
    assert (file.filename, file.bytes) == ("in.jsonl", path.stat().st_size)
    batch = gpt.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    deadline = time.monotonic() + 10
    while batch.status != "completed" and time.monotonic() < deadline:
        time.sleep(0.02)
        batch = gpt.batches.retrieve(batch.id)
    assert batch.request_counts is not None
    assert (batch.status, batch.request_counts.completed) == ("completed", 5)
    assert batch.error_file_id is None
    assert batch.output_file_id is not None
    lines = [json.loads(line) for line in gpt.files.content(batch.output_file_id).text.splitlines()]
    assert [line["custom_id"] for line in lines] == [row["custom_id"] for row in rows]
    assert lines[0]["response"]["body"]["choices"][0]["message"]["content"] == "Hello from small"
    assert [one.id for one in gpt.batches.list(limit=1)][:1] == [batch.id]
    assert {one.purpose for one in gpt.files.list()} == {"batch", "batch_output"}
    assert gpt.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        gpt.files.retrieve(file.id)


def test_keys_open_their_services_only(tmp_path: Path) -> None:
    with running(tmp_path, services=[service_view("small"), service_view("other")], keys_required=True) as daemon:
        _, token = daemon.run(daemon.ring.create("k", "inference", ["small"]))
        with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key=token, max_retries=0) as client:
            assert client.responses.create(model="small", input="Hi").output_text
            with pytest.raises(openai.NotFoundError):
                client.responses.create(model="other", input="Hi")
        with anthropic.Anthropic(base_url=daemon.url, api_key=token, max_retries=0) as claude:
            asked: Any = {"max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
            assert claude.messages.create(model="small", **asked).content
        with (
            anthropic.Anthropic(base_url=daemon.url, api_key="il-wrong", max_retries=0) as stranger,
            pytest.raises(anthropic.AuthenticationError),
        ):
            stranger.messages.create(model="small", **asked)
        assert {call[3] for call in daemon.gateway.calls} == {daemon.ring.list()[0].id}
