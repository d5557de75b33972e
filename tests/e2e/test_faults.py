"""kill -9 at bad moments, two daemons, a taken port, a foreign web page."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.e2e.running import Running, processes_of


def test_after_kill_9_running_engines_are_taken_up_and_the_cut_request_is_closed(daemon: Running) -> None:
    daemon.apply(min_replicas=1, args=("--token-delay-s=0.05", "--num-tokens=200"))
    pid = daemon.wait_for("demo", "ready")["replicas"][0]["pid"]
    connection = daemon.connect()
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 200, "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"X-Request-Id": "in-the-middle"})
    answer = connection.getresponse()
    assert answer.read(20)
    daemon.kill()
    connection.close()
    os.kill(pid, 0)
    daemon.start()
    replicas = daemon.wait_for("demo", "ready")["replicas"]
    assert [replica["pid"] for replica in replicas] == [pid]
    assert "replica.adopted" in daemon.events("demo")
    (row,) = [row for row in daemon.requests("demo") if row["request_id"] == "in-the-middle"]
    assert row["outcome"] == "cut"
    assert daemon.chat()[0] == 200


def test_after_kill_9_a_parked_engine_stays_parked_and_wakes(daemon: Running) -> None:
    daemon.apply(annotations={"ironloom.dev/park-for": "5m"})
    pid = daemon.wait_for("demo", "ready")["replicas"][0]["pid"]
    daemon.scale("demo", 0, park=True)
    daemon.until(lambda: daemon.service()["replicas"][0]["state"] == "parked", "a parked replica")
    daemon.kill()
    daemon.start()
    assert daemon.wait_for("demo", "parked")["replicas"][0]["pid"] == pid
    assert daemon.chat()[0] == 200
    assert daemon.service()["replicas"][0]["pid"] == pid


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.15, 0.3])
def test_kill_9_in_a_start_leaves_no_stray_and_the_service_comes_up(daemon: Running, after_s: float) -> None:
    daemon.apply(min_replicas=1, args=("--start-delay-s=0.2",))
    time.sleep(after_s)
    daemon.kill()
    daemon.start()
    daemon.wait_for("demo", "ready")
    replicas = daemon.service()["replicas"]
    assert len(replicas) == 1
    daemon.until(lambda: processes_of(daemon.state, launchers=False) == [replicas[0]["pid"]], "one process of ours")


def test_a_killed_daemon_whose_engine_died_too_starts_a_new_one(daemon: Running) -> None:
    daemon.apply(min_replicas=1)
    pid = daemon.wait_for("demo", "ready")["replicas"][0]["pid"]
    daemon.kill()
    os.kill(pid, 9)
    daemon.start()
    daemon.until(lambda: [r["pid"] for r in daemon.wait_for("demo", "ready")["replicas"]] != [pid], "another process")
    assert daemon.chat()[0] == 200


def test_sigterm_answers_what_is_in_flight_and_stops_the_engines(tmp_path: Path) -> None:
    daemon = Running(tmp_path / "state").start()
    daemon.apply(args=("--token-delay-s=0.1", "--num-tokens=10"))
    daemon.wait_for("demo", "ready")
    answers: list[tuple[int, object]] = []
    thread = threading.Thread(target=lambda: answers.append(daemon.chat(max_tokens=10, stream=True)))
    thread.start()
    daemon.until(lambda: daemon.service()["in_flight"] == 1, "a request in flight")
    assert daemon.stop() == 0
    thread.join()
    ((status, text),) = answers
    assert status == 200
    assert isinstance(text, bytes)
    assert text.rstrip().endswith(b"data: [DONE]")
    assert not processes_of(daemon.state)
    assert not (daemon.state / "daemon.json").exists()


def test_services_are_there_after_a_clean_restart_and_what_was_at_zero_stays_there(tmp_path: Path) -> None:
    daemon = Running(tmp_path / "state").start()
    daemon.apply()
    daemon.wait_for("demo", "ready")
    daemon.scale("demo", 0)
    daemon.wait_for("demo", "zero")
    daemon.stop()
    daemon.start()
    try:
        assert daemon.service()["state"] == "zero"
        time.sleep(2.5)  # one tick of the autoscaler
        assert daemon.service()["state"] == "zero"
        assert daemon.chat()[0] == 200
    finally:
        daemon.stop()


def test_a_second_daemon_on_the_same_folder_is_refused_and_told_who_holds_it(daemon: Running) -> None:
    command = [sys.executable, "-m", "ironloom.cli", "up", "--port", "0", "--state", str(daemon.state)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode != 0
    assert daemon.process is not None
    assert f"pid {daemon.process.pid}" in second.stderr
    assert "hint:" in second.stderr
    assert "Traceback" not in second.stderr
    assert daemon.get("/api/v1/status")["pid"] == daemon.process.pid


def test_a_taken_port_is_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "ironloom.cli", "up", "--port", port, "--state", str(tmp_path)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 2
    assert f"port {port}" in result.stderr
    assert "hint:" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Host": "evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
    ],
)
def test_a_web_page_of_another_origin_cannot_control(daemon: Running, headers: dict[str, str]) -> None:
    status, body = daemon.request("POST", "/api/v1/shutdown", {"stop_replicas": True}, headers=headers)
    assert status == 403
    assert body["error"]["code"] in ("origin_not_allowed", "host_not_allowed", "foreign_origin")
    assert daemon.get("/api/v1/status")


def test_with_keys_required_each_door_wants_its_own(tmp_path: Path) -> None:
    daemon = Running(tmp_path / "state", "--require-keys").start()
    try:
        assert daemon.key is not None
        daemon.apply()
        _, made = daemon.request("POST", "/api/v1/keys", {"name": "app", "scope": "inference", "services": ["demo"]})
        daemon.apply("other")
        own, inference = daemon.key, made["key"]
        daemon.key = None
        assert daemon.chat()[0] == 401
        daemon.key = "il-wrong"
        assert daemon.chat()[0] == 401
        daemon.key = inference
        assert daemon.chat()[0] == 200
        assert daemon.chat("other")[0] == 404
        assert [model["id"] for model in daemon.get("/v1/models")["data"]] == ["demo"]
        assert daemon.request("GET", "/api/v1/services")[0] == 403
        daemon.key = own
        assert daemon.request("DELETE", f"/api/v1/keys/{made['id']}")[0] == 200
        daemon.key = inference
        assert daemon.chat()[0] == 401
        daemon.key = own
        told = daemon.log() + json.dumps(daemon.get("/api/v1/events?limit=1000")) + json.dumps(daemon.requests())
        assert inference not in told
        assert own not in told
    finally:
        daemon.stop()
