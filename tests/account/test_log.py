"""Each request ends exactly once in the event log, whenever the daemon dies."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.account.database import Database
from ironloom.account.events import Event, EventKind, Outcome
from ironloom.account.log import EventLog


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


async def opened(folder: Path) -> tuple[Database, EventLog]:
    database = Database.open(folder / "state.db")
    return database, await EventLog.open(database, folder / "journal", wall=Clock(), monotonic=Clock())


async def closed(database: Database, log: EventLog) -> None:
    await log.close()
    database.close()


def test_a_request_is_one_row_with_its_tokens(tmp_path: Path) -> None:
    async def run() -> list[dict[str, object]]:
        database, log = await opened(tmp_path)
        seq = log.begin("req-1", "demo", "key-1", "/v1/chat/completions", True)
        log.end(seq, Outcome.OK, 200, "demo-abcde", 7, 9, 0.25, 0.5, 1)
        rows = await log.requests()
        await closed(database, log)
        return rows

    (row,) = asyncio.run(run())
    assert row["outcome"] == "ok"
    assert (row["prompt_tokens"], row["completion_tokens"], row["num_retries"]) == (7, 9, 1)
    assert row["duration_s"] == 1.0
    assert row["replica"] == "demo-abcde"


def test_each_of_many_requests_is_a_row_of_its_own(tmp_path: Path) -> None:
    async def run() -> list[dict[str, object]]:
        database, log = await opened(tmp_path)
        seqs = [log.begin(f"req-{n}", f"s{n}", f"key-{n}", f"/v1/{n}", n % 2 == 0, float(n)) for n in range(150)]
        for n, seq in enumerate(seqs):
            log.end(seq, Outcome.OK, 200 + n, f"r{n}", n, 2 * n, n / 4, n / 8, n % 3, 3.0 * n)
        rows = await log.requests(limit=1000)
        await closed(database, log)
        return rows[::-1]

    rows = asyncio.run(run())
    assert len(rows) == 150
    for n, row in enumerate(rows):
        assert (row["request_id"], row["service"], row["key_id"], row["path"], row["stream"], row["monotonic_s"]) == (
            *(f"req-{n}", f"s{n}", f"key-{n}", f"/v1/{n}"),
            *(int(n % 2 == 0), float(n)),
        )
        assert (row["outcome"], row["status"], row["replica"]) == ("ok", 200 + n, f"r{n}")
        assert (row["prompt_tokens"], row["completion_tokens"], row["num_retries"]) == (n, 2 * n, n % 3)
        assert (row["ttft_s"], row["held_s"], row["duration_s"]) == (n / 4, n / 8, 2.0 * n)


def test_a_request_that_outlives_an_import_is_closed_in_its_own_row(tmp_path: Path) -> None:
    async def run() -> list[dict[str, object]]:
        database, log = await opened(tmp_path)
        seq = log.begin("req-1", "demo", "", "/v1/completions", False)
        await log.flush()
        log.end(seq, Outcome.CLIENT_GONE, 0)
        rows = await log.requests()
        await closed(database, log)
        return rows

    (row,) = asyncio.run(run())
    assert row["outcome"] == "client_gone"
    assert row["duration_s"] == 2.0, "the import looked at the clock too"


def test_a_second_end_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    async def run() -> tuple[list[dict[str, object]], int]:
        database, log = await opened(tmp_path)
        seq = log.begin("req-1", "demo", "", "/v1/completions", False)
        log.end(seq, Outcome.OK, 200, "", 1, 2)
        log.end(seq, Outcome.ENGINE_FAILED, 502, "", 5, 5)
        rows = await log.requests()
        await closed(database, log)
        return rows, log.num_double_ends

    rows, num_double_ends = asyncio.run(run())
    assert [row["outcome"] for row in rows] == ["ok"]
    assert num_double_ends == 1


@pytest.mark.parametrize("flush_before", [False, True])
def test_what_a_dead_daemon_left_open_is_closed_as_cut(tmp_path: Path, flush_before: bool) -> None:
    program = f"""
import asyncio, os, signal, sys
from pathlib import Path
from ironloom.account.database import Database
from ironloom.account.events import Outcome
from ironloom.account.log import EventLog
async def run():
    folder = Path(sys.argv[1])
    log = await EventLog.open(Database.open(folder / "state.db"), folder / "journal")
    done = log.begin("done", "demo", "", "/v1/completions", False)
    log.begin("cut", "demo", "", "/v1/completions", True)
    if {flush_before}: await log.flush()
    log.end(done, Outcome.OK, 200, "r", 3, 4)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(run())
"""
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL

    async def run() -> dict[str, tuple[object, object]]:
        database, log = await opened(tmp_path)
        rows = {str(row["request_id"]): (row["outcome"], row["completion_tokens"]) for row in await log.requests()}
        seq = log.begin("next", "demo", "", "/v1/completions", False)
        log.end(seq, Outcome.OK, 200)
        assert len(await log.requests()) == 3
        await closed(database, log)
        return rows

    assert asyncio.run(run()) == {"done": ("ok", 4), "cut": ("cut", 0)}


PROGRESS = (200, "demo-abcde", 7, 20, 0.25, 0.5, 1)
"""Status, replica, prompt and completion tokens, TTFT, held, retries."""


@pytest.mark.parametrize("flush_before", [False, True])
def test_a_cut_request_has_what_its_last_progress_knew(tmp_path: Path, flush_before: bool) -> None:
    async def run() -> list[dict[str, object]]:
        database, log = await opened(tmp_path)
        seq = log.begin("cut", "demo", "", "/v1/completions", True)
        log.progress(seq, 200, "demo-abcde", 0, 3, 0.25, 0.5, 1)
        if flush_before:
            await log.flush()
        log.progress(seq, *PROGRESS)
        await closed(database, log)
        database, log = await opened(tmp_path)
        rows = await log.requests()
        await closed(database, log)
        return rows

    (row,) = asyncio.run(run())
    assert row["outcome"] == "cut"
    assert (row["status"], row["replica"], row["prompt_tokens"], row["completion_tokens"]) == PROGRESS[:4]
    assert (row["ttft_s"], row["held_s"], row["num_retries"]) == PROGRESS[4:]
    assert row["duration_s"] == (3.0 if flush_before else 2.0), "an import looks at the clock too"


@pytest.mark.parametrize("flush_before", [False, True])
def test_progress_leaves_the_end_as_it_is(tmp_path: Path, flush_before: bool) -> None:
    async def run() -> list[dict[str, object]]:
        database, log = await opened(tmp_path)
        seq = log.begin("whole", "demo", "", "/v1/completions", True)
        log.progress(seq, *PROGRESS)
        if flush_before:
            await log.flush()
        log.end(seq, Outcome.OK, 200, "demo-abcde", 7, 30, 0.25)
        log.progress(seq, *PROGRESS)  # too late
        rows = await log.requests()
        await closed(database, log)
        return rows

    (row,) = asyncio.run(run())
    assert (row["outcome"], row["completion_tokens"], row["held_s"], row["num_retries"]) == ("ok", 30, 0.0, 0)


def test_events_come_back_with_their_devices_and_are_told_to_listeners(tmp_path: Path) -> None:
    async def run() -> None:
        database, log = await opened(tmp_path)
        heard: list[str] = []
        stop = log.listen(lambda stored: heard.append(stored.event.kind))
        log.event(Event(kind=EventKind.REPLICA_READY, service="a", replica="a-1", devices=("gpu:0",), data={"s": 1.5}))
        stop()
        log.event(Event(kind=EventKind.SERVICE_SCALED, service="b"))
        assert heard == ["replica.ready"]
        events = await log.events()
        assert [stored.event.service for stored in events] == ["a", "b"]
        assert events[0].event.devices == ("gpu:0",)
        assert events[0].event.data == {"s": 1.5}
        assert [stored.event.service for stored in await log.events(service="b")] == ["b"]
        assert await log.events(after=events[-1].seq) == []
        await closed(database, log)

    asyncio.run(run())


def test_who_needs_no_latest_events_has_nothing_written_for_it(tmp_path: Path) -> None:
    async def run() -> list[int]:
        database, log = await opened(tmp_path)
        log.event(Event(kind=EventKind.SERVICE_APPLIED, service="demo"))
        found = [len(await log.events(service="demo", is_latest=is_latest)) for is_latest in (False, True, False)]
        await closed(database, log)
        return found

    assert asyncio.run(run()) == [0, 1, 1]


def test_while_sqlite_is_full_records_wait_and_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        database, log = await opened(tmp_path)

        async def full(function: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(database, "write", full)
            log.end(log.begin("req-1", "demo", "", "/", False), Outcome.OK, 200)
            with pytest.raises(sqlite3.OperationalError):
                await log.flush()
        log.end(log.begin("req-2", "demo", "", "/", False), Outcome.OK, 200)
        assert [row["request_id"] for row in await log.requests()] == ["req-2", "req-1"]
        await closed(database, log)

    asyncio.run(run())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["begin", "progress", "end", "flush", "reopen"]), max_size=40))
def test_any_history_closes_each_request_once(history: list[str]) -> None:
    import tempfile

    async def run(folder: Path) -> None:
        database, log = await opened(folder)
        open_requests: list[tuple[int, str]] = []
        expected: Counter[str] = Counter()
        for step in history:
            if step == "begin":
                name = f"req-{sum(expected.values()) + len(open_requests)}"
                open_requests.append((log.begin(name, "demo", "", "/", False), name))
            elif step == "progress" and open_requests:
                log.progress(open_requests[-1][0], *PROGRESS)
            elif step == "end" and open_requests:
                log.end(open_requests.pop(0)[0], Outcome.OK, 200)
                expected["ok"] += 1
            elif step == "flush":
                await log.flush()
            elif step == "reopen":
                await closed(database, log)
                database, log = await opened(folder)
                expected["cut"] += len(open_requests)
                open_requests.clear()
        rows = await log.requests(limit=1000)
        ended = Counter(str(row["outcome"]) for row in rows if row["outcome"] is not None)
        assert ended == expected
        assert len(rows) == sum(expected.values()) + len(open_requests)
        await closed(database, log)

    with tempfile.TemporaryDirectory() as name:
        asyncio.run(run(Path(name)))


class Jumping:
    """A wall clock that is set back by an hour at each third look."""

    def __init__(self) -> None:
        self.now, self.looks = 1_000_000.0, 0

    def __call__(self) -> float:
        self.looks += 1
        self.now += 1.0 if self.looks % 3 else -3600.0
        return self.now


def test_a_wall_clock_that_goes_back_changes_neither_order_nor_durations(tmp_path: Path) -> None:
    async def run() -> None:
        for _ in range(2):  # the second time on what the first one left
            database = Database.open(tmp_path / "state.db")
            log = await EventLog.open(database, tmp_path / "journal", wall=Jumping(), monotonic=Clock())
            after = max((event.seq for event in await log.events()), default=0)
            for number in range(5):
                log.event(Event(kind=EventKind.REPLICA_READY, message=str(number)))
                log.end(log.begin(f"r{number}", "demo", "", "/v1/completions", False), Outcome.OK, 200)
            events = await log.events(after=after)
            assert [event.event.message for event in events] == ["0", "1", "2", "3", "4"]
            assert [event.seq for event in events] == list(range(after + 1, after + 6))
            assert {row["duration_s"] for row in await log.requests()} == {1.0}
            await closed(database, log)

    asyncio.run(run())


def test_what_is_dropped_while_sqlite_cannot_write_is_counted_and_told_once_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ironloom.account.log.MAX_PENDING", 100)

    async def run() -> None:
        database, log = await opened(tmp_path)
        written = database.write

        async def full(function: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(database, "write", full)
        for number in range(120):
            log.event(Event(kind=EventKind.REPLICA_READY, message=str(number)))
        assert await log.events() == []
        assert log.problem is not None
        assert "20 were dropped" in log.problem
        monkeypatch.setattr(database, "write", written)
        assert len(await log.events(limit=1000)) == 100
        assert log.problem is None
        (told,) = [one for one in await log.events() if one.event.kind is EventKind.LOG_RECOVERED]
        assert told.event.data == {"dropped": 20}
        assert "20 records were lost" in told.event.message
        await closed(database, log)

    asyncio.run(run())


def test_without_room_for_a_journal_records_still_reach_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        database, log = await opened(tmp_path)

        def full(payload: bytes) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(log._journal, "append", full)
        seqs = [log.begin(f"r{number}", "demo", "", "/v1/completions", False) for number in range(5)]
        for seq in seqs:
            log.end(seq, Outcome.OK, 200)
        assert [row["outcome"] for row in await log.requests()] == ["ok"] * 5
        await closed(database, log)

    asyncio.run(run())


def test_replicas_that_were_not_told_to_be_stopped_are_known_at_the_next_start_with_the_last_of_them(
    tmp_path: Path,
) -> None:
    async def run() -> tuple[list[tuple[str, EventKind]], float]:
        database, log = await opened(tmp_path)
        assert (await log.left_replicas(), log.last_s) == ([], 0.0)
        for replica, *kinds in (
            ("a", EventKind.REPLICA_STARTING, EventKind.REPLICA_READY),
            ("b", EventKind.REPLICA_READY, EventKind.REPLICA_STOPPED),
            ("c", EventKind.REPLICA_STOPPING),
        ):
            for kind in kinds:
                log.event(Event(kind=kind, service="demo", replica=replica))
        log.event(Event(kind=EventKind.RUN_STARTING, service="run", replica="0"))
        seq = log.begin("req-1", "demo", "", "/v1/models", False)
        log.end(seq, Outcome.OK, 200)
        await closed(database, log)
        database, log = await opened(tmp_path)
        log.event(Event(kind=EventKind.DAEMON_STARTED))
        left, last_s = await log.left_replicas(), log.last_s
        await closed(database, log)
        return [(one.event.replica, one.event.kind) for one in left], last_s

    left, last_s = asyncio.run(run())
    assert left == [("a", EventKind.REPLICA_READY), ("c", EventKind.REPLICA_STOPPING)]
    assert last_s > 1000.0
