"""Says what is wrong with GPU workloads before they are launched: `run`, and the values that it gives back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ironloom.check.engine import Result, Setting, run

__all__ = ["Result", "Setting", "run"]


def __getattr__(name: str) -> Any:
    # Rules are imported with the engine; whoever needs a type of this room alone does not pay for them.
    if name in __all__:
        from ironloom.check import engine

        return getattr(engine, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
