"""Files: kept whole, seen by their owner, forgotten in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fake_daemon import running, service_view

from ironloom.account.database import Database
from ironloom.errors import RequestError
from ironloom.server.files import PART_BYTES, FileStore, Page


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        self.now_s += 1
        return self.now_s


def with_files(folder: Path, body: Callable[[FileStore, Clock], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        database = Database.open(folder / "state.db")
        clock = Clock()
        try:
            return await body(FileStore(database, wall_clock=clock), clock)
        finally:
            database.close()

    return asyncio.run(run())


@pytest.mark.parametrize("num_bytes", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
def test_a_file_comes_back_whole_in_parts(tmp_path: Path, num_bytes: int) -> None:
    data = bytes(range(256)) * (num_bytes // 256) + bytes(num_bytes % 256)

    async def body(files: FileStore, clock: Clock) -> None:
        file = await files.add(data, filename="x.jsonl", purpose="batch")
        assert file.num_bytes == num_bytes
        parts = [part async for part in files.parts(file.id)]
        assert b"".join(parts) == data
        assert all(len(part) <= PART_BYTES for part in parts)

    with_files(tmp_path, body)


def test_a_file_is_seen_by_its_owner_and_by_those_who_see_all(tmp_path: Path) -> None:
    async def body(files: FileStore, clock: Clock) -> None:
        file = await files.add(b"x", filename="x", purpose="batch", key_id="key-a")
        assert (await files.get(file.id, owner="key-a")).id == file.id
        assert (await files.get(file.id)).id == file.id
        for step in (files.get, files.delete):
            with pytest.raises(RequestError) as error:
                await step(file.id, owner="key-b")
            assert error.value.status == 404
        assert await files.page(Page(limit=9), owner="key-b") == ([], False)

    with_files(tmp_path, body)


def test_an_expired_file_is_gone_and_swept(tmp_path: Path) -> None:
    async def body(files: FileStore, clock: Clock) -> None:
        file = await files.add(b"x", filename="x", purpose="batch", expires_after_s=3600)
        kept = await files.add(b"y", filename="y", purpose="batch")
        assert await files.sweep() == 0
        clock.now_s += 3600
        with pytest.raises(RequestError):
            await files.get(file.id)
        assert [one.id for one in (await files.page(Page(limit=9)))[0]] == [kept.id]
        assert await files.sweep() == 1
        assert [part async for part in files.parts(file.id)] == []

    with_files(tmp_path, body)


def test_pages_go_through_all_files_in_both_orders(tmp_path: Path) -> None:
    async def body(files: FileStore, clock: Clock) -> None:
        made = [(await files.add(b"", filename=str(number), purpose="batch")).id for number in range(5)]
        for newest_first in (True, False):
            seen: list[str] = []
            more = True
            while more:
                page = Page(limit=2, after=seen[-1] if seen else None, newest_first=newest_first)
                found, more = await files.page(page)
                seen += [file.id for file in found]
            assert seen == (made[::-1] if newest_first else made)

    with_files(tmp_path, body)


def test_an_upload_that_is_wrong_names_its_field(tmp_path: Path) -> None:
    def upload(extra: str, filename: str = '; filename="f"') -> bytes:
        head = f'--b\r\nContent-Disposition: form-data; name="file"{filename}\r\n\r\nx\r\n'
        return head.encode() + extra.encode() + b"--b--\r\n"

    def extra(name: str, text: str) -> str:
        return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'

    purpose = extra("purpose", "batch")
    with running(tmp_path, services=[service_view("small")]) as daemon:
        for body, param in (
            (purpose.encode() + b"--b--\r\n", "file"),
            (upload(purpose, filename=""), "file"),
            (upload(""), "purpose"),
            (upload(extra("purpose", "fine-tune")), "purpose"),
            (upload(purpose + extra("colour", "red")), "colour"),
            (upload(purpose + extra("expires_after[seconds]", "soon")), "expires_after[seconds]"),
            (upload(purpose + extra("expires_after[seconds]", "60")), "expires_after.seconds"),
        ):
            status, answer, _ = daemon.ask(
                "POST", "/v1/files", body, {"Content-Type": "multipart/form-data; boundary=b"}
            )
            assert (status, answer["error"]["param"]) == (400, param)
        assert daemon.ask("GET", "/openai/v1/files")[1]["data"] == []
        for name in ("limit=0", "order=up"):
            assert daemon.ask("GET", f"/v1/files?{name}")[0] == 400
