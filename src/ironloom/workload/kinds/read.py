"""Documents into workloads, and a word of each kind that is not known."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ironloom.workload.kinds import (
    context,
    core,
    groups,
    jobset,
    knative,
    kserve,
    kubeflow,
    kueue,
    llm_inference_service,
    lws,
    ray,
    scalers,
    trainer,
    volcano,
)
from ironloom.workload.kinds.around import Around, group_of
from ironloom.workload.kinds.kind import Kind
from ironloom.workload.manifests.document import Document
from ironloom.workload.manifests.schema import path_text
from ironloom.workload.workload import Workload

_MODULES = (
    core,
    jobset,
    lws,
    kserve,
    llm_inference_service,
    trainer,
    kubeflow,
    ray,
    knative,
    scalers,
    kueue,
    volcano,
)
KINDS: dict[tuple[str, str], Kind] = {kind.key: kind for module in _MODULES for kind in module.KINDS}
"""Every kind that makes pods, by group and name."""
_OLD_GROUP = "extensions"
"""Where Deployment, DaemonSet and ReplicaSet were before apps/v1."""


class Unread(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of a file that is not known: once for all its objects."""

    file: str
    line: int
    column: int
    path: str
    message: str


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a set of documents makes."""

    workloads: tuple[Workload, ...]
    unread: tuple[Unread, ...]


def workloads_of(documents: Sequence[Document]) -> Found:
    """The workloads of a set of documents, in their order. Raises nothing, whatever the documents have.

    Documents of a run are read together: a service with the runtime that it names, a workload with its autoscaler.
    """
    around = Around(documents)
    by_target = scalers.scalers_of(around)
    workloads: list[Workload] = []
    unread: dict[tuple[str, str, str], Unread] = {}
    for document in documents:
        group, name = group_of(document), document.kind
        kind = KINDS.get(("apps" if group == _OLD_GROUP else group, name))
        if kind is not None:
            for found in kind.read(document, around):
                made = groups.grouped(found, around) if groups.is_grouped(found) else found
                workloads.append(scalers.scaled(made, by_target) if by_target else made)
        elif not context.is_context(group, name):
            unread.setdefault((document.file, group, name), _unread(document))
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
