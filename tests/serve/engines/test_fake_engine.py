"""The fake engine: its knobs, and its program as a client sees it."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ironloom.backends.local.probe import ask
from ironloom.errors import ModelNotFound, UsageError
from ironloom.fleet.node import Node
from ironloom.serve.engines.base import LaunchOrder
from ironloom.serve.engines.fake import ENGINE, MODULE, knobs_of
from ironloom.serve.engines.fake_knobs import Knobs, from_arguments, from_environment, from_mapping
from ironloom.workload.serving import Serving

SERVING = Serving(name="a", kind="InferenceService", runtime="fake", model_uri="fake")
NODE = Node(name="n", num_cpus=1, memory_bytes=1, available_memory_bytes=1)


def order(serving: Serving, port: int = 20_000) -> LaunchOrder:
    return LaunchOrder(model=ENGINE.own_model(serving), serving=serving, port=port)


def test_arguments_come_over_the_file_and_the_environment_over_both(tmp_path: Path) -> None:
    file = tmp_path / "fake.json"
    file.write_text(json.dumps({"num_tokens": 3, "token_delay_s": 0.5, "crash_at_start": 1}))
    serving = replace(
        SERVING,
        model_uri=f"file://{tmp_path}",
        engine_args=("--token-delay-s", "0.25", "--max-model-len", "64", "--leak-child", "--crash-at-start=2"),
        env={"FAKE_CRASH_AT_START": "4", "OTHER": "x"},
    )
    expected = Knobs(num_tokens=3, token_delay_s=0.25, leak_child=True, crash_at_start=4)
    assert knobs_of(order(serving)) == expected
    assert knobs_of(order(replace(serving, model_uri=str(file)))) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tokn": 1}, 'there is no knob "tokn"; there are start_delay_s'),
        ({"num_tokens": "many"}, "num_tokens = 'many' is no int"),
        ({"leak_child": "perhaps"}, "leak_child = 'perhaps' is no bool"),
        ([1], "is not a JSON object of knobs"),
    ],
)
def test_what_is_no_knob_is_told_by_name(values: object, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        from_mapping(Knobs(), values, "fake.json")


def test_arguments_of_vllm_mean_nothing_here() -> None:
    assert from_arguments(Knobs(), ("--dtype", "auto", "--enforce-eager")) == Knobs()
    assert from_environment(Knobs(), {"HF_TOKEN": "x"}) == Knobs()


def test_it_is_taken_only_when_it_is_asked_for() -> None:
    model = ENGINE.own_model(SERVING)
    assert ENGINE.refuses(model, SERVING, NODE) is None
    assert ENGINE.refuses(model, replace(SERVING, runtime=None), NODE) is not None


def test_a_model_path_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ModelNotFound, match="There is no /nowhere"):
        ENGINE.own_model(replace(SERVING, model_uri="file:///nowhere"))


@contextmanager
def program(**knobs: Any) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A running fake engine: (port, process)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = ENGINE.launch(order(replace(SERVING, env={f"FAKE_{k.upper()}": str(v) for k, v in knobs.items()}), port))
    assert launch.argv[1:3] == ("-m", MODULE)
    process = subprocess.Popen(launch.argv, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.01)
        yield port, process
    finally:
        process.kill()
        process.wait()


async def post(port: int, path: str, body: object) -> tuple[int, str]:
    """An answer, its chunks joined; read to its end or to the connection's."""
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode()
    )
    writer.write(data)
    answer = b""
    try:
        while more := await asyncio.wait_for(reader.read(65536), 10):
            answer += more
    except ConnectionError:
        pass
    finally:
        writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"chunked" in head:
        pieces, left = [], rest
        while left:
            size, _, left = left.partition(b"\r\n")
            length = int(size, 16)
            pieces.append(left[:length])
            left = left[length + 2 :]
            if not length:
                break
        rest = b"".join(pieces)
    return int(head.split()[1]) if head else 0, rest.decode(errors="replace")


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "a", "messages": [{"role": "user", "content": text}], **more}


def test_answers_are_the_same_for_the_same_prompt_and_counted() -> None:
    async def scenario(port: int) -> None:
        _, first = await post(port, "/v1/chat/completions", chat("hello there you"))
        _, again = await post(port, "/v1/chat/completions", chat("hello there you"))
        _, other = await post(port, "/v1/chat/completions", chat("something else"))
        texts = [json.loads(body)["choices"][0]["message"]["content"] for body in (first, again, other)]
        assert texts[0] == texts[1] != texts[2]
        usage = {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
        assert json.loads(first)["usage"] == usage

        status, stream = await post(
            port,
            "/v1/chat/completions",
            chat("hello there you", stream=True, stream_options={"include_usage": True}),
        )
        events = [line.removeprefix("data: ") for line in stream.split("\n\n") if line]
        assert (status, events[-1]) == (200, "[DONE]")
        chunks = [json.loads(event) for event in events[:-1]]
        text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
        assert text == texts[0]
        assert chunks[-1]["usage"] == usage

        _, short = await post(port, "/v1/completions", {"model": "a", "prompt": "x", "max_tokens": 2})
        choice = json.loads(short)["choices"][0]
        assert (len(choice["text"].split()), choice["finish_reason"]) == (2, "length")
        status, error = await post(port, "/v1/chat/completions", [1])
        assert (status, json.loads(error)["error"]["type"]) == (400, "invalid_request_error")

    with program() as (port, _):
        asyncio.run(scenario(port))


def test_a_sleeping_one_answers_no_request_until_it_is_woken() -> None:
    async def scenario(port: int) -> None:
        assert (await ask(port, "POST", "/sleep?level=1", timeout_s=5))[0] == 200
        assert json.loads((await ask(port, "GET", "/is_sleeping", timeout_s=5))[1]) == {"is_sleeping": True}
        assert (await post(port, "/v1/completions", {"prompt": "x"}))[0] == 503
        assert (await ask(port, "POST", "/wake_up", timeout_s=5))[0] == 200
        assert (await post(port, "/v1/completions", {"prompt": "x"}))[0] == 200

    with program() as (port, _):
        asyncio.run(scenario(port))


@pytest.mark.parametrize(
    ("knobs", "status", "ended"),
    [
        ({"crash_after_requests": 1}, 200, 70),
        ({"crash_after_tokens": 3}, 0, 71),
        ({"signal_after_tokens": 3}, 0, -11),
    ],
    ids=["after an answer", "in the middle", "by a signal"],
)
def test_it_dies_as_it_is_told(knobs: dict[str, Any], status: int, ended: int) -> None:
    with program(**knobs) as (port, process):
        assert asyncio.run(post(port, "/v1/completions", {"prompt": "x"}))[0] == status
        assert process.wait(10) == ended


def test_a_stream_is_cut_in_the_middle_by_a_death() -> None:
    with program(signal_after_tokens=3) as (port, process):
        _, stream = asyncio.run(post(port, "/v1/chat/completions", chat("x", stream=True)))
        assert 0 < stream.count("data: ") < 8
        assert "[DONE]" not in stream
        assert process.wait(10) == -11


def test_garbage_is_no_http_and_bad_json_is_no_json() -> None:
    with program(garbage=True) as (port, _), pytest.raises(ValueError, match="is no HTTP"):
        asyncio.run(ask(port, "GET", "/health", timeout_s=5))
    with program(bad_json=True) as (port, _):
        status, body = asyncio.run(post(port, "/v1/completions", {"prompt": "x"}))
        assert status == 200
        with pytest.raises(ValueError, match="Expecting"):
            json.loads(body)


def test_a_crash_at_start_prints_lines_first() -> None:
    command = [sys.executable, "-m", MODULE, "--knobs", '{"crash_at_start": 5, "crash_lines": 2}']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert done.stderr.splitlines() == [f"fake engine: line {n} before the crash" for n in (1, 2)]


def test_it_starts_with_little_work() -> None:
    """Chaos runs start it thousands of times: no heavy module, and few in all."""
    program = (
        "import json, runpy, sys\n"
        "sys.argv = ['fake', '--knobs', json.dumps({'crash_at_start': 5})]\n"
        "try:\n"
        f"    runpy.run_module({MODULE!r}, run_name='__main__')\n"
        "except SystemExit as ended:\n"
        "    print(json.dumps([ended.code, sorted(sys.modules)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    code, loaded = json.loads(done.stdout)
    assert code == 5
    assert not {"anyio", "httpx2", "jinja2", "numpy", "sqlite3", "starlette", "transformers", "yaml"} & set(loaded)
    assert len(loaded) < 280
