"""Which rows a training race runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from race_rows import Row

ONLY = {"only": "ironloom"}


def five(steps: int = 8) -> list[Row]:
    """The settings that are held against torchtitan."""
    return [
        Row(shape="1b", seq=2048, batch=16, dtype="float32", checkpointing="selective", steps=steps),
        Row(shape="1b", seq=8192, batch=2, dtype="float32", checkpointing="selective", steps=steps),
        Row(shape="8b-8", seq=4096, batch=4, dtype="float32", checkpointing="selective", steps=steps),
        Row(shape="8b-8", seq=8192, batch=1, dtype="float32", checkpointing="selective", steps=steps),
        Row(shape="8b", seq=8192, batch=1, dtype="bfloat16", checkpointing="full", steps=steps),
    ]


def dry(_: Path) -> list[Row]:
    """A tiny model, for a machine without a GPU."""
    base = Row(shape="tiny", seq=64, batch=2, dtype="float32", checkpointing="selective", is_compiled=False, warmup=1)
    return [replace(base, checkpointing=kind, steps=2) for kind in ("none", "selective", "full")]


def explore(out: Path) -> list[Row]:
    """What each lever gives: one row, one change at a time."""
    base = five()[2]
    whole = five()[4]
    return [
        replace(base, tweaks={**ONLY, "profile": str(out / "profile-8b-8.txt")}),
        replace(base, tweaks={**ONLY, "chunks": 4}),
        replace(base, tweaks={**ONLY, "keep_every": 2}),
        replace(base, checkpointing="none", tweaks=ONLY),
        replace(base, checkpointing="full", tweaks=ONLY),
        replace(whole, tweaks={**ONLY, "profile": str(out / "profile-8b.txt")}),
        replace(base, tweaks={**ONLY, "inductor": {"coordinate_descent_tuning": True}}),
        *[replace(row, tweaks=ONLY) for row in five()[:2]],
    ]


PLANS: dict[str, Callable[[Path], list[Row]]] = {
    "dry": dry,
    "explore": explore,
    "race": lambda _: five(),
}
