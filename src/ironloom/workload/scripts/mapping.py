"""One setting of a script beside what it is here, and which of them one command can take."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ironloom.workload.scripts.model import Script


@dataclass(frozen=True, kw_only=True, slots=True)
class Mapped:
    """One setting of the script, and what it is here."""

    line: int
    written: str
    here: str
    """NAME=VALUE; empty where there is nothing to set."""
    why: str


def agreed(found: Sequence[Mapped]) -> tuple[list[str], list[str]]:
    """The settings that the script says one value of, and a sentence for each that it says several of."""
    values: dict[str, dict[str, list[int]]] = {}
    for one in found:
        if one.here:
            name, _, value = one.here.partition("=")
            values.setdefault(name, {}).setdefault(value, []).append(one.line)
    settings = [f"{name}={value}" for name, said in values.items() if len(said) == 1 for value in said]
    several = [
        f"{name} is left to you: the script says "
        + " and ".join(f"{value} (line {', '.join(map(str, lines))})" for value, lines in said.items())
        for name, said in values.items()
        if len(said) > 1
    ]
    return settings, several


def unseen(script: Script, call: ast.Call) -> Iterator[Mapped]:
    """What of a call's arguments cannot be read: a dictionary or a list that the script does not write out."""
    if script.values.arguments(call).is_open:
        spread = [one for one in call.args if isinstance(one, ast.Starred)]
        nodes = [*spread, *(one.value for one in call.keywords if one.arg is None)]
        yield Mapped(
            line=nodes[0].lineno,
            written=short(
                ", ".join(script.source(one) if one in spread else f"**{script.source(one)}" for one in nodes)
            ),
            here="",
            why="what it passes is not written out in the script",
        )


def number(value: Any) -> str | None:
    """A number or a pair of numbers as a setting has it; None for anything else."""
    if isinstance(value, tuple | list):
        parts = [number(one) for one in value]
        return None if None in parts else ",".join(str(one) for one in parts)
    return repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def short(text: str) -> str:
    """On one line, and cut where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= 50 else f"{text[:47]}…"
