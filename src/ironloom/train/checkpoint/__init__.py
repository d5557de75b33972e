"""A run's state on disk: sharded safetensors and JSON, whole or not there; and the model in Hugging Face's form.

The names below come when they are asked for: what needs no torch is imported without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Checkpointer": "checkpointer",
    "NotSaved": "checkpointer",
    "Saved": "checkpointer",
    "export": "export",
    "export_adapter": "adapter",
    "load_pretrained": "pretrained",
}
__all__ = ["Checkpointer", "NotSaved", "Saved", "export", "export_adapter", "load_pretrained"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
