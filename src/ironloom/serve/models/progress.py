"""How far a pull or a conversion is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One step. `phase` is one word (waiting, pulling, checking, converting); bytes are 0 where they mean nothing."""

    phase: str
    message: str = ""
    done_bytes: int = 0
    total_bytes: int = 0


Report = Callable[[Progress], None]
"""Called from the thread that does the work, and from threads that download; never concurrently."""


def silent(_: Progress) -> None:
    """A Report that says nothing."""
