"""Labels that pods ask of their nodes."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ironloom.check import look
from ironloom.place.affinity import REQUIRED
from ironloom.workload.manifests.schema import Path
from ironloom.workload.workload import PodSet


class Wanted(msgspec.Struct, frozen=True):
    """One label that a pod requires of its node."""

    key: str
    values: tuple[str, ...]
    """One of them; empty for any value."""
    path: Path
    """Of the value, or of the list of values."""
    key_path: Path
    term: int | None
    """Number of the nodeSelectorTerm it stands in; None for nodeSelector."""


def wanted_labels(pod_set: PodSet) -> Iterator[Wanted]:
    """The labels that nodeSelector and required node affinity ask for by value or existence."""
    base: Path = (*pod_set.path, "nodeSelector")
    for key, value in look.mapping(pod_set.spec, ("nodeSelector",)).items():
        if isinstance(value, str):
            yield Wanted(key, (value,), (*base, key), (*base, key), None)
    inside = ("affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms")
    for index, term in enumerate(look.entries(pod_set.spec, inside)):
        for number, one in enumerate(look.entries(term, ("matchExpressions",))):
            key, operator = look.text(one, ("key",)), look.text(one, ("operator",))
            values = tuple(value for value in look.entries(one, ("values",)) if isinstance(value, str))
            path: Path = (*pod_set.path, *inside, index, "matchExpressions", number)
            if key and operator == "In" and values:
                exact = (*path, "values", 0) if len(values) == 1 else (*path, "values")
                yield Wanted(key, values, exact, (*path, "key"), index)
            elif key and operator == "Exists":
                yield Wanted(key, (), path, (*path, "key"), index)
