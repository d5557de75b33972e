"""Kubernetes' selectors of labels, matched as its own code matches them: node affinity, label selectors, tolerations.

Sources: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/,
https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/ and
https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/.
What is malformed matches nothing, as the API server would refuse it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ironloom.fleet.model import Taint

Labels = Mapping[str, str]
_INTEGER = re.compile(r"[+-]?\d{1,19}")


def matches_labels(selector: object, labels: Labels) -> bool:
    """Whether a label selector (matchLabels and matchExpressions) takes these labels. An empty one takes all, none
    (null) takes none."""
    if not isinstance(selector, Mapping):
        return False
    equal = selector.get("matchLabels") or {}
    if not isinstance(equal, Mapping) or any(labels.get(key) != value for key, value in equal.items()):
        return False
    return all(_expression(one, labels) for one in _list(selector.get("matchExpressions")))


def matches_node(terms: object, labels: Labels, name: str) -> bool:
    """Whether one of the nodeSelectorTerms takes a node. A term without expressions and fields takes none."""
    return any(_term(term, labels, name) for term in _list(terms))


def tolerates(tolerations: Iterable[object], taint: Taint) -> bool:
    """Whether one of the tolerations covers a taint."""
    return any(_covers(one, taint) for one in tolerations if isinstance(one, Mapping))


def _term(term: object, labels: Labels, name: str) -> bool:
    if not isinstance(term, Mapping):
        return False
    expressions, fields = _list(term.get("matchExpressions")), _list(term.get("matchFields"))
    if not expressions and not fields:
        return False
    return all(_expression(one, labels) for one in expressions) and all(
        _expression(one, {"metadata.name": name}) for one in fields
    )


def _expression(one: object, labels: Labels) -> bool:
    if not isinstance(one, Mapping):
        return False
    key, operator, values = one.get("key"), one.get("operator"), _list(one.get("values"))
    has = labels.get(key) if isinstance(key, str) else None
    match operator:
        case "In":
            return has is not None and has in values
        case "NotIn":
            return has is None or has not in values
        case "Exists":
            return has is not None
        case "DoesNotExist":
            return has is None
        case "Gt" | "Lt":
            if has is None or len(values) != 1 or not _is_integer(has) or not _is_integer(values[0]):
                return False
            return int(has) > int(values[0]) if operator == "Gt" else int(has) < int(values[0])
    return False


def _covers(toleration: Mapping[str, Any], taint: Taint) -> bool:
    effect, key = toleration.get("effect") or "", toleration.get("key") or ""
    if effect and effect != taint.effect:
        return False
    if key and key != taint.key:
        return False
    match toleration.get("operator") or "Equal":
        case "Exists":
            return True
        case "Equal":
            return bool(key) and (toleration.get("value") or "") == taint.value
    return False


def _is_integer(value: object) -> bool:
    return isinstance(value, str | int) and _INTEGER.fullmatch(str(value)) is not None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
