"""Progress on stderr: a bar or a line that is rewritten. Silent when stderr is no terminal."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ironloom.units import format_duration

if TYPE_CHECKING:
    from tqdm import tqdm


def bar(total: int | None, label: str, unit: str, *, scale_bytes: bool = False) -> tqdm[Any]:
    """A progress bar. It is a context manager; it shows nothing off a terminal."""
    from tqdm import tqdm

    return tqdm(
        total=total, desc=label, unit=unit, unit_scale=scale_bytes, unit_divisor=1024, file=sys.stderr, disable=None,
        leave=False, dynamic_ncols=True,
    )  # fmt: skip


class Line:
    """One line that says what is waited for and how long: `Starting chat: loading, 3.2s`. Gone when it ends."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.began_s = time.monotonic()
        self._shows = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def show(self, text: str) -> None:
        if self._shows:
            said = f"{self.label}: {text}, " if text else f"{self.label}: "
            line = said + format_duration(time.monotonic() - self.began_s)
            sys.stderr.write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away for good: what stands there next is another's."""
        if self._shows:
            self._shows = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.clear()
