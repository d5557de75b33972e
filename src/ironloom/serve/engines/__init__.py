"""The engines. A new one is one file and one line in ENGINES.

Each module is loaded at first use only, and holds an `ENGINE`: the one instance of its adapter.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import cast

from ironloom.errors import UsageError
from ironloom.serve.engines.base import Engine

ENGINES: dict[str, str] = {
    "openvino": "ironloom.serve.engines.openvino",
    "llamacpp": "ironloom.serve.engines.llamacpp",
    "transformers": "ironloom.serve.engines.transformers",
    "vllm": "ironloom.serve.engines.vllm",
    "fake": "ironloom.serve.engines.fake",
}
"""Name, as a manifest's runtime asks for it, and the module that holds its ENGINE."""
OFFERED: tuple[str, ...] = tuple(name for name in ENGINES if name != "fake")
"""The names that people are told of; the fake engine is for tests."""


def engine(name: str) -> Engine:
    """The engine of that name. Raises UsageError when there is none."""
    module = ENGINES.get(name)
    if module is None:
        raise UsageError(f'there is no engine "{name}"; there are {", ".join(OFFERED)}')
    return cast("Engine", import_module(module).ENGINE)


def engines(names: Iterable[str] = ENGINES) -> tuple[Engine, ...]:
    """These engines, loaded."""
    return tuple(engine(name) for name in names)
