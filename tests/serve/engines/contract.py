"""What every engine's server must do, over HTTP: functions of a Target, so that one list of checks serves all engines.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_the_contract(check, target): check(target)

An engine says by the Target's flags what it has not; a check that asks for more then looks for an honest refusal.
Standard library only, so that it also runs beside an engine in an environment of its own.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

USER = [{"role": "user", "content": "Write a long story about the sea."}]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A running engine server."""

    base_url: str
    """http://127.0.0.1:PORT, without /v1."""
    model: str
    """The served model name."""
    parks: bool = False
    """/sleep, /wake_up and /is_sleeping work."""
    refuses_parked: bool = True
    """A request while parked gets 503 (vLLM holds it until it is woken)."""
    refuses_unknown: bool = True
    """An unknown parameter gets 400 and its name (vLLM and llama.cpp pass over it)."""
    logprobs: bool = True
    top_logprobs: int = 0
    """The most probable tokens that it tells beside the chosen one; 0: at a greedy choice only, where they are one."""
    ignores_eos: bool = True
    """ignore_eos is honoured, so that a check can ask for exactly so many tokens."""
    tokenizes: bool = True
    """/tokenize and /detokenize."""
    metrics: bool = True
    """/metrics has vllm:num_requests_running (needed to see that a cancelled request is dropped)."""
    cancel_tokens: int = 3000
    """max_tokens of the request that is cancelled: long enough to be still running, within the context."""
    timeout_s: float = 120.0


class Failed(AssertionError):
    """A check did not hold."""


def _require(condition: object, message: str) -> None:
    if not condition:
        raise Failed(message)


class Connection:
    """One HTTP request at a time."""

    def __init__(self, target: Target) -> None:
        parts = urlsplit(target.base_url)
        assert parts.hostname is not None
        self._http = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=target.timeout_s)

    def send(self, method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
        """The response, its body unread."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        self._http.request(method, path, data, {"Content-Type": "application/json"})
        return self._http.getresponse()

    def close(self) -> None:
        """Cut it."""
        self._http.close()


def call(target: Target, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status, and the body: parsed where it is JSON, else text."""
    connection = Connection(target)
    try:
        response = connection.send(method, path, body)
        data = response.read()
    finally:
        connection.close()
    try:
        return response.status, json.loads(data) if data else None
    except ValueError:
        return response.status, data.decode()


def ask(target: Target, path: str, **body: Any) -> Any:
    """A POST that must be answered with 200."""
    status, answer = call(target, "POST", path, {"model": target.model, **body})
    _require(status == 200, f"{path} answered {status}: {answer}")
    return answer


def events(target: Target, path: str, **body: Any) -> list[Any]:
    """The events of a stream that must end in [DONE]."""
    connection = Connection(target)
    try:
        response = connection.send("POST", path, {"model": target.model, "stream": True, **body})
        _require(response.status == 200, f"{path} answered {response.status}")
        kind = response.getheader("Content-Type", "")
        _require(kind.startswith("text/event-stream"), f"a stream's content type is {kind}")
        found = list(_events(response))
    finally:
        connection.close()
    _require(found and found[-1] == "[DONE]", "a stream must end in [DONE]")
    return [json.loads(event) for event in found[:-1]]


def _events(response: http.client.HTTPResponse) -> Iterator[str]:
    for line in response:
        text = line.decode("utf-8").rstrip("\r\n")  # Raises on half a character.
        if text.startswith("data:"):
            yield text[5:].strip()


def gauge(target: Target, name: str) -> float:
    """A metric's value, summed over its labels."""
    status, page = call(target, "GET", "/metrics")
    _require(status == 200, f"/metrics answered {status}")
    lines = [line for line in str(page).splitlines() if line.startswith((name + "{", name + " "))]
    _require(lines, f"/metrics has no {name}")
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


# --- the checks ---


def health_answers(target: Target) -> None:
    status, _ = call(target, "GET", "/health")
    _require(status == 200, f"/health answered {status}")


def models_lists_the_served_name(target: Target) -> None:
    status, answer = call(target, "GET", "/v1/models")
    _require(status == 200 and answer["object"] == "list", f"/v1/models answered {status}: {answer}")
    ids = [model["id"] for model in answer["data"]]
    _require(target.model in ids, f"/v1/models lists {ids}, not {target.model}")
    lengths = [model.get("max_model_len") for model in answer["data"]]
    _require(all(isinstance(n, int) and n > 0 for n in lengths), f"max_model_len is {lengths}")


def chat_answers(target: Target) -> None:
    answer = ask(target, "/v1/chat/completions", messages=USER, max_tokens=8, temperature=0)
    _require(answer["object"] == "chat.completion" and answer["model"] == target.model, str(answer))
    choice = answer["choices"][0]
    _require(choice["message"]["role"] == "assistant" and choice["message"]["content"], str(choice))
    _require(choice["finish_reason"] in {"stop", "length"}, str(choice))
    usage = answer["usage"]
    _require(usage["prompt_tokens"] > 0 and 0 < usage["completion_tokens"] <= 8, str(usage))
    _require(usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"], str(usage))


def completions_answer(target: Target) -> None:
    answer = ask(target, "/v1/completions", prompt="Once upon a time", max_tokens=8, temperature=0)
    _require(answer["object"] == "text_completion" and answer["choices"][0]["text"], str(answer))
    _require(answer["usage"]["prompt_tokens"] > 0, str(answer))


def length_is_told(target: Target) -> None:
    more = {"ignore_eos": True} if target.ignores_eos else {}
    answer = ask(target, "/v1/chat/completions", messages=USER, max_tokens=5, **more)
    if target.ignores_eos or answer["usage"]["completion_tokens"] == 5:
        _require(answer["choices"][0]["finish_reason"] == "length", str(answer))
        _require(answer["usage"]["completion_tokens"] == 5, str(answer))


def stream_says_the_same_as_the_whole(target: Target) -> None:
    body = {"messages": USER, "max_tokens": 24, "temperature": 0}
    whole = ask(target, "/v1/chat/completions", **body)["choices"][0]
    chunks = events(target, "/v1/chat/completions", **body)
    _require(chunks[0]["choices"][0]["delta"].get("role") == "assistant", f"the first chunk is {chunks[0]}")
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    _require(text == whole["message"]["content"], f"streamed {text!r}, whole {whole['message']['content']!r}")
    _require(all(c["object"] == "chat.completion.chunk" for c in chunks), "object must be chat.completion.chunk")
    ends = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"] and c["choices"][0]["finish_reason"]]
    _require(ends == [whole["finish_reason"]], f"finish_reason must come once, and was {ends}")


def stream_sends_tokens_as_they_come(target: Target) -> None:
    chunks = events(target, "/v1/completions", prompt="Once upon a time", max_tokens=16, temperature=0)
    texts = [c["choices"][0]["text"] for c in chunks if c["choices"] and c["choices"][0]["text"]]
    _require(len(texts) >= 4, f"16 tokens came in {len(texts)} pieces")


def usage_comes_in_the_last_chunk(target: Target) -> None:
    body = {"messages": USER, "max_tokens": 6, "temperature": 0}
    chunks = events(target, "/v1/chat/completions", stream_options={"include_usage": True}, **body)
    last = chunks[-1]
    _require(last["choices"] == [] and last["usage"]["completion_tokens"] <= 6, f"the last chunk is {last}")
    whole = ask(target, "/v1/chat/completions", **body)["usage"]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        _require(last["usage"][name] == whole[name], f"streamed {last['usage']}, whole {whole}")


def stop_strings_end_the_text(target: Target) -> None:
    prompt = {"prompt": "1 2 3 4 5 6 7 8 9 10 11", "temperature": 0, "max_tokens": 24}
    text = ask(target, "/v1/completions", **prompt)["choices"][0]["text"]
    middle = text.strip()[len(text.strip()) // 2 :][:3]
    _require(len(middle) == 3, f"the model said {text!r}")
    choice = ask(target, "/v1/completions", stop=[middle], **prompt)["choices"][0]
    _require(choice["text"] == text[: text.find(middle)], f"{choice['text']!r} of {text!r} up to {middle!r}")
    _require(choice["finish_reason"] == "stop", str(choice))
    chunks = events(target, "/v1/completions", stop=[middle], **prompt)
    streamed = "".join(c["choices"][0]["text"] for c in chunks if c["choices"])
    _require(streamed == choice["text"], f"streamed {streamed!r}, whole {choice['text']!r}")


def a_seed_repeats(target: Target) -> None:
    body = {"prompt": "The sea is", "max_tokens": 12, "temperature": 1.0, "seed": 7}
    first = ask(target, "/v1/completions", **body)["choices"][0]["text"]
    again = ask(target, "/v1/completions", **body)["choices"][0]["text"]
    _require(first == again, f"{first!r}, then {again!r}")


def without_a_seed_texts_differ(target: Target) -> None:
    body = {"prompt": "The sea is", "max_tokens": 16, "temperature": 1.5}
    texts = {ask(target, "/v1/completions", **body)["choices"][0]["text"] for _ in range(4)}
    _require(len(texts) > 1, f"four samples were all {texts}")


def n_gives_n_choices(target: Target) -> None:
    answer = ask(target, "/v1/chat/completions", messages=USER, n=3, max_tokens=6, temperature=1.0)
    _require([c["index"] for c in answer["choices"]] == [0, 1, 2], str(answer["choices"]))


def unicode_is_never_cut(target: Target) -> None:
    prompt = {"prompt": "你好世界🤗🌍 é ü — 你好世界🤗🌍 é ü — 你好世界🤗🌍 é", "temperature": 0, "max_tokens": 32}
    whole = ask(target, "/v1/completions", **prompt)["choices"][0]["text"]
    chunks = events(target, "/v1/completions", **prompt)
    streamed = "".join(c["choices"][0]["text"] for c in chunks if c["choices"])
    _require(streamed == whole, f"streamed {streamed!r}, whole {whole!r}")


def logprobs_are_told_or_refused(target: Target) -> None:
    body = {"model": target.model, "messages": USER, "max_tokens": 4, "temperature": 0, "logprobs": True}
    status, answer = call(target, "POST", "/v1/chat/completions", body)
    if not target.logprobs:
        _require(status == 400 and "logprobs" in json.dumps(answer), f"{status}: {answer}")
        return
    _require(status == 200, f"{status}: {answer}")
    content = answer["choices"][0]["logprobs"]["content"]
    _require(content and all(item["logprob"] <= 0 and isinstance(item["token"], str) for item in content), str(content))


def the_most_probable_tokens_are_told_as_far_as_they_are_known(target: Target) -> None:
    if not target.logprobs:
        return
    asked = max(1, target.top_logprobs)
    body = {"messages": USER, "max_tokens": 4, "temperature": 0, "logprobs": True}
    for place in ask(target, "/v1/chat/completions", **body, top_logprobs=asked)["choices"][0]["logprobs"]["content"]:
        likely = place["top_logprobs"]
        values = [other["logprob"] for other in likely]
        _require(len(likely) == asked and values == sorted(values, reverse=True), f"{asked} were asked for: {place}")
        _require(abs(values[0] - place["logprob"]) < 1e-3, f"a greedy choice is the most probable: {place}")
        equal = [other["token"] for other in likely if other["logprob"] > values[0] - 1e-3]  # 16 bits make many ties
        _require(place["token"] in equal or len(equal) == asked, f"two numbers for one token: {place}")
    prompt = {"prompt": "The sea is", "max_tokens": 4, "temperature": 1.0, "seed": 1}
    if target.top_logprobs:
        told = ask(target, "/v1/completions", **prompt, logprobs=asked)["choices"][0]["logprobs"]
        for name, value, place in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True):
            _require(1 < len(place) <= asked + 1 and name in place, f"{name} and {asked} more: {place}")
            _require(abs(place[name] - value) < 1e-3, f"two numbers for {name}: {value}, {place}")
    too_many = target.top_logprobs + 1
    status, answer = call(target, "POST", "/v1/completions", {"model": target.model, **prompt, "logprobs": too_many})
    _require(status == 400 and "logprobs" in json.dumps(answer), f"{too_many} of them: {status}: {answer}")


def errors_are_openai_shaped(target: Target) -> None:
    cases: list[tuple[str, Any, int]] = [
        ("invalid JSON", b'{"messages": [', 400),
        ("no messages", {"model": target.model}, 400),
        ("a bad temperature", {"model": target.model, "messages": USER, "temperature": -1}, 400),
        ("another model", {"model": "no-such-model", "messages": USER}, 404),
        ("a wrong type", {"model": target.model, "messages": USER, "max_tokens": "many"}, 400),
    ]
    for name, body, wanted in cases:
        status, answer = call(target, "POST", "/v1/chat/completions", body)
        _require(400 <= status < 500, f"{name}: {status}")
        _require(status in {wanted, 422}, f"{name}: {status}, not {wanted}")
        _require(isinstance(answer, dict) and isinstance(answer["error"]["message"], str), f"{name}: {answer}")


def unknown_parameters_are_refused_by_name(target: Target) -> None:
    body = {"model": target.model, "messages": USER, "max_tokens": 1, "temprature": 1}
    status, answer = call(target, "POST", "/v1/chat/completions", body)
    if target.refuses_unknown:
        _require(status in {400, 422} and "temprature" in json.dumps(answer), f"{status}: {answer}")
    else:
        _require(status in {200, 400, 422}, f"{status}: {answer}")


def a_context_that_is_too_long_is_told_with_numbers(target: Target) -> None:
    limit = call(target, "GET", "/v1/models")[1]["data"][0]["max_model_len"]
    body = {"model": target.model, "prompt": "word " * (limit + 16), "max_tokens": 1}
    status, answer = call(target, "POST", "/v1/completions", body)
    _require(status == 400, f"{status}: {answer}")
    _require(str(limit) in answer["error"]["message"], f"the message does not name the limit {limit}: {answer}")
    if target.tokenizes:
        num_words = limit * 2 + 1000
        count = ask(target, "/tokenize", prompt="hello " * num_words, add_special_tokens=False)["count"]
        _require(count >= num_words, f"{num_words} words are told as {count} tokens")


def eight_at_once_are_all_answered(target: Target) -> None:
    results: list[Any] = [None] * 8

    def one(index: int) -> None:
        try:
            results[index] = ask(target, "/v1/completions", prompt=f"Number {index} is", max_tokens=12, temperature=0)
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        _require(isinstance(result, dict), f"one of eight failed: {result!r}")
        _require(result["choices"][0]["text"] and result["usage"]["completion_tokens"] > 0, str(result))


def a_client_that_goes_is_dropped(target: Target) -> None:
    more: dict[str, Any] = {"ignore_eos": True} if target.ignores_eos else {}
    connection = Connection(target)
    body = {"model": target.model, "messages": USER, "max_tokens": target.cancel_tokens, "stream": True, **more}
    response = connection.send("POST", "/v1/chat/completions", body)
    _require(response.status == 200, f"{response.status}")
    for _, event in zip(range(3), _events(response), strict=False):
        _require(event != "[DONE]", "the stream ended before it could be cut")
    if target.metrics:
        _require(gauge(target, "vllm:num_requests_running") >= 1, "a running request is not counted")
    response.close()
    connection.close()
    if target.metrics:
        deadline = time.monotonic() + 10
        while gauge(target, "vllm:num_requests_running") > 0:
            _require(time.monotonic() < deadline, "the request of a client that went away runs on")
            time.sleep(0.02)
    chat_answers(target)


def tokens_and_text_come_back(target: Target) -> None:
    if not target.tokenizes:
        return
    text = "Hello, wörld! 你好"
    answer = ask(target, "/tokenize", prompt=text, add_special_tokens=False)
    _require(answer["count"] == len(answer["tokens"]) > 0 and answer["max_model_len"] > 0, str(answer))
    back = ask(target, "/detokenize", tokens=answer["tokens"])
    _require(back["prompt"] == text, f"{back['prompt']!r} is not {text!r}")
    chat = ask(target, "/tokenize", messages=USER)
    _require(chat["count"] > answer["count"], str(chat))


def parking_and_waking(target: Target) -> None:
    if not target.parks:
        return
    before = ask(target, "/v1/completions", prompt="Once upon a time", max_tokens=8, temperature=0)
    for _ in range(2):
        status, _ = call(target, "POST", "/sleep?level=1")
        _require(status == 200, f"/sleep answered {status}")
        _require(call(target, "GET", "/is_sleeping")[1] == {"is_sleeping": True}, "/is_sleeping must be true")
        if target.refuses_parked:
            status, answer = call(target, "POST", "/v1/completions", {"model": target.model, "prompt": "x"})
            _require(status == 503, f"a request while parked was answered with {status}: {answer}")
        status, _ = call(target, "POST", "/wake_up")
        _require(status == 200, f"/wake_up answered {status}")
        _require(call(target, "GET", "/is_sleeping")[1] == {"is_sleeping": False}, "/is_sleeping must be false")
        after = ask(target, "/v1/completions", prompt="Once upon a time", max_tokens=8, temperature=0)
        _require(after["choices"][0]["text"] == before["choices"][0]["text"], "the answer changed by parking")


CHECKS: tuple[Callable[[Target], None], ...] = (
    health_answers,
    models_lists_the_served_name,
    chat_answers,
    completions_answer,
    length_is_told,
    stream_says_the_same_as_the_whole,
    stream_sends_tokens_as_they_come,
    usage_comes_in_the_last_chunk,
    stop_strings_end_the_text,
    a_seed_repeats,
    without_a_seed_texts_differ,
    n_gives_n_choices,
    unicode_is_never_cut,
    logprobs_are_told_or_refused,
    the_most_probable_tokens_are_told_as_far_as_they_are_known,
    errors_are_openai_shaped,
    unknown_parameters_are_refused_by_name,
    a_context_that_is_too_long_is_told_with_numbers,
    eight_at_once_are_all_answered,
    a_client_that_goes_is_dropped,
    tokens_and_text_come_back,
    parking_and_waking,
)
