"""How a replica count is applied under a field manager of its own: where, and what. Functions of paths alone.

A Deployment's goes through its scale subresource, so that no right on the object is needed. An API server applies
nothing to the scale of a custom resource ("request to convert CR to an invalid group/version", Kubernetes 1.37): there
the object itself is applied with its count alone. Who owns the count is in the object's managedFields either way.

Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from __future__ import annotations

from typing import Any, Final

_KINDS: Final = {"leaderworkersets": "LeaderWorkerSet"}


def count_at(path: str, number: int) -> tuple[str, dict[str, Any]]:
    """What makes the object at this path have so many replicas, and where it is applied."""
    _, _, group, version, _, namespace, plural, name = path.split("/")
    body = {"metadata": {"name": name, "namespace": namespace}, "spec": {"replicas": number}}
    if plural in _KINDS:
        return path, {"apiVersion": f"{group}/{version}", "kind": _KINDS[plural], **body}
    return f"{path}/scale", {"apiVersion": "autoscaling/v1", "kind": "Scale", **body}
