"""When a pod that does not start is waited for no longer: a pure decider over what its kubelet says, look by look.

A pull that failed may work at the next try, so an image has two; what a registry or the API server says for good is
taken at its word at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ironloom.backends.kubernetes.pods import BAD_WAITS
from ironloom.units import parse_duration_s

MAX_PULLS = 2
"""Failed pulls of an image after which requests are refused. The kubelet's second one comes 10 seconds after the first.

Source: https://kubernetes.io/docs/concepts/containers/images/#imagepullbackoff"""
RETRY_AFTER_S = 30.0
"""What a refused client is told: somebody has to mend something first."""
_PULLING, _BACKING_OFF, _CRASHING = "ErrImagePull", "ImagePullBackOff", "CrashLoopBackOff"
_ONCE_MORE = frozenset({_PULLING, _BACKING_OFF, "RegistryUnavailable", "RunContainerError"})
"""Tried again by the kubelet with a fair chance. A container that cannot be run is in CrashLoopBackOff soon."""
NEAR_S = 10.0
"""A container that ended again and is started once more within so long is waited for: as the pool does elsewhere."""
_BACK_OFF = re.compile(r"\bback-off (\S+) restarting")
_FOR_GOOD = re.compile(
    r"code = NotFound|: not found|manifest unknown|unauthorized|authorization failed|access denied|invalid reference",
    re.IGNORECASE,
)
"""What containerd and registries say of an image that no other try brings."""


@dataclass(frozen=True, slots=True)
class Tries:
    """What is remembered of one pod."""

    reason: str = ""
    """Why a container of it waits, of those in BAD_WAITS; empty for none."""
    num_pulls: int = 0
    """That failed, as far as they were seen."""
    is_stuck: bool = False
    """It will not get ready unless something is mended."""


def after(before: Tries, pod: Mapping[str, Any], *, is_old: bool = False) -> Tries:
    """The next look at a pod. `is_old`: it was there before anybody looked, so what fails has failed before."""
    reason, message = _wait_of(pod)
    if not reason:
        return Tries()
    if reason == _CRASHING and _back_off_s(message) <= NEAR_S:
        return Tries(reason=reason)
    if reason not in _ONCE_MORE:
        return Tries(reason=reason, num_pulls=before.num_pulls, is_stuck=True)
    num_pulls = before.num_pulls
    if reason == _PULLING and before.reason != _PULLING:
        num_pulls += 1
    elif reason == _BACKING_OFF and not num_pulls:
        num_pulls = MAX_PULLS if is_old else 1
    is_stuck = before.is_stuck or num_pulls >= MAX_PULLS or _FOR_GOOD.search(message) is not None
    return Tries(reason=reason, num_pulls=num_pulls, is_stuck=is_stuck)


def _back_off_s(message: str) -> float:
    """How long the kubelet waits before it starts a container again; endless where it does not say.

    Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy"""
    found = _BACK_OFF.search(message)
    try:
        return parse_duration_s(found[1]) if found is not None else float("inf")
    except ValueError:
        return float("inf")


def _wait_of(pod: Mapping[str, Any]) -> tuple[str, str]:
    """(reason, message) of the first container that waits for a reason that does not pass by itself."""
    status = pod.get("status") or {}
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (one.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in BAD_WAITS:
            return str(waiting["reason"]), str(waiting.get("message") or "")
    return "", ""
