"""Documents into workloads, and a word of each kind that is not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ironloom.workload.kinds import context, core, kserve
from ironloom.workload.kinds.around import Around, group_of
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import path_text
from ironloom.workload.workload import Workload

KINDS: dict[tuple[str, str], Kind] = {kind.key: kind for module in (core, kserve) for kind in module.KINDS}
"""Every kind that makes pods, by group and name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unread:
    """A kind of a file that is not known: once for all its objects."""

    file: str
    line: int
    column: int
    path: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a set of documents makes."""

    workloads: tuple[Workload, ...]
    unread: tuple[Unread, ...]


def workloads_of(documents: Sequence[Document]) -> Found:
    """The workloads of a set of documents, in their order. Raises nothing, whatever the documents have.

    Documents of a run are read together: a service with the runtime that it names, a workload with its autoscaler.
    """
    around = Around(documents)
    workloads: list[Workload] = []
    unread: dict[tuple[str, str, str], Unread] = {}
    for document in documents:
        key = (group_of(document), document.kind)
        kind = KINDS.get(key)
        if kind is not None:
            found = kind.read(document, around)
            if found is not None:
                workloads.append(found)
        elif not context.is_context(*key):
            unread.setdefault((document.file, *key), _unread(document))
    return Found(workloads=tuple(workloads), unread=tuple(unread.values()))


def _unread(document: Document) -> Unread:
    place = document.positions.value(("kind",))
    return Unread(
        file=document.file,
        line=place.line,
        column=place.column,
        path=path_text(("kind",)),
        message=f"{document.kind} of {document.api_version} is a kind that is not checked",
    )
