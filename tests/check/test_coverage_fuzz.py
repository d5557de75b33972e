"""Reading and checking, fuzzed for a short while by what they run: bench/check/fuzz_coverage.py does it at length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "bench" / "check" / "fuzz_coverage.py"


@pytest.mark.slow
@pytest.mark.parametrize("target", ["documents", "snapshots"])
def test_no_input_ends_in_anything_but_a_sentence(target: str) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--target", target, "--max-s", "20"],
        capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"'target': '{target}'" in done.stdout
