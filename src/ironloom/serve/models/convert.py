"""Run an engine's Conversion once, as a child process, with its progress."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from ironloom.errors import DiskFull, EngineUnavailable, ModelError
from ironloom.serve.engines.base import Conversion
from ironloom.serve.models.cache import key_of, locked
from ironloom.serve.models.progress import Progress, Report
from ironloom.serve.reason import with_last_lines

NUM_LAST_LINES = 15


def run_conversion(conversion: Conversion, cache_dir: Path, report: Report) -> None:
    """Make the converted form, unless it is there. Blocks; two callers do the work once.

    The child prints JSON lines (`message`, `done_bytes`, `total_bytes`, each optional) and ends with status 0 once
    `conversion.result` is there, whole. Raises EngineUnavailable when a distribution is missing, DiskFull, ModelError.
    """
    if conversion.result.exists():
        return
    missing = [name for name in conversion.requires if not _is_installed(name)]
    if missing:
        raise EngineUnavailable(
            f"{conversion.description} needs {', '.join(missing)}, not installed here",
            hint=f"`pip install {' '.join(missing)}` installs what it needs",
        )

    def waiting() -> None:
        report(Progress(phase="waiting", message=f"another process does it: {conversion.description}"))

    with locked(cache_dir, f"convert-{key_of(str(conversion.result))}", waiting):
        if not conversion.result.exists():
            conversion.result.parent.mkdir(parents=True, exist_ok=True)
            report(Progress(phase="converting", message=conversion.description))
            _run(conversion, report)


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _run(conversion: Conversion, report: Report) -> None:
    command = [sys.executable, "-m", conversion.module, *conversion.args]
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    if (progress := _progress(line, conversion.description)) is not None:
                        report(progress)
            except BaseException:
                process.kill()
                raise
        status = process.returncode
        errors.seek(0)
        lines = [line.rstrip() for line in errors if line.strip()][-NUM_LAST_LINES:]
    if status == 0 and conversion.result.exists():
        return
    text = "\n".join(lines)
    if os.strerror(28) in text:  # ENOSPC
        raise DiskFull(f"the disk filled up: {conversion.description}", hint="free some, then try again")
    failed = f"{conversion.description} failed with exit status {status}"
    raise ModelError(with_last_lines(failed, lines) if lines else failed)


class _Step(msgspec.Struct, frozen=True):
    message: str = ""
    done_bytes: int = 0
    total_bytes: int = 0


_decode_step = msgspec.json.Decoder(_Step).decode


def _progress(line: bytes, description: str) -> Progress | None:
    try:
        step = _decode_step(line)
    except msgspec.DecodeError:
        return None
    return Progress(
        phase="converting",
        message=step.message or description,
        done_bytes=step.done_bytes,
        total_bytes=step.total_bytes,
    )
