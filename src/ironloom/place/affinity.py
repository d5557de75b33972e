"""Pods that want to be near other pods, or away from them: required inter-pod affinity and topology spread.

As kube-scheduler's filters InterPodAffinity and PodTopologySpread decide for the next pod, given those that are bound.
Source: https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ironloom.fleet.model import Fleet, FleetNode, FleetPod
from ironloom.place.selectors import Labels, matches_labels

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
NO_AFFINITY = "node(s) didn't match pod affinity rules"
NO_ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
NO_SPREAD = "node(s) didn't match pod topology spread constraints"
NO_SPREAD_LABEL = f"{NO_SPREAD} (missing required label)"
ENDED = frozenset({"Succeeded", "Failed"})


class Term(msgspec.Struct, frozen=True):
    """One required term of a pod's affinity, or anti-affinity, to pods."""

    index: int
    """In the list that it stands in."""
    key: str
    selector: object
    namespaces: frozenset[str] | None
    """None for all, or for those that a selector of namespaces takes: which they are is not known here."""

    def takes(self, namespace: str, labels: Labels) -> bool:
        return (self.namespaces is None or namespace in self.namespaces) and matches_labels(self.selector, labels)


def terms(spec: Mapping[str, Any], which: str, namespace: str) -> Iterator[Term]:
    """The required terms of `which`: podAffinity or podAntiAffinity. Malformed ones are left out."""
    affinity = spec.get("affinity")
    part = affinity.get(which) if isinstance(affinity, Mapping) else None
    written = part.get(REQUIRED) if isinstance(part, Mapping) else None
    for index, term in enumerate(written if isinstance(written, list) else []):
        if not isinstance(term, Mapping) or not isinstance(term.get("topologyKey"), str):
            continue
        named = term.get("namespaces")
        own = frozenset(named) if isinstance(named, list) and named else frozenset({namespace})
        yield Term(
            index=index,
            key=term["topologyKey"],
            selector=term.get("labelSelector"),
            namespaces=None if term.get("namespaceSelector") is not None else own,
        )


class Neighbours(msgspec.Struct, frozen=True):
    """What the pods that are bound now let the next pod of a set do; made once for a set, asked for each node."""

    allowed: tuple[tuple[str, frozenset[str] | None], ...]
    """(label, values) of which a node must have one; None for any value: the pod is the first of its own kind."""
    refused: tuple[tuple[str, frozenset[str]], ...]
    spread: tuple[tuple[str, frozenset[str]], ...]
    """(label, values) where one more pod keeps the skew."""

    def why_not(self, node: FleetNode) -> str:
        """kube-scheduler's reason against a node; empty for none."""
        for key, values in self.spread:
            if key not in node.labels:
                return NO_SPREAD_LABEL
            if node.labels[key] not in values:
                return NO_SPREAD
        for key, allowed in self.allowed:
            if key not in node.labels or (allowed is not None and node.labels[key] not in allowed):
                return NO_AFFINITY
        if any(node.labels.get(key) in values for key, values in self.refused):
            return NO_ANTI_AFFINITY
        return ""


def neighbours(
    spec: Mapping[str, Any], labels: Labels, namespace: str, fleet: Fleet, eligible: Sequence[FleetNode]
) -> Neighbours:
    """What inter-pod rules say. `eligible` are the nodes that the pod's selector and tolerations let it stand on:
    only their domains count for a spread."""
    near, away = list(terms(spec, "podAffinity", namespace)), list(terms(spec, "podAntiAffinity", namespace))
    hard = list(_spreads(spec, namespace))
    if not near and not away and not hard:
        return Neighbours((), (), ())
    bound = [(pod, node) for pod in fleet.pods if (node := fleet.node_by_name.get(pod.node)) and not _ended(pod)]
    # A pod counts for the affinity only when all of its terms take it.
    wanted = [(pod, node) for pod, node in bound if all(term.takes(pod.namespace, pod.labels) for term in near)]
    found = [frozenset(node.labels[term.key] for _, node in wanted if term.key in node.labels) for term in near]
    # The first pod of a group that wants to be together is let through, when it is of the group itself.
    is_first = not any(found) and all(term.takes(namespace, labels) for term in near)
    return Neighbours(
        allowed=tuple((term.key, None if is_first else there) for term, there in zip(near, found, strict=True)),
        refused=tuple((term.key, _taken(term, bound)) for term in away),
        spread=tuple((term.key, _even(term, skew, labels, bound, eligible)) for term, skew in hard),
    )


def _taken(term: Term, bound: Sequence[tuple[FleetPod, FleetNode]]) -> frozenset[str]:
    return frozenset(
        node.labels[term.key]
        for pod, node in bound
        if term.key in node.labels and term.takes(pod.namespace, pod.labels)
    )


def refuses_itself_on_a_node(spec: Mapping[str, Any], labels: Labels, namespace: str) -> bool:
    """Whether two pods of the set cannot share a node."""
    return any(
        term.key == "kubernetes.io/hostname" and term.takes(namespace, labels)
        for term in terms(spec, "podAntiAffinity", namespace)
    )


def _spreads(spec: Mapping[str, Any], namespace: str) -> Iterator[tuple[Term, int]]:
    written = spec.get("topologySpreadConstraints")
    for index, one in enumerate(written if isinstance(written, list) else []):
        if not isinstance(one, Mapping) or one.get("whenUnsatisfiable") != "DoNotSchedule":
            continue
        key, skew = one.get("topologyKey"), one.get("maxSkew")
        if isinstance(key, str) and isinstance(skew, int):
            yield Term(index, key, one.get("labelSelector"), frozenset({namespace})), skew


def _even(
    term: Term,
    max_skew: int,
    labels: Labels,
    bound: Sequence[tuple[FleetPod, FleetNode]],
    eligible: Sequence[FleetNode],
) -> frozenset[str]:
    counts = Counter({node.labels[term.key]: 0 for node in eligible if term.key in node.labels})
    for pod, node in bound:
        value = node.labels.get(term.key, "")
        if value in counts and term.takes(pod.namespace, pod.labels):
            counts[value] += 1
    least = min(counts.values(), default=0)
    own = int(matches_labels(term.selector, labels))
    return frozenset(value for value, count in counts.items() if count + own - least <= max_skew)


def _ended(pod: FleetPod) -> bool:
    return pod.phase in ENDED
