"""What converters share: progress as JSON lines, and a result that appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def say(message: str, *, done_bytes: int = 0, total_bytes: int = 0) -> None:
    """One line of progress on stdout."""
    print(json.dumps({"message": message, "done_bytes": done_bytes, "total_bytes": total_bytes}), flush=True)


@contextmanager
def whole_folder(result: Path) -> Iterator[Path]:
    """A temporary folder beside `result`, which takes its name at the end, with every file on the disk.

    A result that is there already is left as it is. Folders of converters that were killed are cleared away.
    """
    result.parent.mkdir(parents=True, exist_ok=True)
    for old in result.parent.glob(f"{result.name}.*.tmp"):
        if not _alive(old.name.split(".")[-2]):
            shutil.rmtree(old, ignore_errors=True)
    scratch = result.parent / f"{result.name}.{os.getpid()}.tmp"
    scratch.mkdir()
    try:
        yield scratch
        for path in [*scratch.rglob("*"), scratch]:
            _sync(path)
        if not result.exists():
            scratch.rename(result)
            _sync(result.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _alive(pid: str) -> bool:
    return pid.isdigit() and Path(f"/proc/{pid}").exists()
