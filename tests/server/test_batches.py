"""Batches: checked by line, run with bounded concurrency, durable, and each row billed once."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironloom.account.database import Database
from ironloom.account.events import Event
from ironloom.errors import RequestError
from ironloom.server import batch_store
from ironloom.server.batch_rows import MAX_ERRORS, lines_of, read_rows, service_errors
from ironloom.server.batches import Batches, BatchLimits
from ironloom.server.files import FileStore, Page

ENDPOINT = "/v1/chat/completions"
USAGE = {"prompt_tokens": 2, "completion_tokens": 3}


def line(custom_id: str = "a", **more: Any) -> dict[str, Any]:
    row = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": {"model": "small", "messages": []}}
    return row | more


def text(*rows: Any) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def why_not(model: str) -> str | None:
    return None if model == "small" else f"there is no service {model!r}"


# ------------------------------------------------------------------ lines


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (b"{", "invalid_json_line"),
        (b"\xff", "invalid_json_line"),
        (b'{"custom_id": "x", "body": ' + b'{"a": ' * 100_000, "invalid_json_line"),
        (b"[]", "invalid_request"),
        ({"custom_id": "x"}, "invalid_request"),
        (line(custom_id=""), "invalid_custom_id"),
        (line(custom_id="x" * 513), "invalid_custom_id"),
        (line(custom_id=7), "invalid_request"),
        (line(method="GET"), "invalid_method"),
        (line(url="/v1/embeddings"), "mismatched_endpoint"),
        (line(body=[]), "invalid_request"),
        (line(body={}), "invalid_request"),
        (line(body={"model": "other"}), "model_not_found"),
        (line(body={"model": "small", "stream": True}), "invalid_value"),
        (line(custom_id="first"), "duplicate_custom_id"),
    ],
)
def test_a_wrong_line_is_told_by_its_number(row: Any, code: str) -> None:
    found, errors = read_rows(lines_of([text(line("first"), b"", row)]), ENDPOINT)
    errors = errors or service_errors(found, why_not)
    assert [(error.code, error.line) for error in errors] == [(code, 3)]


def test_a_file_without_requests_is_wrong() -> None:
    assert [error.code for error in read_rows([b"", b" "], ENDPOINT)[1]] == ["empty_file"]


def test_a_file_of_errors_is_told_up_to_a_bound() -> None:
    assert len(read_rows([b"x"] * 1000, ENDPOINT)[1]) == MAX_ERRORS


@given(st.lists(st.text(alphabet="ab\u00e9{}\r", max_size=6), max_size=8), st.integers(min_value=1, max_value=5))
def test_lines_are_the_same_however_the_file_is_cut(lines: list[str], size: int) -> None:
    whole = "\n".join(lines).encode()
    parts = [whole[start : start + size] for start in range(0, len(whole), size)]
    expected = whole.split(b"\n")
    assert list(lines_of(parts)) == (expected if expected[-1] else expected[:-1])


# ------------------------------------------------------------------ runs


@dataclass
class Result:
    status: int
    body: AsyncIterator[bytes]


class Engine:
    """A stand-in for `gateway.call`: answers by script, counts what it was asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.most_at_once = 0
        self.at_once = 0
        self.pause = asyncio.Event()
        self.pause.set()
        self.script: Callable[[str, int], tuple[int, bytes]] = lambda _id, _try: (200, self.good())

    @staticmethod
    def good() -> bytes:
        return json.dumps({"object": "chat.completion", "usage": USAGE}).encode()

    async def call(self, service: str, path: str, body: bytes, headers: Any, *, key_id: str, request_id: str) -> Result:
        self.asked[request_id] += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.pause.wait()
            await asyncio.sleep(0)
        finally:
            self.at_once -= 1
        status, answer = self.script(request_id, self.asked[request_id])
        if status == 0:
            raise RequestError(503, "no replica", source="gateway", code="unavailable", retry_after_s=0.0)

        async def pieces() -> AsyncIterator[bytes]:
            yield answer

        return Result(status, pieces())


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class World:
    database: Database
    files: FileStore
    batches: Batches
    engine: Engine
    clock: Clock
    events: list[Event]

    async def make(self, data: bytes, **more: Any) -> dict[str, Any]:
        file = await self.files.add(data, filename="in", purpose="batch", key_id=more.get("key_id", ""))
        values = {"window_s": 3600.0, "completion_window": "1h", "metadata": {}, **more}
        return await self.batches.create(input_file_id=file.id, endpoint=ENDPOINT, **values)

    async def run(self, data: bytes, **more: Any) -> dict[str, Any]:
        batch = await self.make(data, **more)
        await self.batches.wait(batch["id"])
        return await self.batches.get(batch["id"])

    async def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        assert file_id is not None
        whole = b"".join([part async for part in self.files.parts(file_id)])
        return [json.loads(one) for one in whole.splitlines()]

    def reopened(self) -> Batches:
        return make_batches(self)


def make_batches(world: World, concurrency: int = 0) -> Batches:
    return Batches(
        world.database,
        world.engine.call,
        why_not=lambda _key, model: why_not(model),
        concurrency=lambda _service: concurrency,
        on_event=world.events.append,
        limits=BatchLimits(rows_in_flight=4, max_tries=3, first_pause_s=0.001, cancel_grace_s=5.0, close_grace_s=0.2),
        wall_clock=world.clock,
    )


def with_world(folder: Path, body: Callable[[World], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        database = Database.open(folder / "state.db")
        clock = Clock()
        world = World(database, FileStore(database, wall_clock=clock), None, Engine(), clock, [])  # type: ignore[arg-type]
        world.batches = make_batches(world)
        try:
            return await body(world)
        finally:
            await world.batches.close()
            database.close()

    return asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 (what it waits for has no event)
            await asyncio.sleep(0)


def rows(number: int) -> bytes:
    return text(*[line(f"row-{index}") for index in range(number)])


def test_every_row_is_answered_in_the_order_of_the_file_with_bounded_concurrency(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        batch = await world.run(rows(300), metadata={"who": "me"})
        assert batch["status"] == "completed"
        assert batch["request_counts"] == {"total": 300, "completed": 300, "failed": 0}
        assert batch["usage"]["total_tokens"] == 300 * 5
        assert batch["metadata"] == {"who": "me"}
        assert batch["completed_at"] == 1000
        found = await world.lines(batch["output_file_id"])
        assert [one["custom_id"] for one in found] == [f"row-{index}" for index in range(300)]
        assert {one["response"]["status_code"] for one in found} == {200}
        assert world.engine.most_at_once == 4
        assert set(world.engine.asked.values()) == {1}
        assert [event.reason for event in world.events] == ["BatchCreated", "BatchCompleted"]

    with_world(tmp_path, body)


def test_as_many_rows_are_in_flight_as_the_replicas_run_at_once_where_that_is_known(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        world.batches = make_batches(world, concurrency=7)
        await world.run(rows(50))
        assert world.engine.most_at_once == 7

    with_world(tmp_path, body)


def test_a_file_with_an_error_is_not_run_at_all(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        batch = await world.run(text(line("a"), b"{"))
        assert batch["status"] == "failed"
        assert [error["line"] for error in batch["errors"]["data"]] == [2]
        assert not world.engine.asked
        assert batch["request_counts"]["total"] == 0

    with_world(tmp_path, body)


def test_a_refused_row_goes_to_the_error_file_and_the_others_go_on(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        refusal = b'{"error": {"message": "bad temperature"}}'
        world.engine.script = lambda rid, _try: (400, refusal) if rid.endswith("-2") else (200, Engine.good())
        batch = await world.run(rows(3))
        assert batch["status"] == "completed"
        assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
        [failed] = await world.lines(batch["error_file_id"])
        assert (failed["custom_id"], failed["response"]["status_code"]) == ("row-1", 400)
        assert failed["response"]["body"]["error"]["message"] == "bad temperature"

    with_world(tmp_path, body)


def test_a_row_is_tried_again_while_no_replica_can_be_had(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        world.engine.script = lambda _id, attempt: (0, b"") if attempt < 3 else (200, Engine.good())
        batch = await world.run(rows(2))
        assert batch["request_counts"]["completed"] == 2
        assert set(world.engine.asked.values()) == {3}

    with_world(tmp_path, body)


def test_a_full_queue_is_waited_out_and_a_broken_engine_is_not(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        world.engine.script = lambda _id, attempt: (429, b"{}") if attempt < 6 else (200, Engine.good())
        assert (await world.run(rows(1)))["request_counts"]["completed"] == 1
        world.engine.script = lambda _id, _try: (200, b"<html>")
        batch = await world.run(rows(1))
        assert batch["request_counts"]["failed"] == 1
        [failed] = await world.lines(batch["error_file_id"])
        assert (failed["response"], failed["error"]["code"]) == (None, "engine_error")

    with_world(tmp_path, body)


def test_a_cancelled_batch_keeps_what_is_done_and_tells_the_rest(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        world.engine.pause.clear()
        batch = await world.make(rows(10))
        await until(lambda: world.engine.at_once == 4)
        cancelled = await world.batches.cancel(batch["id"])
        assert cancelled["status"] == "cancelling"
        world.engine.pause.set()
        await world.batches.wait(batch["id"])
        ended = await world.batches.get(batch["id"])
        assert ended["status"] == "cancelled"
        assert len(await world.lines(ended["output_file_id"])) == 4
        told = await world.lines(ended["error_file_id"])
        assert {one["error"]["code"] for one in told} == {"batch_cancelled"}
        assert ended["request_counts"] == {"total": 10, "completed": 4, "failed": 6}
        assert (await world.batches.cancel(batch["id"]))["status"] == "cancelled"

    with_world(tmp_path, body)


def test_a_batch_that_is_cancelled_while_it_is_read_never_runs(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        batch = await world.make(rows(10))
        await world.batches.cancel(batch["id"])
        await world.batches.wait(batch["id"])
        assert (await world.batches.get(batch["id"]))["status"] == "cancelled"
        assert not world.engine.asked

    with_world(tmp_path, body)


def test_an_expired_batch_tells_the_rows_that_were_not_run(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        world.engine.pause.clear()
        batch = await world.make(rows(6), window_s=0.05)
        await world.batches.wait(batch["id"])
        ended = await world.batches.get(batch["id"])
        assert ended["status"] == "expired"
        told = await world.lines(ended["error_file_id"])
        assert [one["error"]["code"] for one in told] == ["batch_expired"] * 6
        assert world.engine.at_once == 0

    with_world(tmp_path, body)


def test_a_batch_goes_on_where_it_stood_after_a_restart(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        done = 0

        def script(_id: str, _try: int) -> tuple[int, bytes]:
            nonlocal done
            done += 1
            if done == 8:
                world.engine.pause.clear()
            return 200, Engine.good()

        world.engine.script = script
        batch = await world.make(rows(20))
        await until(lambda: not world.engine.pause.is_set())
        await world.batches.close()
        world.engine.pause.set()
        world.batches = world.reopened()
        assert await world.batches.open() == 1
        await world.batches.wait(batch["id"])
        ended = await world.batches.get(batch["id"])
        assert ended["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
        assert len(await world.lines(ended["output_file_id"])) == 20
        assert ended["usage"]["total_tokens"] == 20 * 5

    with_world(tmp_path, body)


def test_rows_in_flight_when_the_daemon_ends_are_answered_once_and_no_more_are_sent(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        world.engine.pause.clear()
        batch = await world.make(rows(20))
        await until(lambda: world.engine.at_once == 4)
        world.batches.stop()
        world.engine.pause.set()
        await world.batches.close()
        counts = (await world.batches.get(batch["id"]))["request_counts"]
        assert counts == {"total": 20, "completed": 4, "failed": 0}
        world.batches = world.reopened()
        await world.batches.open()
        await world.batches.wait(batch["id"])
        assert (await world.batches.get(batch["id"]))["request_counts"]["completed"] == 20
        assert sum(world.engine.asked.values()) == 20

    with_world(tmp_path, body)


def test_a_second_answer_to_a_row_changes_nothing(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        world.engine.pause.clear()
        batch = await world.make(rows(1))
        await until(lambda: world.engine.at_once == 1)
        first = batch_store.RowResult(status=200, response=b"{}", prompt_tokens=1)
        second = batch_store.RowResult(status=200, response=b'{"x":1}', prompt_tokens=50)

        def write(result: batch_store.RowResult) -> Callable[[sqlite3.Connection], bool]:
            return lambda connection: batch_store.write_result(connection, batch["id"], 1, result)

        assert await world.database.write(write(first)) is True
        assert await world.database.write(write(second)) is False
        world.engine.pause.set()
        await world.batches.wait(batch["id"])
        assert (await world.batches.get(batch["id"]))["usage"]["total_tokens"] == 1

    with_world(tmp_path, body)


def test_a_full_disk_is_waited_for_and_no_row_is_sent_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = 3
    write_result = batch_store.write_result

    def full(connection: sqlite3.Connection, *rest: Any) -> bool:
        nonlocal left
        if left:
            left -= 1
            raise sqlite3.OperationalError("database or disk is full")
        return write_result(connection, *rest)

    monkeypatch.setattr(batch_store, "write_result", full)

    async def body(world: World) -> None:
        batch = await world.run(rows(5))
        assert batch["request_counts"]["completed"] == 5
        assert set(world.engine.asked.values()) == {1}

    with_world(tmp_path, body)


def test_a_batch_is_seen_by_the_key_that_made_it(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        batch = await world.run(rows(1), key_id="key-a")
        assert (await world.batches.get(batch["id"], owner="key-a"))["id"] == batch["id"]
        for step in (world.batches.get, world.batches.cancel):
            with pytest.raises(RequestError) as error:
                await step(batch["id"], owner="key-b")
            assert error.value.status == 404
        assert await world.batches.page(Page(limit=5), owner="key-b") == ([], False)
        output = await world.files.get(batch["output_file_id"], owner="key-a")
        assert output.purpose == "batch_output"

    with_world(tmp_path, body)


def test_an_input_file_that_is_gone_fails_the_batch(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        values = {"window_s": 60.0, "completion_window": "1m", "metadata": {}}
        batch = await world.batches.create(input_file_id="file-none", endpoint=ENDPOINT, **values)
        await world.batches.wait(batch["id"])
        ended = await world.batches.get(batch["id"])
        assert (ended["status"], ended["errors"]["data"][0]["code"]) == ("failed", "file_not_found")

    with_world(tmp_path, body)
