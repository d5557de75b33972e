"""The launcher by itself: what it forks, how it tells of ends, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from pathlib import Path

import pytest
from tests.backends.local.world import is_alive, run

from ironloom.backends.local import procfs
from ironloom.backends.local.launcher import Launcher, LauncherFailed, Launchers
from ironloom.backends.local.spawn import Process, adopt, describe_exit, keep_descriptors, spawn

PROGRAM = """
import os, sys, time
print("argv", sys.argv[1:], "main", __name__, "env", os.environ.get("COLOUR"), flush=True)
print("fds", sorted(os.listdir("/proc/self/fd"), key=int)[:3], len(os.listdir("/proc/self/fd")), flush=True)
if sys.argv[1] == "exit":
    sys.exit(int(sys.argv[2]))
if sys.argv[1] == "raise":
    raise RuntimeError("as told")
time.sleep(60)
"""


async def recorded(process: Process) -> None:
    del process


class Forge:
    """A launcher in a folder with a program to fork."""

    def __init__(self, folder: Path) -> None:
        (folder / "forged_program.py").write_text(PROGRAM)
        self.folder = folder
        self.env = {**os.environ, "PYTHONPATH": str(folder)}

    async def start(self, *preload: str) -> Launcher:
        return await Launcher.start(
            sys.executable, preload, self.env, state_id="state", log_path=self.folder / "launcher.log"
        )

    async def fork(self, launcher: Launcher, name: str, *args: str) -> Process:
        env = {**self.env, "COLOUR": "blue", procfs.REPLICA_VARIABLE: name, procfs.STATE_VARIABLE: "state"}
        return await launcher.fork(
            replica=name,
            module="forged_program",
            args=args,
            env=env,
            log_path=self.folder / f"{name}.log",
            record=recorded,
        )

    async def said(self, name: str, text: str) -> str:
        log = self.folder / f"{name}.log"
        async with asyncio.timeout(10):
            while not (log.exists() and text in log.read_text()):  # noqa: ASYNC110 (another process writes it)
                await asyncio.sleep(0.01)
        return log.read_text()


def test_a_child_is_the_program_with_its_own_arguments_environment_and_no_descriptors_of_ours(tmp_path: Path) -> None:
    async def scenario() -> None:
        forge = Forge(tmp_path)
        keep_descriptors()
        launcher = await forge.start("json")
        child = await forge.fork(launcher, "a-bcdfg", "stay", "2")
        said = await forge.said("a-bcdfg", "fds")
        assert "argv ['stay', '2'] main __main__ env blue" in said
        assert "fds ['0', '1', '2'] 4" in said  # and the listing's own
        assert procfs.marks(child.pid) == ("a-bcdfg", "state")
        assert os.getsid(child.pid) == child.pid
        child.signal(signal.SIGTERM)
        assert await child.ended == -signal.SIGTERM
        await launcher.close()

    run(scenario)


@pytest.mark.parametrize(
    ("args", "status", "text"),
    [(("exit", "0"), 0, "argv"), (("exit", "7"), 7, "argv"), (("raise",), 1, "RuntimeError: as told")],
    ids=["ends well", "ends with a status", "raises"],
)
def test_exit_statuses_come_back(args: tuple[str, ...], status: int, text: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        forge = Forge(tmp_path)
        launcher = await forge.start()
        assert await (await forge.fork(launcher, "a", *args)).ended == status
        await forge.said("a", text)
        await launcher.close()

    run(scenario)


def test_children_live_on_when_the_launcher_is_let_go_and_those_not_told_to_go_do_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        forge = Forge(tmp_path)
        launcher = await forge.start()
        child = await forge.fork(launcher, "a", "stay")
        await forge.said("a", "argv")
        waiting, never = list[Process](), asyncio.Event()

        async def stall(process: Process) -> None:
            waiting.append(process)
            await never.wait()

        held = asyncio.create_task(
            launcher.fork(
                replica="b", module="forged_program", args=("stay",), env={}, log_path=tmp_path / "b.log", record=stall
            )
        )
        while not waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        launcher_pid = launcher.process.pid
        await launcher.close()
        assert not is_alive(launcher_pid)
        await waiting[0].ended
        assert not (tmp_path / "b.log").exists()
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)
        assert is_alive(child.pid)
        child.kill_group()
        await child.ended

    run(scenario)


def test_a_cancelled_fork_leaves_no_child(tmp_path: Path) -> None:
    async def scenario() -> None:
        forge = Forge(tmp_path)
        launcher = await forge.start()
        fork = asyncio.create_task(forge.fork(launcher, "a", "stay"))
        await asyncio.sleep(0)  # the order is on its way
        fork.cancel()
        await asyncio.gather(fork, return_exceptions=True)
        again = await forge.fork(launcher, "b", "stay")  # the launcher goes on, in order
        async with asyncio.timeout(30):  # what was killed takes a moment to end
            while any(owner == "a" for _, owner in procfs.ours("state")):  # noqa: ASYNC110 (the kernel tells nobody)
                await asyncio.sleep(0.01)
        again.kill_group()
        await again.ended
        await launcher.close()

    run(scenario)


def test_a_launcher_that_is_closed_while_it_imports_leaves_no_failure_that_nobody_asked_for(tmp_path: Path) -> None:
    """`ironloom down` right after `up`: asyncio would report it when the launcher is collected."""
    (tmp_path / "slow_import.py").write_text(
        "import pathlib, time\npathlib.Path(__file__ + '.begun').touch()\ntime.sleep(60)\n"
    )
    told: list[str] = []

    async def closed_early() -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))}
        launchers = Launchers(python=sys.executable, env=lambda: env, state_id="state", log_path=tmp_path / "log")
        launchers.warm(("slow_import",))
        while not (tmp_path / "slow_import.py.begun").exists():  # noqa: ASYNC110 (another process writes it)
            await asyncio.sleep(0.01)
        await launchers.close_but(())

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context["message"]))
        await asyncio.create_task(closed_early())
        gc.collect()

    run(scenario)
    assert told == []


def test_a_launcher_whose_imports_fail_is_given_up_after_two_tries(tmp_path: Path) -> None:
    async def scenario() -> None:
        launchers = Launchers(
            python=sys.executable, env=lambda: os.environ, state_id="state", log_path=tmp_path / "launcher.log"
        )
        for _ in range(3):
            with pytest.raises(LauncherFailed):
                await launchers.get(("there_is_no_such_module",))
        assert (tmp_path / "launcher.log").read_text().count("ModuleNotFoundError") == 2
        await launchers.close_but(())

    run(scenario)


def test_a_spawned_process_tells_how_it_ended_and_takes_its_group_along(tmp_path: Path) -> None:
    async def scenario() -> None:
        code = "import os, sys, time\nchild = os.fork()\nif child == 0: time.sleep(60)\nprint(child); sys.exit(3)"
        process = spawn((sys.executable, "-c", code), dict(os.environ), tmp_path / "x.log")
        assert await process.ended == 3
        leaked = int((tmp_path / "x.log").read_text())
        async with asyncio.timeout(5):
            while is_alive(leaked):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        with pytest.raises(OSError):
            spawn(("there-is-no-such-program",), {}, tmp_path / "x.log")

    run(scenario)


def test_the_end_of_a_stranger_is_seen_without_its_status() -> None:
    async def scenario() -> None:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE)
        watched = adopt(child.pid)
        child.kill()
        assert await watched.ended is None
        watched.signal(signal.SIGTERM)  # nothing is there to be hit
        watched.kill_group()
        await child.wait()

    run(scenario)


def test_processes_are_watched_without_pidfds_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.setattr("ironloom.backends.local.spawn.POLL_S", 0.01)

    async def scenario() -> None:
        process = spawn((sys.executable, "-c", "import time; time.sleep(60)"), dict(os.environ), tmp_path / "x.log")
        process.signal(signal.SIGTERM)
        assert await process.ended == -signal.SIGTERM

    run(scenario)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "exited with status 0"),
        (-9, "was killed by SIGKILL"),
        (-99, "was killed by signal 99"),
        (None, "ended"),
    ],
)
def test_ends_are_described(status: int | None, text: str) -> None:
    assert describe_exit(status) == text
