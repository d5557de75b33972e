"""The tutorial on fine-tuning, as it stands but with fewer steps: the evaluation loss falls, one command serves the
result through OpenVINO, and it answers in words of the rows. Nothing is in the cache before.

Needs the extras `train` and `convert` in one environment (scripts/setup_convert); skipped where they are not.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.docs.test_readme import at_the_end, blocks, free_port

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/tutorial-fine-tune.md"
NUM_STEPS = 8
pytestmark = [
    pytest.mark.convert,
    pytest.mark.skipif(find_spec("optimum") is None, reason="needs optimum-intel: scripts/setup_convert"),
    pytest.mark.engine,
    pytest.mark.slow,
]


def commands() -> list[str]:
    """The page's shell blocks but the set-up's; the one that kills a rank needs a pid and is left out."""
    found = [text for _, text in blocks(PAGE) if "scripts/setup" not in text and "kill -9" not in text]
    assert [text.split()[1] for text in found] == ["train", "get", "serve", "delete"]
    return found


def test_a_model_is_taught_and_served_as_the_tutorial_says(tmp_path: Path) -> None:
    train, look, serve, end = commands()
    train, changed = re.subn(r"--steps \d+", f"--steps {NUM_STEPS}", train)
    assert changed == 1
    train = train.replace("examples/", f"{ROOT}/examples/").replace("eval_every_steps=10", "eval_every_steps=4")
    environ = {
        **os.environ,
        "IRONLOOM_HOME": str(tmp_path / "state"),
        "IRONLOOM_CACHE": str(tmp_path / "cache"),
        "IRONLOOM_PORT": free_port(),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }

    def run(text: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n--- {done.stdout[-3000:]}\n--- {done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr
        return done.stdout

    with at_the_end([sys.executable, "-m", "ironloom.cli", "down"], tmp_path, environ):
        run(train)
        report = json.loads((tmp_path / "terms/report.json").read_text())
        losses = [loss for _, loss in report["eval_loss"]["points"]]
        assert len(losses) == 3
        assert losses[2] < losses[1] < losses[0] - 0.1, "before, half-way and at the end"
        assert "terms" in run(look)
        answer = run(serve).strip().splitlines()[-1]
        (service,) = json.loads(run("ironloom get services -o json"))
        assert "openvino" in json.dumps(service["replicas"]).lower(), service
        words = re.findall(r"[a-z]+", answer.lower())
        known = set(re.findall(r"[a-z]+", (ROOT / "examples/fine-tune/terms.jsonl").read_text().lower()))
        assert len(words) >= 5, answer
        assert sum(word in known for word in words) > len(words) / 2, f"words of the rows: {answer}"
        assert "given back" in run(end), "OpenVINO's form was in the cache"
