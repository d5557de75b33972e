"""What a check found, written for people and for programs: one module a format."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from ironloom.check.engine import Result

FORMATS = ("text", "json", "sarif", "junit", "github")


def render(result: Result, output: str) -> str:
    """The report in one of FORMATS. `text` is without colour here: see `reports.text.render`."""
    module = import_module(f"{__name__}.{output if output != 'json' else 'json_'}")
    write: Callable[[Result], str] = module.render
    return write(result)
