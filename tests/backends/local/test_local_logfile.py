"""An engine's log file: its end, its growth, its bounds."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.backends.local.world import run

from ironloom.backends.local.logfile import TAIL_BYTES, forget_old, last_lines, read_logs, rotate
from ironloom.backends.local.ports import FIRST, LAST, Ports, is_free


def test_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert last_lines(log, 3) == []
    log.write_bytes(b"one\ntwo\nthree \xff\nfour")
    assert last_lines(log, 2) == ["three \ufffd", "four"]
    assert last_lines(log, 0) == []
    log.write_text("x" * TAIL_BYTES + "\nlast\n")
    assert last_lines(log, 5) == ["last"]


def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("x" * 10_000)
    assert last_lines(log, 1) == ["x" * 2000]


def test_rotation_keeps_what_an_appender_writes_next(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, b"x" * 100)
    assert not rotate(log, 100)
    assert rotate(log, 99)
    os.write(descriptor, b"next\n")
    os.close(descriptor)
    assert log.read_text() == "next\n"
    assert (tmp_path / "a.log.1").read_text() == "x" * 100
    assert not rotate(tmp_path / "none.log")


def test_old_logs_are_forgotten_but_for_the_newest_and_the_living(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old", "older", "living")):
        log = tmp_path / f"{name}.log"
        log.write_text("x")
        os.utime(log, (1000 - age, 1000 - age))
    (tmp_path / "older.log.1").write_text("x")
    forget_old(tmp_path, {"living"}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["living.log", "new.log", "old.log"]


def test_following_survives_a_rotation_and_finds_new_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ironloom.backends.local.logfile.FOLLOW_S", 0.01)
    monkeypatch.setattr("ironloom.backends.local.logfile.LOOK_FOR_NEW_S", 0.01)

    async def scenario() -> None:
        log = tmp_path / "a.log"
        log.write_text("first\nsecond\n")
        lines = read_logs(tmp_path, None, follow=True, tail=1)
        assert await anext(lines) == ("a", "second")
        waiting = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0.05)
        with log.open("a") as file:
            file.write("thi")
            file.flush()
            await asyncio.sleep(0.05)
            file.write("rd\n")
        assert await waiting == ("a", "third")
        log.write_text("4\n")
        assert await anext(lines) == ("a", "4")
        (tmp_path / "b.log").write_text("other\n")
        assert await anext(lines) == ("b", "other")
        await lines.aclose()

    run(scenario)


def test_following_ends_with_what_is_written_once_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ironloom.backends.local.logfile.FOLLOW_S", 0.01)
    monkeypatch.setattr("ironloom.backends.local.logfile.LOOK_FOR_NEW_S", 0.01)

    async def scenario() -> None:
        over: list[bool] = []
        log = tmp_path / "a.log"
        log.write_text("first\n")
        lines = read_logs(tmp_path, None, follow=True, tail=1, is_over=lambda: bool(over))
        assert await anext(lines) == ("a", "first")
        with log.open("a") as file:
            file.write("".join(f"{number}\n" for number in range(3000)) + "without end")
        (tmp_path / "b.log").write_text("other\n")
        over.append(True)
        rest = [line async for line in lines]
        assert [line for name, line in rest if name == "a"] == [*map(str, range(3000)), "without end"]
        assert [line for name, line in rest if name == "b"] == ["other"]

    run(scenario)


def test_ports_are_each_given_once() -> None:
    ports = Ports(seed=1)
    taken = [ports.take() for _ in range(50)]
    assert len(set(taken)) == 50
    assert all(FIRST <= port <= LAST and is_free(port) for port in taken)
    ports.give_back(taken[0])
    ports.adopt(taken[0])
    assert taken[0] not in [ports.take() for _ in range(50)]


def test_a_port_in_use_is_not_given() -> None:
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert not is_free(server.getsockname()[1])
