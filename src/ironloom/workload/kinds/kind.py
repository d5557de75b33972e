"""One kind of manifest that is known, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from ironloom.workload.kinds.around import Around
from ironloom.workload.manifests.document import Document
from ironloom.workload.workload import Workload

Reader = Callable[[Document, Around], Iterable[Workload]]
"""Reads what a document makes, one workload for each part of it that has its own number of copies, the main one first.
Raises nothing, whatever the document has."""


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of manifest that makes pods. Every version of its group is read alike."""

    group: str
    """Empty for the core group."""
    name: str
    read: Reader
    pods: str
    """Which sets of pods it has, for the reference."""
    gang: str = ""
    """When all of them must run at once, for the reference; empty for never by itself."""
    source: str
    """Where its fields are defined."""

    @property
    def key(self) -> tuple[str, str]:
        return self.group, self.name
