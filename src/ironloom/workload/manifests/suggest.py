"""The known name that a wrong one was meant to be."""

from __future__ import annotations

from collections.abc import Iterable

MAX_LENGTH = 64
"""Longer words are compared by their beginning: the cost is the product of the lengths."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The name nearest to `word`, or None when none is near.

    Near: as few single-letter edits (a swap of neighbours is one) as a third of the letters, at least one; case,
    dashes and underscores count for nothing.
    """
    plain = _plain(word)
    limit = max(1, len(plain) // 3)
    best: tuple[int, str] | None = None
    for name in sorted(known):
        other = _plain(name)
        if abs(len(other) - len(plain)) > limit:
            continue
        edits = _edits(plain, other, limit)
        if edits <= limit and (best is None or edits < best[0]):
            best = (edits, name)
    return best[1] if best else None


def within_one(word: str, known: Iterable[str]) -> str | None:
    """The name that `word` is a single edit from, or the same but for case; None where there is none. Of words that
    may be right though they are not known."""
    plain = _plain(word)
    return next((name for name in sorted(known) if _edits(plain, _plain(name), 1) <= 1), None)


def _plain(word: str) -> str:
    return word[:MAX_LENGTH].lower().replace("-", "").replace("_", "")


def _edits(a: str, b: str, limit: int) -> int:
    """Damerau's distance of neighbours (optimal string alignment); above `limit` it stops and says `limit + 1`."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        last, row, before = row, [i] + [0] * len(b), row if i == 1 else before
        for j, other in enumerate(b, start=1):
            row[j] = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                row[j] = min(row[j], before[j - 2] + 1)
        if min(row) > limit:
            return limit + 1
        before = last
    return row[-1]
