"""What rules of Kueue's own objects ask alike."""

from __future__ import annotations

from typing import Any

from ironloom.check import look
from ironloom.units import parse_quantity
from ironloom.workload.manifests.document import Document

GROUP = "kueue.x-k8s.io"


def is_kind(document: Document, kind: str) -> bool:
    """Whether a document is of that kind of Kueue's."""
    return document.kind == kind and look.group(document) == GROUP


def amount(value: object) -> Any:
    """A quantity as written; None for what is none."""
    try:
        return parse_quantity(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except ValueError:
        return None
