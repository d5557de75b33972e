"""Processes and their marks, as /proc shows them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ironloom.backends.local import procfs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

MARKS = {procfs.REPLICA_VARIABLE: "chat-abcde", procfs.STATE_VARIABLE: "some-state"}


def stat_line(*, vsize: int, env_end: int) -> str:
    """/proc/PID/stat as far as it is read: field 3 is the state, 23 the memory, 51 the environment's end."""
    fields = ["0"] * 50
    fields[0], fields[20], fields[48] = "R", str(vsize), str(env_end)
    return f"7 (sleep) {' '.join(fields)}\n"


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/proc/7, of a process in its exec: its memory is there, its environment is not."""
    monkeypatch.setattr(procfs, "PROC", tmp_path)
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "environ").write_bytes(b"")
    (folder / "stat").write_text(stat_line(vsize=4096, env_end=0))
    return folder


def test_the_marks_of_a_process_are_seen_as_soon_as_it_was_started() -> None:
    for _ in range(200):
        with subprocess.Popen(["sleep", "60"], env={**os.environ, **MARKS}) as started:
            try:
                assert procfs.marks(started.pid) == ("chat-abcde", "some-state")
            finally:
                started.kill()


def test_a_process_in_its_exec_is_waited_for(process: Path) -> None:
    def goes_on() -> None:
        (process / "environ").write_bytes(b"\0".join(f"{name}={value}".encode() for name, value in MARKS.items()))
        whole = process / "stat.new"  # the kernel shows a line whole or not at all
        whole.write_text(stat_line(vsize=4096, env_end=99))
        whole.replace(process / "stat")

    timer = threading.Timer(0.02, goes_on)
    timer.start()
    assert procfs.marks(7) == ("chat-abcde", "some-state")
    timer.join()


def test_one_that_hangs_in_its_exec_is_not_waited_for_for_ever(process: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "_EXEC_PATIENCE_S", 0.01)
    assert procfs.marks(7) is None


@pytest.mark.parametrize(("vsize", "env_end"), [(0, 0), (4096, 99)])
def test_a_thread_of_the_kernel_and_an_empty_environment_have_no_marks(process: Path, vsize: int, env_end: int) -> None:
    (process / "stat").write_text(stat_line(vsize=vsize, env_end=env_end))
    assert procfs.marks(7) is None
