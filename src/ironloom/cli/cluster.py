"""A live cluster read for a command: a bar while it is read, and what of it is unknown said on stderr."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ironloom.cli.output import say
from ironloom.cli.progress import bar
from ironloom.fleet.model import Fleet

if TYPE_CHECKING:
    from ironloom.backends.kubernetes.reader import Progress
    from ironloom.workload.manifests.schema import Schema


def live_fleet(context: str, levels: Sequence[str]) -> Fleet:
    """The fleet of a kubeconfig's context, now. Raises as `backends.kubernetes.reader.read_fleet` does."""
    from ironloom.backends.kubernetes.reader import read_fleet

    unknown: list[str] = []
    with objects_bar(context) as progress:
        fleet = read_fleet(context=context, levels=levels, tell=unknown.append, progress=progress)
    for one in unknown:
        say(one)
    return fleet


def live_schema(context: str) -> Schema | None:
    """The kinds and fields of a kubeconfig's context. Raises as `backends.kubernetes.schema.read_schema` does."""
    from ironloom.backends.kubernetes.schema import read_schema

    return read_schema(context=context)


@contextmanager
def objects_bar(context: str) -> Iterator[Progress]:
    """A bar of the objects that come; its end moves out as lists say how long they are."""
    with bar(0, context, "objects") as shown:
        remaining: dict[str, int] = {}

        def advance(kind: str, num_more: int, num_remaining: int | None) -> None:
            remaining[kind] = num_remaining or 0
            shown.total = shown.n + num_more + sum(remaining.values())
            shown.update(num_more)

        yield advance
