"""The fixture of the end-to-end tests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.running import Running, processes_of


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Running]:
    """A daemon; at the end it is stopped and must have left no process behind."""
    running = Running(tmp_path / "state").start()
    yield running
    running.stop()
    give_up = time.monotonic() + 5
    while (left := processes_of(running.state)) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not left, f"left running: {left}"
