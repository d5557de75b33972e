"""What GitHub and pre-commit read of this repository: all that it names exists, and its steps do what they say."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from ironloom.cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text())
STEPS = [step for step in ACTION["runs"]["steps"] if "run" in step]
(HOOK,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
FAULTY = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: llama
  annotations: {serving.kserve.io/deploymentMode: RawDeployment}
spec:
  predictor:
    minReplicas: 0
    model:
      modelFormat: {name: huggingface}
      storageUri: hf://Qwen/Qwen3-0.6B
"""
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]
"""As GitHub starts it for `shell: bash`."""


def environment(step: dict[str, Any], inputs: dict[str, str]) -> dict[str, str]:
    """The variables of a step with its expressions filled in, over the inputs' own defaults."""
    known = {f"inputs.{name}": str(one["default"]) for name, one in ACTION["inputs"].items()}
    known |= {f"inputs.{name}": value for name, value in inputs.items()}
    known["github.action_path"] = str(ROOT)
    return {name: EXPRESSION.sub(lambda found: known[found[1]], value) for name, value in step["env"].items()}


def play(
    step: dict[str, Any], folder: Path, inputs: dict[str, str], *programs: Path
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([*map(str, programs), str(PROGRAMS), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "HOME": str(folder), **environment(step, inputs)}
    return ran([*BASH, step["run"]], folder, env)


def ran(command: list[str], folder: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=env, check=False, capture_output=True, text=True, timeout=120)


def test_each_input_of_the_action_is_declared_described_and_used() -> None:
    used = {name for step in STEPS for value in step["env"].values() for name in EXPRESSION.findall(value)}
    assert used == {f"inputs.{name}" for name in ACTION["inputs"]} | {"github.action_path"}
    assert all(one["description"] and isinstance(one["default"], str) for one in ACTION["inputs"].values())
    assert not any(EXPRESSION.search(step["run"]) for step in STEPS), "what an input says is no part of a script"
    assert all(step["shell"] == "bash" for step in STEPS)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("==0.1.0", ["-m pip install --quiet ironloom==0.1.0"]),
        (
            "",
            [
                f"-m pip install --quiet --require-hashes --only-binary :all: -r {ROOT}/requirements/base.txt",
                f"-m pip install --quiet --no-deps {ROOT}",
            ],
        ),
    ],
)
def test_the_action_installs_what_is_there(version: str, expected: list[str], tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@" >> "$HOME/said"\n')
    python.chmod(0o755)
    done = play(STEPS[0], tmp_path, {"version": version}, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "said").read_text().splitlines() == expected
    assert (ROOT / "requirements" / "base.txt").is_file()
    assert (ROOT / "pyproject.toml").is_file()


def test_the_action_marks_the_lines_writes_sarif_and_ends_as_the_check_does(tmp_path: Path) -> None:
    (tmp_path / "k8s").mkdir()
    (tmp_path / "k8s" / "service.yaml").write_text(FAULTY)
    done = play(STEPS[1], tmp_path, {"paths": "k8s", "sarif": "out.sarif", "args": "--select IL501"})
    assert done.returncode == 1, done.stderr
    assert [line.partition(",title")[0] for line in done.stdout.splitlines() if line.startswith("::")] == [
        "::warning file=k8s/service.yaml,line=8,col=18,endLine=8,endColumn=19"
    ]
    log = json.loads((tmp_path / "out.sarif").read_text())
    assert [one["ruleId"] for one in log["runs"][0]["results"]] == ["IL501"]


def test_the_action_passes_where_nothing_is_wrong_and_writes_no_sarif_unasked(tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")
    done = play(STEPS[1], tmp_path, {})
    assert (done.returncode, [path.name for path in tmp_path.iterdir()]) == (0, ["pod.yaml"]), done.stderr


def test_the_hook_runs_a_program_and_options_that_there_are(tmp_path: Path) -> None:
    program, command, *options = shlex.split(HOOK["entry"])
    assert program in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    there = {name for parameter in found.params for name in parameter.opts}
    assert set(options) <= there
    assert (HOOK["language"], set(HOOK["types_or"])) == ("python", {"yaml", "json", "python"})
    files = {
        "service.yaml": FAULTY,
        "compose.yaml": "services:\n  web:\n    image: nginx\n",
        "values.yaml": "name: {{ .Release.Name }}\n",
        "tool.py": "print(1)\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    names = [name for name in files if name != "service.yaml"]
    start = [str(PROGRAMS / program), command, *options]
    others, all_of_them = ran([*start, *names], tmp_path), ran([*start, *names, "service.yaml"], tmp_path)
    assert others.returncode == 0, others.stdout + others.stderr
    assert all_of_them.returncode == 1
    assert "IL501" in all_of_them.stdout
