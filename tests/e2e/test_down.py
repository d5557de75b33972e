"""`ironloom down` while there is work: it is finished first; what is new is told to come back."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.e2e.running import Running, processes_of


def down(daemon: Running, *options: str) -> tuple[int, str]:
    """Exit status and output of `ironloom down`."""
    command = [sys.executable, "-m", "ironloom.cli", "down", "--state", str(daemon.state), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    return done.returncode, done.stdout + done.stderr


def in_threads(number: int, work: Any) -> tuple[list[Any], list[threading.Thread]]:
    results: list[Any] = []
    threads = [threading.Thread(target=lambda n=n: results.append(work(n))) for n in range(number)]
    for thread in threads:
        thread.start()
    return results, threads


def test_streams_under_way_end_whole_and_new_requests_get_503(tmp_path: Path) -> None:
    daemon = Running(tmp_path / "state").start()
    try:
        daemon.apply(args=("--token-delay-s=0.1", "--num-tokens=25"))
        daemon.wait_for("demo", "ready")
        streams, threads = in_threads(6, lambda n: daemon.chat(max_tokens=25, stream=True, request_id=f"stream-{n}"))
        daemon.until(lambda: daemon.service()["in_flight"] == 6, "six streams")
        pid = daemon.service()["replicas"][0]["pid"]
        stopped, stopping = in_threads(1, lambda _: down(daemon))
        daemon.until(lambda: refused(daemon), "new requests refused", 5)
        for thread in threads:
            thread.join(20)
        assert [status for status, _ in streams] == [200] * 6
        assert all(text.rstrip().endswith(b"data: [DONE]") for _, text in streams)
        stopping[0].join(40)
        ((exit_status, said),) = stopped
        assert exit_status == 0, said
        assert "has stopped" in said
        assert daemon.process is not None
        assert daemon.process.wait(5) == 0
        assert not processes_of(daemon.state), pid
    finally:
        daemon.stop()
    daemon.start()
    try:
        ended = sorted((row["request_id"], row["outcome"]) for row in daemon.requests("demo"))
        assert [one for one in ended if one[0].startswith("stream-")] == [(f"stream-{n}", "ok") for n in range(6)]
    finally:
        daemon.stop()


def refused(daemon: Running) -> bool:
    """A new request is: by a 503 on a connection that was open, or by nobody who listens."""
    try:
        return daemon.chat(timeout_s=5)[0] == 503
    except OSError:
        return True


def test_a_request_that_is_held_is_answered_before_the_end(tmp_path: Path) -> None:
    daemon = Running(tmp_path / "state").start()
    try:
        daemon.apply(args=("--start-delay-s=1.5",), annotations={"autoscaling.knative.dev/initial-scale": "0"})
        answers, threads = in_threads(3, lambda _: daemon.chat(max_tokens=3))
        daemon.until(lambda: daemon.service()["held"] == 3, "three held requests")
        stopped, stopping = in_threads(1, lambda _: down(daemon))
        for thread in threads:
            thread.join(20)
        assert [status for status, _ in answers] == [200] * 3, answers
        stopping[0].join(40)
        assert stopped[0][0] == 0, stopped
        assert not processes_of(daemon.state)
    finally:
        daemon.stop()


def test_replicas_may_be_kept_and_the_next_daemon_has_them(tmp_path: Path) -> None:
    daemon = Running(tmp_path / "state").start()
    try:
        daemon.apply(min_replicas=1)
        pid = daemon.wait_for("demo", "ready")["replicas"][0]["pid"]
        assert down(daemon, "--keep-replicas")[0] == 0
        assert processes_of(daemon.state, launchers=False) == [pid]
        daemon.start()
        assert [replica["pid"] for replica in daemon.service()["replicas"]] == [pid]
        assert daemon.chat()[0] == 200
    finally:
        daemon.stop()
        assert not processes_of(daemon.state)


def test_a_batch_under_way_is_taken_up_by_the_next_daemon(tmp_path: Path) -> None:
    daemon = Running(tmp_path / "state").start()
    try:
        daemon.apply(args=("--token-delay-s=0.02", "--max-concurrency=4"))
        body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
        row = {"method": "POST", "url": "/v1/chat/completions", "body": body}
        file_id = daemon.upload(b"".join(json.dumps({"custom_id": f"{n}", **row}).encode() + b"\n" for n in range(120)))
        asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        path = f"/v1/batches/{daemon.request('POST', '/v1/batches', asked)[1]['id']}"
        daemon.until(lambda: daemon.get(path)["request_counts"]["completed"] > 20, "some rows")
        assert down(daemon)[0] == 0
        daemon.start()
        ended = daemon.until(lambda: (b := daemon.get(path))["status"] == "completed" and b, "the batch's end", 60)
        assert ended["request_counts"] == {"total": 120, "completed": 120, "failed": 0}
        assert [r["outcome"] for r in daemon.requests("demo")].count("ok") == 120
    finally:
        daemon.stop()
