"""The documents beside the one that is read: what it names (a runtime, a pod group), and what decides about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from ironloom.workload import look
from ironloom.workload.manifests.document import Document


class Around:
    """The documents of one run, found by what they are."""

    def __init__(self, documents: Iterable[Document] = ()) -> None:
        self._documents = tuple(documents)

    def of(self, group: str, kind: str) -> Sequence[Document]:
        """All documents of a kind."""
        return self._by_kind.get((group, kind), ())

    def named(self, group: str, kind: str, name: str, namespace: str = "") -> Document | None:
        """The document of that name; one without a namespace is in any."""
        for document in self._by_name.get((group, kind, name), ()):
            own = namespace_of(document)
            if not own or not namespace or own == namespace:
                return document
        return None

    @cached_property
    def _by_kind(self) -> Mapping[tuple[str, str], Sequence[Document]]:
        found: dict[tuple[str, str], list[Document]] = {}
        for document in self._documents:
            found.setdefault((group_of(document), document.kind), []).append(document)
        return found

    @cached_property
    def _by_name(self) -> Mapping[tuple[str, str, str], Sequence[Document]]:
        found: dict[tuple[str, str, str], list[Document]] = {}
        for document in self._documents:
            found.setdefault((group_of(document), document.kind, document.name), []).append(document)
        return found


def group_of(document: Document) -> str:
    """`serving.kserve.io` of `serving.kserve.io/v1beta1`; empty for the core group."""
    return document.api_version.rpartition("/")[0]


def namespace_of(document: Document) -> str:
    """As written; empty where it is not."""
    return look.text(document.obj, "metadata", "namespace")
