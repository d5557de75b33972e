"""The OpenVINO engine's server with the default model: the contract of all engines, and what is its own."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.smollm2 import openvino_model, openvino_server
from tests.serve.engines.contract import CHECKS, USER, Connection, Target, ask, call, events, gauge

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    log = tmp_path_factory.mktemp("openvino") / "log"
    with openvino_server(openvino_model(), log=log) as (url, pid):
        yield Target(base_url=url, model="m", parks=True)
        assert "Traceback" not in log.read_text()
        del pid


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_contract(check: Callable[[Target], None], target: Target) -> None:
    check(target)


def test_the_context_is_the_models_own(target: Target) -> None:
    assert call(target, "GET", "/v1/models")[1]["data"][0]["max_model_len"] == 8192


def test_a_cancelled_sequence_leaves_the_pipeline_at_once_and_the_others_stay(target: Target) -> None:
    gone, stays = Connection(target), Connection(target)
    body = {"model": target.model, "messages": USER, "stream": True, "ignore_eos": True}
    leaving = gone.send("POST", "/v1/chat/completions", {**body, "max_tokens": 4000})
    staying = stays.send("POST", "/v1/chat/completions", {**body, "max_tokens": 150})
    leaving.readline()
    wait_until(lambda: gauge(target, "vllm:num_requests_running") == 2)
    leaving.close()
    gone.close()
    wait_until(lambda: gauge(target, "vllm:num_requests_running") == 1)
    assert staying.read().rstrip().endswith(b"data: [DONE]")
    stays.close()
    assert gauge(target, "vllm:num_requests_running") == 0
    assert gauge(target, "vllm:num_requests_waiting") == 0


WORDS, SPACES = "word " * 2_000_000, "w    " * 2_000_000
"""10 MB each. Of the second four in five bytes are no reason to refuse it, so its tokens are counted, for seconds."""
LONG = {
    "too long by its bytes": (WORDS, "/v1/completions"),
    "too long by its bytes, in a chat": (WORDS, "/v1/chat/completions"),
    "too long when counted": (SPACES, "/v1/completions"),
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_text_holds_up_no_stream(name: str, target: Target) -> None:
    """Its body is read and refused or counted while another's tokens come."""
    text, path = LONG[name]
    body: dict[str, Any] = {"model": target.model, "max_tokens": 1}
    body |= {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"prompt": text}
    streaming, came = Connection(target), list[float]()
    wanted = {"model": target.model, "prompt": "Once", "max_tokens": 2000, "ignore_eos": True, "stream": True}
    response = streaming.send("POST", "/v1/completions", wanted)
    response.readline()
    over = threading.Event()

    def read() -> None:
        while not over.is_set() and response.readline():
            came.append(time.monotonic())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        status, answer = call(target, "POST", path, body)
    finally:
        over.set()
        reader.join()
        streaming.close()
    assert status == 400
    assert answer["error"]["code"] == "context_length_exceeded"
    assert "8192" in answer["error"]["message"]
    told = re.search(r"at least (\d+)|asks for (\d+) tokens", answer["error"]["message"])
    assert told is not None
    assert int(told[1] or told[2]) > (2_000_000 if text is SPACES else 8192)
    assert len(came) > 5
    assert max(b - a for a, b in itertools.pairwise(came)) < 1.5


def wait_until(holds: Callable[[], bool], patience_s: float = 10.0) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_a_json_schema_is_obeyed_at_any_temperature(target: Target) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
    for seed in range(4):
        answer = ask(
            target, "/v1/chat/completions", messages=USER, response_format=wanted, temperature=1.5, seed=seed,
            max_tokens=120,
        )["choices"][0]  # fmt: skip
        if answer["finish_reason"] == "stop":
            person = json.loads(answer["message"]["content"])
            assert set(person) == {"name", "age"}
            assert isinstance(person["age"], int)


def test_choices_and_regular_expressions_are_obeyed(target: Target) -> None:
    choice = ask(target, "/v1/completions", prompt="x", guided_choice=["(yes)", "no."], max_tokens=8)
    assert choice["choices"][0]["text"] in {"(yes)", "no."}
    date = ask(target, "/v1/completions", prompt="x", guided_regex=r"\d{4}-\d\d", temperature=0, max_tokens=20)
    assert len(date["choices"][0]["text"]) == 7


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("guided_regex", "(a"),
        ("guided_grammar", "root ::= nowhere"),
        ("guided_json", {"$ref": "#/nowhere"}),
        ("guided_json", {"type": "string", "minLength": 5, "maxLength": 3}),
        ("guided_json", {"enum": []}),
    ],
)
def test_a_bad_grammar_is_refused_and_disturbs_nobody(target: Target, param: str, value: Any) -> None:
    body = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 24}
    alone = ask(target, "/v1/completions", **body)["choices"][0]["text"]
    beside: list[str] = []
    thread = threading.Thread(
        target=lambda: beside.append(ask(target, "/v1/completions", **body)["choices"][0]["text"])
    )
    thread.start()
    status, answer = call(target, "POST", "/v1/completions", {"prompt": "x", param: value})
    thread.join()
    assert (status, answer["error"]["param"]) == (400, param)
    assert beside == [alone]


def test_required_and_named_tools_are_called(target: Target) -> None:
    tools = [{"type": "function", "function": {"name": "greet", "parameters": SCHEMA}}]
    body: dict[str, Any] = {"messages": USER, "tools": tools, "temperature": 0, "max_tokens": 80}
    required = ask(target, "/v1/chat/completions", tool_choice="required", parallel_tool_calls=False, **body)
    named = {"type": "function", "function": {"name": "greet"}}
    chunks = events(target, "/v1/chat/completions", tool_choice=named, **body)
    function = required["choices"][0]["message"]["tool_calls"][0]["function"]
    assert function["name"] == "greet"
    assert set(json.loads(function["arguments"])) == {"name", "age"}
    calls = [c for e in chunks for c in e["choices"][0]["delta"].get("tool_calls", [])]
    assert calls[0]["function"]["name"] == "greet"
    assert set(json.loads("".join(c["function"]["arguments"] for c in calls))) == {"name", "age"}


def test_ignore_eos_still_ends_at_the_requests_own_stop_tokens(target: Target) -> None:
    ids = ask(target, "/tokenize", prompt=" time", add_special_tokens=False)["tokens"]
    body = {"prompt": "Once upon a", "temperature": 0, "max_tokens": 20, "ignore_eos": True}
    choice = ask(target, "/v1/completions", stop_token_ids=ids, **body)["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", ids[0])


def test_min_tokens_keeps_the_end_away(target: Target) -> None:
    body = {"messages": [{"role": "user", "content": "Say hi."}], "temperature": 0, "max_tokens": 60}
    assert ask(target, "/v1/chat/completions", min_tokens=50, **body)["usage"]["completion_tokens"] >= 50


def test_penalties_change_greedy_text(target: Target) -> None:
    body = {"prompt": "la la la la la la", "temperature": 0, "max_tokens": 24}
    plain = ask(target, "/v1/completions", **body)["choices"][0]["text"]
    for penalty in ({"repetition_penalty": 1.8}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}):
        assert ask(target, "/v1/completions", **body, **penalty)["choices"][0]["text"] != plain


def test_top_k_one_is_greedy_and_top_p_near_zero_too(target: Target) -> None:
    body = {"prompt": "The capital of France is", "max_tokens": 8}
    greedy = ask(target, "/v1/completions", temperature=0, **body)["choices"][0]["text"]
    for narrow in ({"top_k": 1}, {"top_p": 0.0001}, {"min_p": 0.9999}):
        assert ask(target, "/v1/completions", temperature=1.0, **body, **narrow)["choices"][0]["text"] == greedy


def test_a_prefix_that_was_seen_is_faster(target: Target) -> None:
    words = " ".join(f"word{n}" for n in range(600))

    def seconds(text: str) -> float:
        start = time.perf_counter()
        ask(target, "/v1/completions", prompt=text, max_tokens=1, temperature=0)
        return time.perf_counter() - start

    cold = seconds(f"A {words}")
    assert min(seconds(f"A {words}") for _ in range(3)) < cold / 2


def test_openais_own_client_chats_streams_and_parses(target: Target) -> None:
    import openai
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    client = openai.OpenAI(base_url=f"{target.base_url}/v1", api_key="none")
    try:
        assert client.models.list().data[0].id == "m"
        answer = client.chat.completions.create(model="m", messages=USER, max_tokens=8)  # type: ignore[arg-type]
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 8
        pieces = client.chat.completions.create(
            model="m",
            messages=USER,
            max_tokens=8,
            stream=True,
            temperature=0,  # type: ignore[arg-type]
        )
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces)
        parsed = client.chat.completions.parse(
            model="m",
            messages=USER,
            response_format=Person,
            temperature=0,
            max_tokens=400,  # type: ignore[arg-type]
        )
        assert isinstance(parsed.choices[0].message.parsed, Person)
        with pytest.raises(openai.BadRequestError, match="logit_bias"):
            client.chat.completions.create(model="m", messages=USER, logit_bias={"1": 5})  # type: ignore[arg-type]
    finally:
        client.close()


def test_parking_gives_memory_back(tmp_path: Path) -> None:
    with openvino_server(openvino_model()) as (url, pid):
        target = Target(base_url=url, model="m")
        ask(target, "/v1/completions", prompt="Once", max_tokens=4)
        ready = resident_bytes(pid)
        assert call(target, "POST", "/sleep?level=1")[0] == 200
        assert resident_bytes(pid) < 0.5 * ready
        assert call(target, "POST", "/wake_up")[0] == 200
        ask(target, "/v1/completions", prompt="Once", max_tokens=4)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_a_taken_port_is_told_at_once(target: Target) -> None:
    import subprocess
    import sys

    port = target.base_url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "ironloom.serve.engines.programs.openvino_server"]
    done = subprocess.run(
        [*command, "--model", "/nowhere", "--served-name", "m", "--port", port],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
