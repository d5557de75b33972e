"""Label dialects. A new one is one file with a DIALECT, and a line here."""

from __future__ import annotations

from functools import cache

from ironloom.fleet.dialects import coreweave, eks, gfd, gke, hyperpod, kubernetes, oke, topograph
from ironloom.fleet.dialects.dialect import Dialect, LevelKey

DIALECTS: tuple[Dialect, ...] = (
    coreweave.DIALECT,
    topograph.DIALECT,
    gke.DIALECT,
    eks.DIALECT,
    oke.DIALECT,
    gfd.DIALECT,
    hyperpod.DIALECT,
    kubernetes.DIALECT,
)
"""Where two say the same equally well, the earlier counts."""


@cache
def level_of(key: str) -> tuple[Dialect, LevelKey] | None:
    """The level that a node label names, and whose it is; None for a label that no dialect knows as one."""
    for dialect in DIALECTS:
        for level in dialect.levels:
            if level.key == key:
                return dialect, level
        for pattern in dialect.patterns:
            if (found := pattern.level(key)) is not None:
                return dialect, found
    return None
