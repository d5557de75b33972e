"""The README's blocks run, in order, on a state folder and a port of their own, with the real default model."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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


@contextmanager
def at_the_end(command: Sequence[str], folder: Path, environ: Mapping[str, str]) -> Iterator[None]:
    """Run `command` at the end, also when this process is killed: who waits to run it sees its pipe close."""
    with subprocess.Popen(
        ["sh", "-c", 'read _; exec "$@"', "sh", *command],
        cwd=folder,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what ends the tests' group does not end this
    ) as waiting:
        try:
            yield
        finally:
            assert waiting.stdin is not None
            waiting.stdin.close()
            waiting.wait(timeout=90)


def test_the_end_comes_even_when_the_test_is_killed(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from tests.docs.test_readme import at_the_end
with at_the_end(["touch", "ended"], Path({str(tmp_path)!r}), os.environ):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == -signal.SIGKILL
    until_s = time.monotonic() + 10
    while not (tmp_path / "ended").exists():
        assert time.monotonic() < until_s
        time.sleep(0.01)


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
    with at_the_end([sys.executable, "-m", "ironloom.cli", "down"], tmp_path, environ):
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
    assert ran >= 2


def test_the_two_commands_of_the_first_screen_are_targets_of_the_makefile() -> None:
    first_screen = (ROOT / "README.md").read_text().splitlines()[:12]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    named = [match[1] for line in first_screen if (match := re.match(r"    make (\w+)", line))]
    assert named == ["demo", "test"]
    assert set(named) <= set(targets)
