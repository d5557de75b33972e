"""What ends a build: a sentence and a hint."""

from __future__ import annotations


class BuildError(Exception):
    """The image cannot be built for a reason outside of the code."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint
