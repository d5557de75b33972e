"""Clients that mean harm, or do it, against a real daemon: it answers them with a 4xx, and others as ever."""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.running import Running

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One daemon for all tests here: what one does to it, the next would see."""
    daemon = Running(tmp_path_factory.mktemp("hostile") / "state").start()
    daemon.apply(min_replicas=1)
    daemon.wait_for("demo", "ready")
    yield daemon
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()


@pytest.fixture
def daemon(shared: Running) -> Iterator[Running]:
    """It works after each test, and nothing of the test is left in it."""
    yield shared
    assert shared.chat(timeout_s=10)[0] == 200
    shared.until(lambda: not shared.service()["in_flight"] and not shared.service()["held"], "no request left behind")


def raw(daemon: Running, data: bytes, *, half_close: bool = False, timeout_s: float = 10.0) -> bytes:
    """Everything that comes back to these bytes, until the server closes or falls silent."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=timeout_s) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(OSError):
        while part := connection.recv(65536):
            answer += part
    return answer


def post(daemon: Running, path: str, body: bytes, *headers: str) -> tuple[int, Any]:
    """A POST with exactly these bytes as its body."""
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{daemon.port}", f"Content-Length: {len(body)}"]
    lines += ["Content-Type: application/json", "Connection: close", *headers]
    answer = raw(daemon, "\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    head, _, text = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(text)


def chat_body(content: str, **more: Any) -> bytes:
    return json.dumps({"model": "demo", "messages": [{"role": "user", "content": content}], **more}).encode()


def test_a_prompt_of_100_000_characters_and_a_body_of_10_mb_are_answered(daemon: Running) -> None:
    for size in (100_000, 10_000_000):
        for stream in (False, True):
            status, _ = daemon.chat(messages=[{"role": "user", "content": "x" * size}], stream=stream)
            assert status == 200


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"])
def test_a_body_over_the_limit_is_refused_before_it_is_sent(daemon: Running, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 40000000\r\n\r\n"
    answer = raw(daemon, head.encode() + b"x" * 100_000)
    assert answer.startswith(b"HTTP/1.1 413 ")


_PROMPT = b'{"model":"demo","messages":[{"role":"user","content":"%b"}]}'
BODIES = {
    "nothing": b"",
    "no JSON": b"hello",
    "half of it": chat_body("hi")[:-10],
    "two of them": chat_body("hi") * 2,
    "a list": b"[]",
    "null": b"null",
    "a number": b"1e999",
    "invalid UTF-8": _PROMPT % b"\xff\xfe",
    "invalid UTF-8 in a key": b'{"model":"demo","mess\xffages":[]}',
    "NUL bytes": b"\0" * 100,
    "a NUL in a string": _PROMPT % b"a\0b",
    "UTF-16": chat_body("hi").decode().encode("utf-16"),
    "nested 100,000 deep": b'{"model":"demo","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a model that is a number": b'{"model":7}',
    "a model that is a NUL": b'{"model":"\\u0000"}',
    "a model of a million characters": json.dumps({"model": "m" * 1_000_000}).encode(),
    "no model": b'{"messages":[]}',
    "stream as a word": b'{"model":"demo","stream":"yes"}',
    "stream options as a list": b'{"model":"demo","stream":true,"stream_options":[1]}',
}


@pytest.mark.parametrize(
    "path", [CHAT, "/v1/completions", "/v1/embeddings", "/tokenize", "/v1/responses", "/v1/messages"]
)
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_request_gets_a_4xx_that_says_why(daemon: Running, path: str, name: str) -> None:
    status, answer = post(daemon, path, BODIES[name])
    assert 400 <= status < 500, answer
    assert answer["error"]["message"]


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", ["/api/v1/apply", "/api/v1/keys", "/api/v1/services/demo/scale", "/v1/batches"])
def test_the_control_api_refuses_it_too(daemon: Running, path: str, name: str) -> None:
    status, answer = post(daemon, path, BODIES[name])
    assert 400 <= status < 500, answer
    assert answer["error"]["message"]


@pytest.mark.parametrize("content", ["\\ud83d", "\\u0000", "\\uffff", "\U0001f600", "a\\r\\nb: c\\r\\n\\r\\n"])
@pytest.mark.parametrize("stream", [False, True])
def test_strange_characters_in_a_prompt_are_the_engines_to_answer(daemon: Running, content: str, stream: bool) -> None:
    body = _PROMPT % content.encode()
    if stream:
        body = body[:-1] + b',"stream":true}'
    answer = raw(daemon, f"POST {CHAT} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    assert answer[9:12] in (b"200", b"400"), answer


@pytest.mark.parametrize(
    "head",
    [
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\nhello",
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST {path} HTTP/1.1\r\nHost: x\r\nA: b\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "POST {path} HTTP/1.1\r\nHost: x\r\nHost: y\r\nContent-Length: 0\r\n\r\n",
        "POST {path} HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        "POST {path}\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST {path} HTTP/1.1\nHost: x\n\n",
    ],
)
def test_framing_that_two_could_read_differently_is_refused_and_what_is_behind_it_is_not_run(
    daemon: Running, head: str
) -> None:
    body = chat_body("hi")
    smuggled = (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-Id: smuggled\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    answer = raw(daemon, head.format(path=CHAT).encode() + smuggled.encode() + body)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 413 ", b"HTTP/1.1 501 ")), answer
    assert answer.count(b"HTTP/1.1 ") == 1
    assert "smuggled" not in [row["request_id"] for row in daemon.requests()]


def test_heads_too_large_or_with_too_many_headers_get_431(daemon: Running) -> None:
    for lines in ("A: " + "b" * 100_000, "\r\n".join(f"A{n}: b" for n in range(2000))):
        answer = raw(daemon, f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_in_the_middle_frees_its_place(daemon: Running, stream: bool) -> None:
    daemon.apply("slow", min_replicas=1, args=("--token-delay-s=0.2", "--num-tokens=100"))
    daemon.wait_for("slow", "ready")
    body = chat_body("hi", model="slow", stream=stream, max_tokens=100)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-Id: gone-{stream}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", daemon.port)) as connection:
        connection.sendall(head.encode() + body)
        daemon.until(lambda: daemon.service("slow")["in_flight"] == 1, "the request in flight")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not a farewell
    daemon.until(lambda: daemon.service("slow")["in_flight"] == 0, "its place freed", 5)
    with socket.create_connection(("127.0.0.1", daemon.port)) as connection:
        connection.sendall(head.replace("gone", "half").encode() + body)
        daemon.until(lambda: daemon.service("slow")["in_flight"] == 1, "the request in flight")
        connection.shutdown(socket.SHUT_WR)
        daemon.until(lambda: daemon.service("slow")["in_flight"] == 0, "its place freed", 5)
    outcomes = {row["request_id"]: row["outcome"] for row in daemon.requests("slow")}
    assert outcomes[f"gone-{stream}"] == outcomes[f"half-{stream}"] == "client_gone"
    assert daemon.request("DELETE", "/api/v1/services/slow")[0] == 200


def test_a_body_that_ends_early_is_no_request(daemon: Running) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-Id: early\r\nContent-Length: 1000\r\n\r\n"
    assert raw(daemon, head.encode() + chat_body("hi"), half_close=True) in (b"",)
    assert "early" not in [row["request_id"] for row in daemon.requests()]


@contextlib.contextmanager
def connections(daemon: Running, number: int, data: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open so many, send this on each, and close them in the end."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(number):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port), timeout=10))
            connection.sendall(data)
            opened.append(connection)
        yield opened


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_thousands_of_idle_connections_leave_room_for_others(daemon: Running) -> None:
    assert daemon.process is not None
    before = rss_bytes(daemon.process.pid)
    with connections(daemon, 3000, b"POST / HT"):
        began_s = time.monotonic()
        assert daemon.chat()[0] == 200
        assert time.monotonic() - began_s < 2
        assert rss_bytes(daemon.process.pid) - before < 3000 * 40_000


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit")
def test_with_few_descriptors_connections_are_refused_and_those_there_are_served(tmp_path: Path) -> None:
    daemon = Running(tmp_path / "state")
    daemon.max_files = 512
    daemon.start()
    try:
        daemon.apply(min_replicas=1)
        daemon.wait_for("demo", "ready")
        kept = daemon.connect()
        kept.request("GET", "/healthz")
        assert kept.getresponse().read() == b"ok\n"
        with connections(daemon, 300) as opened:
            time.sleep(0.2)
            answers = [read_all(one) for one in select.select(opened, [], [], 5)[0]]
            assert answers
            assert all(answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After" in answer for answer in answers)
            kept.request("POST", CHAT, chat_body("hi"), {"Content-Type": "application/json"})
            assert kept.getresponse().status == 200
        kept.close()
        daemon.until(lambda: daemon.chat()[0] == 200, "room again")
        assert "Too many open files" not in daemon.log()
    finally:
        daemon.stop()


@pytest.mark.slow
def test_slow_heads_and_slow_bodies_are_ended_and_hold_up_nobody(daemon: Running) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n".encode()
    began_s = time.monotonic()
    with connections(daemon, 100, head[:20]) as heads, connections(daemon, 100, head + b"\r\n") as bodies:
        left = {*heads, *bodies}
        answers: dict[socket.socket, bytes] = {}
        while left and time.monotonic() - began_s < 40:
            assert daemon.chat(timeout_s=5)[0] == 200
            heard = select.select(left, [], [], 0)[0]
            answers |= {connection: read_all(connection) for connection in heard}
            left -= set(heard)
            for connection in left:
                with contextlib.suppress(OSError):
                    connection.sendall(b"x")  # a byte now and then, as a slow-loris does
            time.sleep(1)
        assert not left
        assert all(answers[one].startswith(b"HTTP/1.1 408 ") for one in heads), answers[heads[0]]
        assert all(answers[one].startswith(b"HTTP/1.1 408 ") for one in bodies), answers[bodies[0]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # schemathesis's own
def test_nothing_made_from_the_description_breaks_a_real_daemon(tmp_path: Path) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    daemon = Running(tmp_path / "state").start()
    try:
        daemon.apply(min_replicas=1)
        daemon.wait_for("demo", "ready")
        bounded = settings(
            max_examples=25,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            database=None,
        )
        url = f"http://127.0.0.1:{daemon.port}"

        def check(case: Any) -> None:
            if case.query and "follow" in case.query:
                case.query["follow"] = "0"  # a log that is followed has no end
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "demo"  # so that the engine is asked too
            if case.path_parameters.get("name"):
                case.path_parameters["name"] = "demo"
            response = case.call(base_url=url, timeout=20)
            told = response.status_code in (502, 503, 504) and response.json()["error"]["source"] in (
                "engine",
                "gateway",
            )
            assert response.status_code < 500 or told, f"{case.method} {case.formatted_path}: {response.text}"

        num_checked = 0
        for result in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
            operation = result.ok()
            if operation.path in ("/api/v1/stream", "/api/v1/shutdown"):
                continue  # one has no end, the other is it
            if operation.method.upper() == "DELETE" and operation.path.startswith("/api/v1/services"):
                continue  # the others need the service
            modes = [schemathesis.GenerationMode.POSITIVE]
            if operation.body or operation.query:
                modes.append(schemathesis.GenerationMode.NEGATIVE)
            for mode in modes:
                bounded(given(case=operation.as_strategy(generation_mode=mode))(check))()
                num_checked += 1
        assert num_checked > 40
        assert "Traceback" not in daemon.log()
        daemon.scale("demo", None)
        assert daemon.chat(timeout_s=60)[0] == 200
    finally:
        daemon.stop()
