"""What pods need to say to be taken by the nodes that have their GPUs. Functions of nodes alone."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

Toleration = dict[str, str]
SYSTEM = (
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
    "ToBeDeleted",
    "DeletionCandidate",
    "karpenter.sh/",
)
"""Beginnings of keys that say how a node is at the moment, not whom it is for: those are never tolerated.

Source: https://kubernetes.io/docs/reference/labels-annotations-taints/ and
https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/utils/taints/taints.go"""


class Taint(msgspec.Struct, frozen=True):
    key: str
    effect: str
    value: str = ""


class _Spec(msgspec.Struct, frozen=True):
    taints: list[Taint] | None = None


class _Status(msgspec.Struct, frozen=True):
    allocatable: dict[str, str] = {}


class Node(msgspec.Struct, frozen=True):
    """Of a node: its taints and what it can give."""

    spec: _Spec = _Spec()
    status: _Status = _Status()


def tolerations(nodes: Iterable[Node], resource: str) -> tuple[Toleration, ...]:
    """For the taints that every node with this resource has: those say that they are for pods that ask for it. A taint
    of some of them says that these are for somebody else, and a node without one takes the pod as it is."""
    wanted: set[Taint] | None = None
    for node in nodes:
        if node.status.allocatable.get(resource, "0") == "0":
            continue
        kept = {
            one
            for one in node.spec.taints or ()
            if one.effect in {"NoSchedule", "NoExecute"} and not one.key.startswith(SYSTEM)
        }
        wanted = kept if wanted is None else wanted & kept
    return tuple(_toleration(one) for one in sorted(wanted or (), key=lambda one: (one.key, one.effect)))


def _toleration(taint: Taint) -> Toleration:
    how = {"operator": "Equal", "value": taint.value} if taint.value else {"operator": "Exists"}
    return {"key": taint.key, **how, "effect": taint.effect}
