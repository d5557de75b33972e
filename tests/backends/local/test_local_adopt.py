"""After kill -9 of the daemon: what runs is taken up, what is of no use is cleaned up, and nothing else is touched."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.backends.local.world import is_alive, is_gone, run, world
from tests.fakes.fake_engine import fake_serving

from ironloom.backends.local import procfs
from ironloom.backends.local.adopt import Found, Verdict, is_stray, judge
from ironloom.backends.local.probe import ask
from ironloom.backends.local.procfs import Identity
from ironloom.backends.local.store import Row, Store
from ironloom.serve.replica import ReplicaState as State

ROOT = Path(__file__).parents[3]


def killed_daemon(folder: Path, state: str, **knobs: Any) -> dict[str, Any]:
    """Bring a daemon to `state`, kill -9 it, and tell what it said of its replica."""
    command = [sys.executable, "-m", "tests.backends.local.doomed_daemon", str(folder), state, json.dumps(knobs)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        said = daemon.stdout.readline()
        daemon.kill()
        daemon.wait()
    return dict(json.loads(said))


def edit(folder: Path, sql: str) -> None:
    """Change the state file while no daemon has it."""
    with contextlib.closing(sqlite3.connect(folder / "state.db")) as connection, connection:
        connection.execute(sql)


def row(**changes: Any) -> Row:
    known = {
        "id": "a-bcdfg",
        "service": "a",
        "generation": 1,
        "state": "ready",
        "changed_s": 1.0,
        "pid": 77,
        "process_started": 1234,
        "boot_id": "boot",
    }
    return Row(**{**known, **changes})


SAME = Found(identity=Identity(77, 1234), marks=("a-bcdfg", "state"))
VERDICTS = {
    "the same process is adopted": (row(), SAME, True, Verdict.ADOPT),
    "a parked one too": (row(state="parked"), SAME, True, Verdict.ADOPT),
    "after a boot nothing is left": (row(boot_id="earlier"), SAME, True, Verdict.GONE),
    "no process has the pid": (row(), Found(identity=None, marks=None), True, Verdict.GONE),
    "another process has the pid": (row(), Found(identity=Identity(77, 99), marks=None), True, Verdict.GONE),
    "same start, other marks": (
        row(),
        Found(identity=Identity(77, 1234), marks=("a-bcdfg", "other")),
        True,
        Verdict.GONE,
    ),
    "another replica of ours has the pid": (
        row(),
        Found(identity=Identity(77, 1234), marks=("a-zzzzz", "state")),
        True,
        Verdict.GONE,
    ),
    "killed before the pid was known": (row(pid=None), Found(identity=None, marks=None), True, Verdict.KILL),
    "its stop goes on": (row(state="stopping"), SAME, True, Verdict.KILL),
    "its service was deleted": (row(), SAME, False, Verdict.KILL),
}


@pytest.mark.parametrize(("found_row", "found", "declared", "verdict"), VERDICTS.values(), ids=VERDICTS.keys())
def test_verdicts(found_row: Row, found: Found, declared: bool, verdict: Verdict) -> None:
    assert judge(found_row, found, boot_id="boot", state_id="state", is_declared=declared)[0] is verdict


def test_launchers_and_unknown_replicas_are_strays() -> None:
    known = frozenset({"a-bcdfg", "launcher-bcdfg"})
    assert is_stray("launcher....", known)
    assert is_stray("a-zzzzz", known)
    assert is_stray("prepare", known)
    assert not is_stray("a-bcdfg", known)
    assert not is_stray("launcher-bcdfg", known)


@pytest.mark.parametrize("preload", [True, False], ids=["forked", "spawned"])
def test_a_ready_engine_lives_on_and_is_adopted(preload: bool, tmp_path: Path) -> None:
    said = killed_daemon(tmp_path, "READY", preload=preload)

    async def scenario() -> None:
        assert (await ask(said["port"], "GET", "/health", timeout_s=5))[0] == 200
        async with world(tmp_path) as w:
            (replica,) = w.in_state(State.READY)
            assert (replica.id, replica.pid, replica.port) == (said["id"], said["pid"], said["port"])
            assert (replica.devices, replica.max_concurrency) == (("cpu",), 16)
            assert w.kinds() == ["replica.adopted"]
            # The same generation goes on with it; nothing is started.
            await w.apply(fake_serving(preload=preload), ready=1)
            await asyncio.sleep(0.05)
            assert [r.id for r in w.replicas()] == [said["id"]]
            # It is owned like any other: seen to die, replaced.
            os.kill(said["pid"], signal.SIGKILL)
            await w.until(lambda: w.in_state(State.READY) and w.in_state(State.READY)[0].id != said["id"])

    run(scenario)
    assert is_gone(said["pid"])


def test_an_adopted_engine_can_be_stopped_and_what_it_leaked_goes_with_it(tmp_path: Path) -> None:
    said = killed_daemon(tmp_path, "READY", leak_session=True)

    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.until(lambda: len(w.processes(said["id"])) == 2)
            await w.apply(fake_serving(leak_session=True), ready=0)
            await w.gone()
            assert w.processes() == []
            assert await w.rows() == []

    run(scenario)


def test_a_parked_engine_stays_parked_and_can_be_woken(tmp_path: Path) -> None:
    said = killed_daemon(tmp_path, "PARKED")

    async def scenario() -> None:
        async with world(tmp_path) as w:
            (replica,) = w.replicas()
            assert (replica.state, replica.devices) == (State.PARKED, ())
            await w.apply(fake_serving(), ready=1)
            (awake,) = await w.ready()
            assert (awake.pid, awake.devices) == (said["pid"], ("cpu",))

    run(scenario)


def test_the_engine_is_believed_over_the_row(tmp_path: Path) -> None:
    """The daemon died after the engine had parked and before it wrote so down."""
    said = killed_daemon(tmp_path, "READY")

    edit(tmp_path, "UPDATE replicas SET state = 'parking'")

    async def scenario() -> None:
        await ask(said["port"], "POST", "/sleep?level=1", timeout_s=5)
        async with world(tmp_path) as w:
            assert [replica.state for replica in w.replicas()] == [State.PARKED]

    run(scenario)


def test_a_start_goes_on_and_its_deadline_counts_from_its_begin(tmp_path: Path) -> None:
    said = killed_daemon(tmp_path, "STARTING", start_delay_s=1.0)

    async def scenario() -> None:
        async with world(tmp_path) as w:
            assert [replica.state for replica in w.replicas()] == [State.STARTING]
            (ready,) = await w.ready()
            assert ready.pid == said["pid"]

    run(scenario)


def test_a_stop_is_finished(tmp_path: Path) -> None:
    said = killed_daemon(tmp_path, "STOPPING")
    assert is_alive(said["pid"])

    async def scenario() -> None:
        async with world(tmp_path) as w:
            assert w.replicas() == ()
            assert not is_alive(said["pid"])
            assert w.kinds() == ["replica.stopped"]
            assert await w.rows() == []

    run(scenario)


@pytest.mark.parametrize(
    ("state", "preload"),
    [("INTENT", True), ("MIDFORK", True), ("MIDFORK", False)],
    ids=["before the start", "forked, pid not written", "spawned, pid not written"],
)
def test_killed_in_the_middle_of_a_start_nothing_unknown_is_left(state: str, preload: bool, tmp_path: Path) -> None:
    said = killed_daemon(tmp_path, state, preload=preload)

    async def scenario() -> None:
        async with world(tmp_path) as w:
            assert w.processes() == []
            assert await w.rows() == []
            assert w.kinds() == ["replica.failed"]
            assert w.events[0].reason == "NotAdopted"

    run(scenario)
    assert said["pid"] is None or is_gone(said["pid"])


def test_replicas_of_a_service_that_was_deleted_are_stopped(tmp_path: Path) -> None:
    said = killed_daemon(tmp_path, "READY")
    edit(tmp_path, "UPDATE services SET deleting = 1")

    async def scenario() -> None:
        async with world(tmp_path) as w:
            assert w.replicas() == ()
            assert not is_alive(said["pid"])

    run(scenario)


def test_an_engine_that_does_not_answer_is_cleaned_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = killed_daemon(tmp_path, "READY")
    os.kill(said["pid"], signal.SIGSTOP)
    monkeypatch.setattr("ironloom.backends.local.adopt.ANSWER_S", 0.3)

    async def scenario() -> None:
        async with world(tmp_path) as w:
            assert w.replicas() == ()
            assert "does not answer" in w.events[0].message

    run(scenario)
    assert is_gone(said["pid"])


def test_another_state_folders_engines_are_never_touched(tmp_path: Path) -> None:
    """Even when a row of ours names the very process."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()

    async def scenario() -> None:
        async with world(theirs) as other:
            await other.apply(fake_serving(), ready=1)
            (replica,) = await other.ready()
            (known,) = await other.rows()
            async with world(ours) as w:
                await w.declare("a")
                await Store(w.db).put(known)
            async with world(ours) as w:
                assert w.replicas() == ()
                assert "belongs to another process" in w.events[0].message
            assert is_alive(replica.pid or 0)
            assert (await ask(replica.port, "GET", "/health", timeout_s=5))[0] == 200

    run(scenario)


def test_letting_go_leaves_the_engines_running_for_the_next_daemon(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            await w.apply(fake_serving(), ready=1)
            (replica,) = await w.ready()
            await w.backend.close(stop_replicas=False)
            assert is_alive(replica.pid or 0)
            assert w.kinds() == ["replica.starting", "replica.ready"]
        async with world(tmp_path) as w:
            assert [r.id for r in w.in_state(State.READY)] == [replica.id]
        assert is_gone(replica.pid or 0)

    run(scenario)


def test_identity_tells_a_process_from_a_later_one_and_knows_zombies() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        first = procfs.identity(child.pid)
        assert first is not None
        assert procfs.age_s(first) < 60
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert procfs.identity(child.pid) is None
