"""The fault script, small: services of the fake engine go 0-1-0 while their engines are killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).resolve().parents[2] / "bench" / "chaos.py"


@pytest.mark.slow
def test_no_request_is_lost_or_answered_twice_while_engines_are_killed() -> None:
    options = ["--openvino=0", "--requests=800", "--parks=15", "--stops=15", "--services=3", "--kill-every=0.3"]
    command = [sys.executable, str(CHAOS), *options, "--deadline=50"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["faults"] == []
    assert result["requests"] >= 800
    assert result["events"]["replica.parked"] >= 15
    assert result["events"]["replica.stopped"] >= 15
    assert result["kills"] >= 3
