"""Which object a service's others go with, as Kubernetes' garbage collector has it. Pure functions of objects.

    several gateways   ConfigMap of the declaration ──► all of them
    one daemon         what has the replicas        ──► its Service, its PodDisruptionBudget, its runtime

Who deletes the owner deletes what it owns: no list is needed, and none is kept. An owner stands in the same namespace.
A claim with what was fetched has no owner: it outlives its service.

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/owners-dependents/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

FREE: Final = frozenset({"PersistentVolumeClaim"})
"""Kinds that nothing owns."""
Reference = Mapping[str, str]


def reference(owner: Mapping[str, Any]) -> Reference | None:
    """What names an object that is in a cluster as an owner; None where it has no uid yet. It is no controller, so that
    nobody takes what it owns for a controller's work."""
    metadata = owner["metadata"]
    if "uid" not in metadata:
        return None
    made = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": metadata["name"], "uid": metadata["uid"]}
    return {key: str(value) for key, value in made.items()}


def owned(one: Mapping[str, Any], owner: Reference | None) -> dict[str, Any]:
    """An object, with its owner where it may have one."""
    if owner is None or one["kind"] in FREE:
        return dict(one)
    return {**one, "metadata": {**one["metadata"], "ownerReferences": [dict(owner)]}}
