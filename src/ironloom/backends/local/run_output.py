"""A run's output folder, looked at before the run is applied: it can be written, and nobody else trains into it."""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from ironloom.errors import UsageError
from ironloom.train.loop.folder import checkpoints_of, logs_of

_HINT = "`output` names another folder (--output, or the manifest's argument)"


def require_writable(output: Path) -> None:
    """Raises UsageError where it cannot be. Leaves nothing behind: folders that were made to try are removed."""
    made: list[Path] = []
    try:
        for folder in reversed((output, *output.parents)):
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
        for folder in (output, logs_of(output), checkpoints_of(output)):
            if folder == output or folder.exists():
                tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError(
            f"output = {str(output)!r} cannot be written: {error.strerror or error}", hint=_HINT
        ) from error
    finally:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()


def is_taken(output: Path) -> bool:
    """Whether a process that trains holds the folder."""
    try:
        lock = os.open(output / ".lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(lock)
    return False


def is_same(one: str, other: str) -> bool:
    """Whether two paths are one folder, links followed."""
    return os.path.realpath(one) == os.path.realpath(other)


def taken_by(output: Path, who: str) -> UsageError:
    """The refusal."""
    return UsageError(
        f"output = {str(output)!r} is where {who} trains, and one run at a time can",
        hint=f"wait for its end, or {_HINT}",
    )


def both_into(output: Path, one: str, other: str) -> UsageError:
    """The refusal of two runs that are applied at once."""
    return UsageError(
        f"output = {str(output)!r} is where the runs {one!r} and {other!r} would both train, and one run at a time can",
        hint=f"of one of them {_HINT}",
    )
