"""Less of an input that fails, while it fails still."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

Part = TypeVar("Part")


def minimised(parts: Sequence[Part], fails: Callable[[Sequence[Part]], bool], *, max_s: float = 20.0) -> list[Part]:
    """The fewest parts found in `max_s` seconds that still fail: halves are left out first, then less and less.

    Source: A. Zeller, R. Hildebrandt, Simplifying and Isolating Failure-Inducing Input, IEEE TSE 28 (2002), the part
    that tests complements: https://doi.org/10.1109/32.988498
    """
    left = list(parts)
    size = max(1, len(left) // 2)
    end_s = time.monotonic() + max_s
    while time.monotonic() < end_s:
        start, is_smaller = 0, False
        while start < len(left) and time.monotonic() < end_s:
            shorter = left[:start] + left[start + size :]
            if fails(shorter):
                left, is_smaller = shorter, True
            else:
                start += size
        if size == 1 and not is_smaller:
            break
        size = size if is_smaller and size == 1 else max(1, size // 2)
    return left


def minimised_text(text: str, fails: Callable[[str], bool], *, max_s: float = 20.0) -> str:
    """The same of a text: of its lines, and of a short one's characters."""
    lines = minimised(text.splitlines(keepends=True), lambda some: fails("".join(some)), max_s=max_s)
    text = "".join(lines)
    if len(text) > 1000:
        return text
    return "".join(minimised(text, lambda some: fails("".join(some)), max_s=max_s))
