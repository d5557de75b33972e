"""The command line as a new user meets it: the real daemon, a real engine, each command a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from ironloom.backends.local import procfs

pytestmark = [pytest.mark.engine, pytest.mark.slow]
Il = Callable[..., subprocess.CompletedProcess[str]]
MODEL = "smollm2-135m-instruct"


@pytest.fixture
def il(tmp_path: Path) -> Iterator[Il]:
    """Run `ironloom …` on a state folder of the test's own; its daemon is stopped at the end."""
    home = tmp_path / "home"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("IRONLOOM_")}
    environ |= {"IRONLOOM_HOME": str(home)}
    if cache := os.environ.get("IRONLOOM_CACHE"):
        environ["IRONLOOM_CACHE"] = cache

    def run(*args: str, status: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "ironloom.cli", *args],
            env=environ, input=stdin, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    run("up", "--detach", "--port", "0")
    yield run
    run("down")
    assert list(procfs.ours((home / "id").read_text().strip())) == []


def test_serve_ask_zero_wake_park_delete(il: Il) -> None:
    assert " is ready at http://127.0.0.1:" in il("serve", MODEL).stdout
    (service,) = json.loads(il("get", "-o", "json").stdout)
    assert (service["name"], service["state"]) == (MODEL, "ready")
    assert {"id", "pid", "state", "port"} <= service["replicas"][0].keys()
    assert service["manifest"] == yaml.safe_load(il("serve", MODEL, "--dry-run", "-o", "yaml").stdout)
    question = ["-m", "What is the capital of France?", "--temperature", "0", "--max-tokens", "20"]
    assert "Paris" in il("chat", MODEL, *question).stdout

    il("scale", MODEL, "0")
    assert "Paris" in il("chat", *question).stdout
    il("scale", MODEL, "--park")
    assert il("chat", "--max-tokens", "20", stdin="What is the capital of France?").stdout.strip()
    page = il("describe", MODEL).stdout
    assert page.index("ScaledToZero") < page.index("ScaledFromZero", page.index("ScaledToZero"))
    requests = json.loads(il("get", "requests", "-o", "json").stdout)
    assert [request["outcome"] for request in requests] == ["ok", "ok", "ok"]
    assert requests[1]["held_s"] > 0

    assert il("logs", MODEL).stdout
    assert il("delete", MODEL).stdout == f"service/{MODEL} deleted\n"
    assert json.loads(il("get", "-o", "json").stdout) == []


def test_a_batch_goes_through(il: Il, tmp_path: Path) -> None:
    il("serve", MODEL, "--name", "chat")
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
    rows = [{"custom_id": f"row-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(12)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out.jsonl"
    done = il("batch", "chat", str(tmp_path / "in.jsonl"), "-O", str(out))
    assert "completed: 12 of 12 rows answered" in done.stderr
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert {answer["custom_id"] for answer in answers} == {row["custom_id"] for row in rows}
    assert all(answer["response"]["status_code"] == 200 for answer in answers)


def test_the_demo_tells_its_story_and_leaves_nothing(tmp_path: Path) -> None:
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "ironloom.cli", "demo", "-o", "json"],
        env=environ, capture_output=True, text=True, timeout=175, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["load"]["num_tokens"] > 100
    assert figures["from_zero_s"] > 0
    assert figures["from_parked_s"] > 0
    assert not list(tmp_path.glob("ironloom-demo-*"))
