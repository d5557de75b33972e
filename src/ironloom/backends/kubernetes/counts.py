"""How a replica count is applied under a field manager of its own, and who owns the one that an object has: functions
of paths and objects alone.

A Deployment's goes through its scale subresource, so that no right on the object is needed. An API server applies
nothing to the scale of a custom resource ("request to convert CR to an invalid group/version", Kubernetes 1.37): there
the object itself is applied with its count alone. Who owns the count is in the object's managedFields either way.

Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ironloom.backends.kubernetes.names import MANAGER, SCALE_MANAGER

AUTOSCALERS: Final = ("kube-controller-manager", "keda", "horizontal-pod-autoscaler", "vpa")
"""Field managers of programs that write a scale again and again: an HPA's is the controller manager.

Source: `metadata.managedFields` of a Deployment that an HPA or KEDA scales."""
_KINDS: Final = {"leaderworkersets": "LeaderWorkerSet"}


def count_at(path: str, number: int) -> tuple[str, dict[str, Any]]:
    """What makes the object at this path have so many replicas, and where it is applied."""
    _, _, group, version, _, namespace, plural, name = path.split("/")
    body = {"metadata": {"name": name, "namespace": namespace}, "spec": {"replicas": number}}
    if plural in _KINDS:
        return path, {"apiVersion": f"{group}/{version}", "kind": _KINDS[plural], **body}
    return f"{path}/scale", {"apiVersion": "autoscaling/v1", "kind": "Scale", **body}


def count_of(scaled: Mapping[str, Any]) -> int:
    """The replica count of an object that has one."""
    return int(scaled["spec"].get("replicas", 0))


def owners_of_count(scaled: Mapping[str, Any]) -> tuple[str, ...]:
    """The field managers that own it."""
    entries = scaled["metadata"].get("managedFields") or ()
    owned = ((one, (one.get("fieldsV1") or {}).get("f:spec") or {}) for one in entries)
    return tuple(str(one.get("manager")) for one, fields in owned if "f:replicas" in fields)


def other_owner(scaled: Mapping[str, Any]) -> str:
    """Who wrote the count in place of Ironloom, an autoscaler before anybody else; empty where Ironloom did."""
    owners = owners_of_count(scaled)
    if {MANAGER, SCALE_MANAGER} & {*owners}:
        return ""
    return next((one for one in owners if is_autoscaler(one)), next(iter(owners), "somebody"))


def is_autoscaler(manager: str) -> bool:
    """Whether a field manager writes scales by itself: it is never overruled."""
    return manager.startswith(AUTOSCALERS)


def is_half_made(scaled: Mapping[str, Any]) -> bool:
    """Whether the manager of the rest has its count: nobody has scaled it yet."""
    return MANAGER in owners_of_count(scaled)


def written_count(scaled: Mapping[str, Any]) -> int | None:
    """The replica count where Ironloom wrote it last; None where it did not."""
    return count_of(scaled) if {MANAGER, SCALE_MANAGER} & {*owners_of_count(scaled)} else None
