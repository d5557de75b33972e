"""When pods must run all at once."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from ironloom.workload.workload import PodSet, Role


class Gang(StrEnum):
    """When a kind's pods need each other."""

    NEVER = "never"
    """Each pod is of use alone, as the replicas of a Deployment are."""
    QUEUED = "queued"
    """When a queue admits them as a whole, or when they train one model together."""
    ALWAYS = "always"
    """The kind means one program over several pods."""


def is_gang(gang: Gang, pod_sets: Sequence[PodSet], *, is_queued: bool) -> bool:
    """Whether these pods must run all at once; one pod alone never has to."""
    if gang is Gang.NEVER or sum(pods.num_pods for pods in pod_sets) < 2:
        return False
    return gang is Gang.ALWAYS or is_queued or any(pods.role is Role.TRAINING for pods in pod_sets)
