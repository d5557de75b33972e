"""Training with FSDP2: a whole run, and the pieces of it that a user's own loop calls on any nn.Module.

    shard, share                         lay a module over the ranks; each rank's rows of a batch
    Checkpointer, CheckpointPolicy       take and load checkpoints, at another number of ranks too
    Saved, NotSaved                      what came of one
    Meter                                tokens/s, MFU, where a step's time goes, stalls, memory, what is left

docs/guides/training.md shows them in one loop.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ironloom.train.checkpoint.checkpointer import Checkpointer, NotSaved, Saved
    from ironloom.train.loop.own import Meter
    from ironloom.train.parallel.unknown import shard, share
    from ironloom.workload.training import CheckpointPolicy

_HOMES = {
    "CheckpointPolicy": "ironloom.workload.training",
    "Checkpointer": "ironloom.train.checkpoint.checkpointer",
    "Meter": "ironloom.train.loop.own",
    "NotSaved": "ironloom.train.checkpoint.checkpointer",
    "Saved": "ironloom.train.checkpoint.checkpointer",
    "shard": "ironloom.train.parallel.unknown",
    "share": "ironloom.train.parallel.unknown",
}
__all__ = ["CheckpointPolicy", "Checkpointer", "Meter", "NotSaved", "Saved", "shard", "share"]


def __getattr__(name: str) -> Any:
    """What needs torch is loaded when it is asked for."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
