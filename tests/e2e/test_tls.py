"""TLS end to end: a real certificate, a real daemon, the fake engine behind it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.running import Running, processes_of

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="no openssl to make a certificate with")


class RunningTls(Running):
    """A daemon that serves TLS, and the connections to it."""

    def __init__(self, state: Path, cert: Path, key: Path) -> None:
        super().__init__(state, "--tls-cert", str(cert), "--tls-key", str(key))
        self.cert = cert

    def context(self) -> ssl.SSLContext:
        """A client's that trusts this certificate alone, and checks the name."""
        return ssl.create_default_context(cafile=str(self.cert))

    def connect(self, timeout_s: float = 30.0) -> http.client.HTTPConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout_s, context=self.context())

    def plain(self, timeout_s: float = 10.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)

    def secured(self, timeout_s: float = 10.0) -> ssl.SSLSocket:
        return self.context().wrap_socket(self.plain(timeout_s), server_hostname="127.0.0.1")


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    assert OPENSSL is not None
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            OPENSSL, "req", "-x509", "-nodes", "-days", "2",
            "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
            "-keyout", str(key), "-out", str(cert),
        ],
        check=True, capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return cert, key


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return _certificate(tmp_path_factory.mktemp("tls"), "own")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, pair: tuple[Path, Path]) -> Iterator[RunningTls]:
    """One daemon for all of this file, with the service `demo` ready."""
    running = RunningTls(tmp_path_factory.mktemp("daemon") / "state", *pair)
    running.start()
    try:
        running.apply(min_replicas=1, args=("--token-delay-s=0.05",))
        running.wait_for("demo", "ready")
        yield running
    finally:
        running.stop()
    give_up = time.monotonic() + 5
    while (left := processes_of(running.state)) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not left, f"left running: {left}"


def _chat_body(**more: object) -> bytes:
    messages = [{"role": "user", "content": "hi"}]
    return json.dumps({"model": "demo", "messages": messages, "max_tokens": 8, **more}).encode()


def _raw_chat(body: bytes, request_id: str = "raw") -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-Id: {request_id}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _read_all(sock: socket.socket) -> bytes:
    got = b""
    while piece := sock.recv(65536):
        got += piece
    return got


def _ironloom(daemon: Running, *args: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("IRONLOOM_")}
    environ |= {"IRONLOOM_HOME": str(daemon.state), "PYTHONDEVMODE": ""}
    command = [sys.executable, "-m", "ironloom.cli", *args]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_the_handshake_shows_this_certificate_and_no_old_protocol(daemon: RunningTls) -> None:
    with daemon.secured() as sock:
        assert sock.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(daemon.cert.read_text())
        assert sock.version() in ("TLSv1.2", "TLSv1.3")


def test_a_client_that_does_not_trust_the_certificate_refuses_it(daemon: RunningTls) -> None:
    with daemon.plain() as plain, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(plain, server_hostname="127.0.0.1")
    assert daemon.chat()[0] == 200


def test_a_chat_is_answered(daemon: RunningTls) -> None:
    status, answer = daemon.chat(max_tokens=4)
    assert status == 200
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] == 4


def test_a_stream_arrives_whole_and_in_pieces(daemon: RunningTls) -> None:
    connection = daemon.connect()
    try:
        body = _chat_body(stream=True, stream_options={"include_usage": True})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert (answer.status, answer.headers.get_content_type()) == (200, "text/event-stream")
        arrived_s, lines = [], []
        while line := answer.readline():
            if line.startswith(b"data: "):
                arrived_s.append(time.monotonic())
                lines.append(line[6:].strip())
    finally:
        connection.close()
    assert lines[-1] == b"[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    assert events[-1]["usage"]["completion_tokens"] == 8
    assert "".join(c["delta"].get("content") or "" for event in events for c in event["choices"])
    assert arrived_s[-1] - arrived_s[0] > 0.1, "the events came in one piece at the end"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_closes_its_sending_half_has_gone_and_harms_nobody(stream: bool, daemon: RunningTls) -> None:
    """TLS has no half-open connection here, other than cleartext: the request ends at once, told in the log."""
    request_id = f"half-{stream}"
    with daemon.secured() as sock:
        sock.sendall(_raw_chat(_chat_body(stream=stream), request_id))
        socket.socket.shutdown(sock, socket.SHUT_WR)
        try:
            got = _read_all(sock)
        except (ssl.SSLError, ConnectionError):
            got = b""
    assert b"[DONE]" not in got
    assert b"finish_reason" not in got
    row = daemon.until(
        lambda: next((r for r in daemon.requests("demo") if r["request_id"] == request_id and r["outcome"]), None),
        "the request's end",
    )
    assert row["outcome"] == "client_gone"
    daemon.until(lambda: daemon.service()["in_flight"] == 0, "the engine's end of it")
    assert daemon.chat()[0] == 200


def test_the_command_line_trusts_the_certificate_that_the_daemon_announced(daemon: RunningTls) -> None:
    found = json.loads((daemon.state / "daemon.json").read_text())
    assert found["url"] == f"https://127.0.0.1:{daemon.port}"
    assert found["cert"] == str(daemon.cert)
    result = _ironloom(daemon, "get", "-o", "name")
    assert (result.returncode, result.stdout, result.stderr) == (0, "service/demo\n", "")


@pytest.mark.parametrize(
    "sent", [b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", _raw_chat(_chat_body()), b"\0" * 64]
)
def test_plain_http_gets_no_answer_and_harms_nothing(sent: bytes, daemon: RunningTls) -> None:
    num_before = len(daemon.requests("demo"))
    with daemon.plain() as sock:
        sock.sendall(sent)
        try:
            got = _read_all(sock)
        except ConnectionError:
            got = b""
    assert b"HTTP/" not in got
    assert len(daemon.requests("demo")) == num_before
    assert "Traceback" not in daemon.log()
    assert daemon.chat()[0] == 200


@pytest.mark.parametrize("what", ["the key of another certificate", "no PEM at all"])
def test_a_certificate_that_cannot_be_used_is_a_sentence_and_status_2(
    what: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, _ = pair
    key = _certificate(tmp_path, "other")[1]
    if what == "no PEM at all":
        key.write_text("this is no key\n")
    state = tmp_path / "state"
    command = [sys.executable, "-m", "ironloom.cli", "up", "--port", "0", "--state", str(state)]
    environ = {**os.environ, "IRONLOOM_HOME": str(state), "PYTHONDEVMODE": ""}
    result = subprocess.run(
        [*command, "--tls-cert", str(cert), "--tls-key", str(key)],
        env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (2, "")
    assert f"The certificate {cert} and its key " in result.stderr
    assert "holds no PEM text" in result.stderr or "the key belongs to another certificate" in result.stderr
    assert "hint: both are PEM files, the key without a passphrase." in result.stderr
    assert "Traceback" not in result.stderr
    assert not (state / "daemon.json").exists()
