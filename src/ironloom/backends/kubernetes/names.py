"""What Ironloom's objects are called and marked with, in one place: whoever makes, finds or removes them reads it here.

Field managers are two, so that who owns the replica count is written where everybody can see it
(https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management).
"""

from __future__ import annotations

from typing import Final

MANAGER: Final = "ironloom"
"""Owns what a manifest says."""
SCALE_MANAGER: Final = "ironloom-scale"
"""Owns replica counts: the elected writer among the gateways."""
SERVICE_LABEL: Final = "ironloom.dev/service"
GENERATION_LABEL: Final = "ironloom.dev/generation"
"""On pods: the generation of the service's manifest that they run."""
MANAGED_BY: Final = {"app.kubernetes.io/managed-by": "ironloom"}
GROUP_INDEX: Final = "leaderworkerset.sigs.k8s.io/group-index"
"""On pods of a LeaderWorkerSet: which of its groups, counted from 0. The last ones go first."""
WORKER_INDEX: Final = "leaderworkerset.sigs.k8s.io/worker-index"
"""On the same: which pod of its group; the leader is 0.

Source: https://github.com/kubernetes-sigs/lws/blob/v0.9.0/api/leaderworkerset/v1/leaderworkerset_types.go"""
QUEUE: Final = "kueue.x-k8s.io/queue-name"
"""Label of what Kueue is to admit: the LocalQueue. A Deployment's, a LeaderWorkerSet's or a run's."""
REQUIRED: Final = "kueue.x-k8s.io/podset-required-topology"
"""Annotation of a pod template: the level (a node label) of one domain that all its pods share.

Source: https://kueue.sigs.k8s.io/docs/concepts/topology_aware_scheduling/"""
PREFERRED: Final = "kueue.x-k8s.io/podset-preferred-topology"
"""The same, where there is room."""
PODSET_GROUP: Final = "kueue.x-k8s.io/podset-group-name"
"""Annotation of pod templates: those of one name are placed in one domain together."""
DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
"""Which pod a ReplicaSet gives up first: the one of the least."""


def selector(service: str) -> str:
    """The label selector of what belongs to a service."""
    return f"{SERVICE_LABEL}={service}"
