"""The demo's shell: what it leaves behind (nothing), and what it prints. Its story on a real engine: test_cli_real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fake_control import FakeControl, Run
from test_cli_chat import streamed

from ironloom.backends.local import procfs
from ironloom.cli import demo as demo_module
from ironloom.cli import launch
from ironloom.cli.client import Client
from ironloom.cli.demo_measure import Load, ask, load, memory_bytes
from ironloom.cli.demo_story import Figures
from ironloom.errors import EngineError

FIGURES = Figures(
    model="hf://a/b",
    engine="openvino",
    cold_start_s=1.94,
    ttft_s=0.021,
    load=Load(num_streams=8, num_requests=16, num_tokens=1000, took_s=4.0, ttft_p50_s=0.12),
    to_zero_s=6.4,
    from_zero_s=1.21,
    from_parked_s=None,
    ready_bytes=300 * 1024**2,
    parked_bytes=None,
)
Tell = Callable[[Client, str, int], Figures]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Tell], list[int]]:
    """The demo with another story; the pids of its daemons."""
    monkeypatch.setattr(launch, "PROGRAM", (sys.executable, str(Path(__file__).with_name("stand_in_daemon.py"))))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pids: list[int] = []

    def with_story(story: Tell) -> list[int]:
        def told(client: Client, model: str, num_streams: int) -> Figures:
            assert client.to.pid is not None
            pids.append(client.to.pid)
            return story(client, model, num_streams)

        monkeypatch.setattr(demo_module, "tell", told)
        return pids

    return with_story


def environment_of(pid: int) -> dict[str, str]:
    """What its children have too, unless they are given another."""
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def _nothing_is_left(pids: list[int], tmp_path: Path) -> None:
    assert len(pids) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert not list(tmp_path.glob("ironloom-demo-*"))


def test_the_table_is_data_and_the_rest_is_talk(started: Callable[[Tell], list[int]], run: Run, tmp_path: Path) -> None:
    pids = started(lambda _client, _model, _streams: FIGURES)
    result = run("demo")
    assert result.status == 0
    assert (
        result.out
        == """\
MEASURED HERE, JUST NOW                  WHAT IT IS
cold start                1.9s           from apply until a replica is ready
first token               21ms           median of 3 short requests, one at a time
8 streams                 250 tokens/s   1000 tokens in 4.0s, first token 120ms (median)
to zero                   6.4s           after the last answer, with a window of 6s
from zero                 1.2s           a request until its first token, process stopped
from parked               -              a request until its first token, process parked
memory, ready             300.0 MiB      of the replica's processes (PSS)
memory, parked            -              the same, while parked
"""
    )
    assert (
        "The daemon is stopped and its folder removed.\n\nGo on:\n  ironloom serve smollm2-135m-instruct   the same"
        in result.err
    )
    _nothing_is_left(pids, tmp_path)


def test_programs_get_the_figures_as_json(started: Callable[[Tell], list[int]], run: Run) -> None:
    started(lambda _client, _model, _streams: FIGURES)
    data = json.loads(run("demo", "-o", "json").out)
    assert data["load"]["tokens_per_s"] == 250.0
    assert data["from_parked_s"] is None


def test_the_story_has_the_model_and_as_many_streams_as_are_asked_for(
    started: Callable[[Tell], list[int]], run: Run
) -> None:
    asked: list[tuple[str, int]] = []

    def story(_client: Client, model: str, num_streams: int) -> Figures:
        asked.append((model, num_streams))
        return replace(FIGURES, load=replace(FIGURES.load, num_streams=num_streams))

    started(story)
    result = run("demo", "--model", "acme/tiny", "--streams", "3")
    assert "\n3 streams                 250 tokens/s" in result.out
    assert "  ironloom serve acme/tiny   the same, to stay\n" in result.err
    assert json.loads(run("demo", "-o", "json").out)["load"]["num_streams"] == 8
    assert asked == [("acme/tiny", 3), ("smollm2-135m-instruct", 8)]


@pytest.mark.parametrize("streams", ["0", "65", "many"])
def test_a_number_of_streams_that_is_none_starts_nothing(
    streams: str, started: Callable[[Tell], list[int]], run: Run
) -> None:
    pids = started(_fails)
    result = run("demo", "--streams", streams)
    assert (result.status, result.out, pids) == (2, "", [])
    assert "--streams" in result.err
    assert streams in result.err


def _fails(_client: Client, _model: str, _streams: int) -> Figures:
    raise EngineError("it did not start", hint="look")


def _is_interrupted(_client: Client, _model: str, _streams: int) -> Figures:
    signal.raise_signal(signal.SIGINT)
    return FIGURES


def _is_terminated(_client: Client, _model: str, _streams: int) -> Figures:
    signal.raise_signal(signal.SIGTERM)
    return FIGURES


def _loses_its_daemon(client: Client, _model: str, _streams: int) -> Figures:
    assert client.to.pid is not None
    os.kill(client.to.pid, signal.SIGKILL)
    os.waitid(os.P_PID, client.to.pid, os.WEXITED | os.WNOWAIT)
    raise EngineError("the daemon is gone")


@pytest.mark.parametrize(
    ("story", "status"), [(_fails, 1), (_is_interrupted, 130), (_is_terminated, 130), (_loses_its_daemon, 1)]
)
def test_nothing_is_left_when_a_step_fails_or_is_interrupted(
    story: Tell, status: int, started: Callable[[Tell], list[int]], run: Run, tmp_path: Path
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where a shell runs this in the background
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    pids = started(story)
    result = run("demo")
    assert (result.status, result.out) == (status, "")
    _nothing_is_left(pids, tmp_path)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_an_engine_that_a_killed_daemon_left_behind_is_ended(
    started: Callable[[Tell], list[int]], run: Run, tmp_path: Path
) -> None:
    left: list[subprocess.Popen[bytes]] = []

    def story(client: Client, model: str, num_streams: int) -> Figures:
        assert client.to.pid is not None
        left.append(subprocess.Popen(["sleep", "60"], env=environment_of(client.to.pid), start_new_session=True))
        return _loses_its_daemon(client, model, num_streams)

    started(story)
    try:
        assert run("demo").status == 1
        assert left[0].wait(30) == -signal.SIGKILL
    finally:
        for process in left:
            process.kill()
            process.wait()


def test_a_daemon_that_does_not_start_leaves_nothing(
    started: Callable[[Tell], list[int]], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = started(_fails)
    monkeypatch.setenv("FAKE_DAEMON", "fail It is too dark.")
    result = run("demo")
    assert (result.status, pids) == (1, [])
    assert "  It is too dark.\n" in result.err
    assert not list(tmp_path.glob("ironloom-demo-*"))


def test_an_answer_is_timed_and_its_tokens_are_the_engines_own_count(fake: FakeControl) -> None:
    fake.chat = streamed("It is", " Paris.")
    answer = ask(Client(), "chat", "?", 9)
    assert (answer.text, answer.num_tokens) == ("It is Paris.", 3)
    assert 0 < answer.ttft_s < 5


def test_a_load_asks_another_question_each_time(fake: FakeControl) -> None:
    fake.chat = streamed("x")
    seen = load(Client(), "chat", num_streams=4, num_requests=8, max_tokens=5)
    assert (seen.num_requests, seen.num_tokens) == (8, 24)
    assert seen.tokens_per_s == pytest.approx(24 / seen.took_s)
    assert len({body["messages"][0]["content"] for _, _, body in fake.calls}) == 8


def test_memory_is_told_of_a_process_that_is_there() -> None:
    here = memory_bytes(os.getpid())
    assert here is None or here > 1 << 20  # None: a kernel without smaps_rollup
    assert memory_bytes(2**22 + 1) is None


def test_a_child_that_was_forked_and_runs_no_program_yet_is_ended_too(
    started: Callable[[Tell], list[int]], run: Run, tmp_path: Path
) -> None:
    """The daemon is killed in the moment between a fork and its exec: the child has no mark of a replica."""
    left = 0

    def story(client: Client, model: str, num_streams: int) -> Figures:
        nonlocal left
        assert client.to.pid is not None
        os.kill(client.to.pid, signal.SIGUSR1)  # the stand-in forks
        pid_file = next(tmp_path.glob("ironloom-demo-*")) / "forked"
        while not pid_file.exists() or not pid_file.read_text():
            time.sleep(0.005)
        left = int(pid_file.read_text())
        os.kill(left, 0)
        return _loses_its_daemon(client, model, num_streams)

    started(story)
    assert run("demo").status == 1
    assert left
    give_up_s = time.monotonic() + 10
    while procfs.identity(left) is not None:
        assert time.monotonic() < give_up_s
        time.sleep(0.005)
