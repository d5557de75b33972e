from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from fake_control import FakeControl, Result, Run, Terminal, service

from ironloom.cli import client
from ironloom.cli.main import main
from ironloom.cli.settings import Target


def streamed(*pieces: str, key: str = "content") -> list[bytes]:
    """A chat completion as server-sent events, a heartbeat first."""
    events: list[dict[str, Any]] = [{"choices": [{"delta": {"role": "assistant"}}]}]
    events += [{"choices": [{"delta": {key: piece}}]} for piece in pieces]
    events += [
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"completion_tokens": 3}},
    ]
    lines = [b": waking\n\n", *(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)]
    return [*lines, b"data: [DONE]\n\n"]


def asked(fake: FakeControl) -> list[Any]:
    return [body for _, path, body in fake.calls if path == "/v1/chat/completions"]


@pytest.mark.parametrize(("args", "stdin"), [(["-m", "Hi?"], ""), ([], "Hi?\n"), (["-m", "Hi?"], "not read")])
def test_one_question_prints_the_answer_alone(args: list[str], stdin: str, fake: FakeControl, run: Run) -> None:
    fake.chat = streamed("Hel", "lo ", "ü.")
    result = run("chat", "chat", *args, "--system", "Be brief.", "--max-tokens", "9", "--temperature", "0", stdin=stdin)
    assert (result.status, result.out, result.err) == (0, "Hello ü.\n", "")
    assert asked(fake) == [
        {
            "model": "chat",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"}],
            "stream": True,
            "max_tokens": 9,
            "temperature": 0.0,
        }
    ]


def test_reasoning_is_talk_and_not_the_answer(fake: FakeControl, run: Run) -> None:
    fake.chat = [*streamed("Let me see.", key="reasoning_content")[:-1], *streamed("42")]
    result = run("chat", "chat", "-m", "?")
    assert (result.out, result.err) == ("42\n", "Let me see.\n\n")


def test_without_a_name_the_only_service_answers(fake: FakeControl, run: Run) -> None:
    fake.chat = streamed("yes")
    result = run("chat", "-m", "?")
    assert result.status == 2
    assert result.err.startswith("There is no service to talk with.")
    fake.services = {"a": service("a")}
    assert run("chat", "-m", "?").out == "yes\n"
    fake.services["b"] = service("b")
    result = run("chat", "-m", "?")
    assert (result.status, result.err) == (
        2,
        "There are 2 services: a, b.\n\nhint: `ironloom chat NAME` chooses one.\n",
    )


def test_nothing_on_stdin_is_nothing_to_ask(fake: FakeControl, run: Run) -> None:
    assert run("chat", "chat", stdin=" \n").status == 2


def test_an_answer_that_breaks_off_is_an_error(fake: FakeControl, run: Run) -> None:
    broken = {
        "error": {"message": "the engine ended in the middle of the answer", "code": "engine_failed", "hint": None}
    }
    fake.chat = [*streamed("Once upon")[:3], b"data: " + json.dumps(broken).encode() + b"\n\n"]
    result = run("chat", "chat", "-m", "?")
    assert result.status == 1
    assert result.out == "Once upon"
    assert result.err == "The engine ended in the middle of the answer.\n"


@pytest.fixture
def converse(
    fake: FakeControl, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., Result]:
    """Type lines at the prompt; an exception in their place is raised there."""

    def talk(*typed: str | type[BaseException]) -> Result:
        lines = iter(typed)

        def prompt(_text: str) -> str:
            line = next(lines, EOFError)
            if not isinstance(line, str):
                raise line
            return line

        monkeypatch.setattr(sys, "stdin", Terminal())
        monkeypatch.setattr("builtins.input", prompt)
        fake.services = {"chat": service()}
        status = main(["chat", "chat"])
        out, err = capfdbinary.readouterr()
        return Result(status, out.decode(), err.decode())

    return talk


def test_a_conversation_is_remembered_until_reset(fake: FakeControl, converse: Callable[..., Result]) -> None:
    fake.chat = streamed("Fine.")
    result = converse("How are you?", "", "And now?", "/reset", "Again?", "/quit", "never asked")
    assert result.status == 0
    assert result.out == "Fine.\nFine.\nFine.\n"
    assert [[m["content"] for m in body["messages"]] for body in asked(fake)] == [
        ["How are you?"],
        ["How are you?", "Fine.", "And now?"],
        ["Again?"],
    ]


def test_the_system_prompt_is_set_shown_and_begins_anew(fake: FakeControl, converse: Callable[..., Result]) -> None:
    fake.chat = streamed("Arr.")
    result = converse("/system", "Hi", "/system Talk like a pirate.", "/system", "Hi", "/nope", "/help")
    assert [[m["role"] for m in body["messages"]] for body in asked(fake)] == [["user"], ["system", "user"]]
    assert "There is no system prompt.\n" in result.err
    assert "The system prompt is set; begun anew.\nTalk like a pirate.\n" in result.err
    assert "There is no command /nope.\n/system TEXT" in result.err


def cut(*pieces: str) -> list[bytes]:
    """An answer that ends at its longest."""
    return [line.replace(b'"stop"', b'"length"') for line in streamed(*pieces)]


def test_an_answer_that_was_cut_off_says_so_and_what_allows_more(
    fake: FakeControl, run: Run, converse: Callable[..., Result]
) -> None:
    fake.chat = cut("Once upon")
    result = run("chat", "chat", "-m", "?")
    assert (result.status, result.out) == (0, "Once upon\n")
    assert result.err == "(cut off: an answer has at most 512 tokens; --max-tokens N sets another number)\n"
    result = converse("Tell.", "/max 9", "Tell.", "/max", "/max none", "/max 0")
    assert [body["max_tokens"] for body in asked(fake)] == [512, 512, 9]
    assert "(cut off: an answer has at most 512 tokens; /max N sets another number)\n" in result.err
    assert "(cut off: an answer has at most 9 tokens; /max N sets another number)\n" in result.err
    assert result.err.count("An answer has at most 9 tokens.\n") == 2
    assert "/max is 'none', and must be a number of tokens of at least 1.\n" in result.err
    assert "/max is '0', and must be" in result.err


def test_a_question_that_fails_is_told_and_forgotten(fake: FakeControl, converse: Callable[..., Result]) -> None:
    fake.answers["POST", "/v1/chat/completions"] = (429, {"error": {"message": "too many wait", "code": "queue_full"}})
    result = converse("One", "Two")
    assert result.status == 0
    assert result.err.count("too many wait.\n") == 2
    assert [len(body["messages"]) for body in asked(fake)] == [1, 1]


def test_ctrl_c_at_the_prompt_leaves(converse: Callable[..., Result]) -> None:
    assert converse(KeyboardInterrupt).status == 130


def test_a_wrong_name_is_told_before_the_first_question(
    fake: FakeControl, monkeypatch: pytest.MonkeyPatch, run: Run, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert main(["chat", "nope"]) == 1
    assert b"There is no service 'nope'." in capfdbinary.readouterr().err


def test_an_unknown_service_is_told_with_a_command_not_with_an_api_call() -> None:
    hint = "GET /v1/models lists the services; a service's name is its model id"
    said = {"error": {"message": "there is no service 'nope' here", "code": "model_not_found", "hint": hint}}
    assert client._error(404, said, Target(url="http://localhost")).hint == "`ironloom get` lists the services."
