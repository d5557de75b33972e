"""Kinds that were taken away, and what is there in their place."""

from __future__ import annotations

from dataclasses import dataclass

from ironloom.workload.manifests.document import Document


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """One version of a kind that is deprecated or gone."""

    instead: str
    """`group/version`, or `group/version Kind` where the kind has another name."""
    project: str
    gone_in: str
    """The version of the project that has it no longer; empty where it is deprecated and there."""
    deprecated_in: str = ""
    is_rename: bool = True
    """Whether the fields are the same, so that another apiVersion is all it takes."""


def removal(document: Document) -> Removal | None:
    """What became of the document's kind; None where nothing did."""
    return REMOVED.get(document.type_name)


REMOVED: dict[str, Removal] = {}
