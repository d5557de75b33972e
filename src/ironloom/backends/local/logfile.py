"""An engine's log file: the last lines of it, all of it as it grows, and its size kept in bounds.

The engine writes the file itself (opened for appending), so that it goes on when the daemon is gone. It is rotated as
logrotate's `copytruncate` does: copied to FILE.1 and cut to nothing; lines written between the two are lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from ironloom.units import MIB

MAX_BYTES = 16 * MIB
TAIL_BYTES = 256 * 1024
MAX_LINE_CHARS = 2000
FOLLOW_S = 0.2
LOOK_FOR_NEW_S = 0.5
KEEP_ENDED = 5
"""Logs of replicas that are gone, kept for each service."""


def last_lines(path: Path, num_lines: int) -> list[str]:
    """The last lines of the file; none when it cannot be read. Bytes that are no UTF-8 are shown as U+FFFD."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read()
    except OSError:
        return []
    lines = text.decode(errors="replace").splitlines()
    if size > TAIL_BYTES:
        lines = lines[1:]  # the first was cut
    return [line[:MAX_LINE_CHARS] for line in lines[-num_lines:]] if num_lines > 0 else []


def rotate(path: Path, max_bytes: int = MAX_BYTES) -> bool:
    """Keep the file in bounds; True when it was rotated. May take as long as copying `max_bytes` does."""
    try:
        if path.stat().st_size <= max_bytes:
            return False
        shutil.copyfile(path, path.with_name(path.name + ".1"))
        os.truncate(path, 0)
    except OSError:
        return False
    return True


def forget_old(folder: Path, live: set[str], keep: int = KEEP_ENDED) -> None:
    """Remove the logs of replicas that are gone (FILE.log with a stem not in `live`), but for the `keep` newest."""
    try:
        ended = [path for path in folder.glob("*.log") if path.stem not in live]
        for path in sorted(ended, key=lambda path: path.stat().st_mtime, reverse=True)[keep:]:
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".1").unlink(missing_ok=True)
    except OSError:
        pass  # another's file, or none: nothing that a start should fail for


async def read_logs(
    folder: Path, replica: str | None, *, follow: bool, tail: int, is_over: Callable[[], bool] = lambda: False
) -> AsyncIterator[tuple[str, str]]:
    """(replica, line) of one replica's log or of all in the folder: the last `tail` lines of each, oldest file first,
    then with `follow` what is written from now on, by replicas that are still to come too. Once `is_over` nothing more
    is written: what is left is read to its end."""
    following: dict[str, asyncio.Task[None]] = {}
    lines: asyncio.Queue[tuple[str, str]] = asyncio.Queue(maxsize=1000)
    over = asyncio.Event()

    def new_files() -> list[Path]:
        found = [path for path in folder.glob("*.log") if path.stem not in following and replica in (None, path.stem)]
        return sorted(found, key=lambda path: path.stat().st_mtime)

    def begin(path: Path, position: int) -> None:
        following[path.stem] = asyncio.create_task(_pump(path, position, lines, over))

    try:
        for path in new_files():
            size = path.stat().st_size
            for line in last_lines(path, tail):
                yield path.stem, line
            if follow:
                begin(path, size)
        while follow:
            if is_over():
                over.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_FOR_NEW_S):
                    line_of = await lines.get()
                yield line_of
            for path in new_files():
                begin(path, 0)
            if over.is_set() and lines.empty() and all(task.done() for task in following.values()):
                return
    finally:
        for task in following.values():
            task.cancel()
        await asyncio.gather(*following.values(), return_exceptions=True)


async def _pump(path: Path, position: int, lines: asyncio.Queue[tuple[str, str]], over: asyncio.Event) -> None:
    """New whole lines of the file, from `position` on; to its end once it is `over`, a last line without end among
    them."""
    rest = b""
    while True:
        is_last = over.is_set()  # before it is read: what is there then is all
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size < position:
                    position, rest = 0, b""  # rotated
                file.seek(position)
                data = file.read(MIB)
        except OSError:
            data = b""
        if not data:
            if is_last:
                break
            await asyncio.sleep(FOLLOW_S)
            continue
        position += len(data)
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            await lines.put((path.stem, line.decode(errors="replace")[:MAX_LINE_CHARS]))
    if rest:
        await lines.put((path.stem, rest.decode(errors="replace")[:MAX_LINE_CHARS]))
