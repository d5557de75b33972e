"""The README's blocks run, in order, on a state folder and a port of their own, with the real default model."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PORT = "11500"
INSTALLS = re.compile(r"\. \.venv|make setup|git clone|cd ironloom")
"""Lines that the test's own environment stands for."""
BLOCK = re.compile(r"^```(sh|python|yaml)\n(.*?)^```$", re.M | re.S)


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block that is marked with one of the languages that run."""
    return [(language, text) for language, text in BLOCK.findall(page.read_text())]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_the_blocks_of_a_page_run(page: str, tmp_path: Path) -> None:
    port = free_port()
    environ = {
        **os.environ,
        "IRONLOOM_HOME": str(tmp_path / "state"),
        "IRONLOOM_PORT": port,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    ran = 0
    try:
        for language, text in blocks(ROOT / page):
            text = text.replace(PORT, port)
            if language == "yaml":
                name = re.match(r"# (\S+\.yaml)\n", text)
                assert name, f"a yaml block of {page} does not say its file's name in its first line"
                (tmp_path / name[1]).write_text(text)
                continue
            if language == "sh":
                text = "\n".join(line for line in text.splitlines() if not INSTALLS.match(line))
                command = ["bash", "-euo", "pipefail", "-c", text]
            else:
                command = [sys.executable, "-c", text]
            result = subprocess.run(
                command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300, check=False
            )
            assert result.returncode == 0, f"{page}:\n{text}\n--- {result.stdout}\n--- {result.stderr}"
            assert "Traceback" not in result.stderr
            ran += 1
    finally:
        subprocess.run(
            [sys.executable, "-m", "ironloom.cli", "down"],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert ran >= 2


def test_the_two_commands_of_the_first_screen_are_targets_of_the_makefile() -> None:
    first_screen = (ROOT / "README.md").read_text().splitlines()[:12]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    named = [match[1] for line in first_screen if (match := re.match(r"    make (\w+)", line))]
    assert named == ["demo", "test"]
    assert set(named) <= set(targets)
