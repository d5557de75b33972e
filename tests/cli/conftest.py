from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_control import NOW_S, FakeControl, Result, Run

from ironloom.cli import output
from ironloom.cli.main import main


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own daemon, keys or cache reaches a test."""
    for name in ("IRONLOOM_URL", "IRONLOOM_API_KEY", "IRONLOOM_PORT", "IRONLOOM_DEBUG", "IRONLOOM_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("IRONLOOM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(output, "_now", lambda: NOW_S)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeControl]:
    with FakeControl() as running:
        monkeypatch.setenv("IRONLOOM_URL", running.url)
        yield running


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command line in this process: `run("get", "-o", "json")`."""

    def runner(*args: str, stdin: str | io.StringIO = "") -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin) if isinstance(stdin, str) else stdin)
        capfdbinary.readouterr()
        status = main(args)
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Result(status, out.decode(), err.decode())

    return runner
