"""What is said of many alike is said once, with the first of them and how many more there are."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

NUM_NAMED = 3
"""So many are named, and so few are not folded."""

T = TypeVar("T", bound=Hashable)


def of_many(said: Iterable[tuple[str, T]]) -> dict[T, list[str]]:
    """What is said of more than `NUM_NAMED`, and of whom."""
    found: dict[T, list[str]] = {}
    for who, words in said:
        found.setdefault(words, []).append(who)
    return {words: names for words, names in found.items() if len(names) > NUM_NAMED}


def folded(said: Iterable[tuple[str, T]], *, is_whole: bool = False) -> Iterator[tuple[Sequence[str], T]]:
    """Who, and what is said of them: many of whom the same is said are together, where the first of them was; others
    are one by one. `is_whole` leaves all one by one."""
    pairs = list(said)
    alike = {} if is_whole else of_many(pairs)
    told: set[T] = set()
    for who, words in pairs:
        if words not in alike:
            yield (who,), words
        elif words not in told:
            told.add(words)
            yield alike[words], words


def named(names: Sequence[str]) -> str:
    """`a`, `a, b, c and 997 more`."""
    if len(names) <= NUM_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:NUM_NAMED])} and {len(names) - NUM_NAMED:,} more"
