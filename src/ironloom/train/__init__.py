"""Training with FSDP2: a whole run, and the pieces of it that a user's own loop calls."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ironloom.train.parallel.unknown import shard, share

__all__ = ["shard", "share"]


def __getattr__(name: str) -> Any:
    """What needs torch is loaded when it is asked for."""
    if name in __all__:
        return getattr(import_module("ironloom.train.parallel.unknown"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
