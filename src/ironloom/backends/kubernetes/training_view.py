"""A run as it is in a cluster: its state with the reason, its pods by rank. Functions of objects alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ironloom.backends.kubernetes.names import QUEUE
from ironloom.backends.kubernetes.pods import failure_of, waits_for
from ironloom.backends.kubernetes.render.training import RANK_LABEL
from ironloom.workload import look

Object = Mapping[str, Any]

ENDED = frozenset({"succeeded", "failed"})
SUCCEEDED = frozenset({"Complete", "Completed", "Succeeded"})
"""Condition types: a Job's, a JobSet's and a TrainJob's, a PyTorchJob's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PodLine:
    """One rank's pod: the newest of its index."""

    rank: int | None
    """Its index among the pods; None where its kind numbers none."""
    name: str
    state: str
    """waiting, starting, running, succeeded, failed, stopping."""
    node: str = ""
    reason: str = ""
    num_failed: int = 0
    """Pods of the same index that failed before it."""
    restarts: int = 0
    """Of its containers, in place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """A run, read."""

    name: str
    namespace: str
    kind: str
    state: str
    """queued, starting, running, stopped, succeeded, failed, deleting: the words of runs on a machine."""
    reason: str = ""
    queue: str = ""
    num_pods: int = 0
    """That it asks for."""
    restarts: int = 0
    """Attempts of all pods after the first (JobSet), or pods that failed (Job)."""
    created_s: float = 0.0
    pods: tuple[PodLine, ...] = ()


def state_of(owner: Object, pods: Sequence[Object], workload: Object | None = None) -> RunState:
    """The run of an owner (TrainJob, JobSet, PyTorchJob or Job), with its pods, and Kueue's Workload of it."""
    metadata, status = look.mapping(owner, "metadata"), look.mapping(owner, "status")
    lines = _lines(pods)
    num_pods = _num_pods(owner) or len(lines)
    state, reason = _state(owner, lines, workload, num_pods)
    return RunState(
        name=look.text(metadata, "name"),
        namespace=look.text(metadata, "namespace"),
        kind=look.text(owner, "kind"),
        state=state,
        reason=reason,
        queue=look.text(metadata, "labels", QUEUE),
        num_pods=num_pods,
        restarts=look.count(status, "restarts", default=look.count(status, "failed", default=0)),
        created_s=seconds(look.text(metadata, "creationTimestamp")),
        pods=lines,
    )


def _num_pods(owner: Object) -> int:
    spec = look.mapping(owner, "spec")
    kind = look.text(owner, "kind")
    if kind == "Job":
        return look.count(spec, "completions", default=look.count(spec, "parallelism"))
    if kind == "TrainJob":
        return look.count(spec, "trainer", "numNodes")
    if kind == "JobSet":
        return sum(
            look.count(job, "replicas") * look.count(job, "template", "spec", "parallelism")
            for _, job in look.mappings(spec, "replicatedJobs")
        )
    return sum(look.count(one, "replicas") for one in look.mapping(spec, "pytorchReplicaSpecs").values())


def _state(owner: Object, lines: Sequence[PodLine], workload: Object | None, num_pods: int) -> tuple[str, str]:
    conditions = conditions_of(owner)
    if look.text(owner, "metadata", "deletionTimestamp"):
        return "deleting", ""
    for kind in SUCCEEDED:
        if _is_true(conditions.get(kind)):
            return "succeeded", ""
    if _is_true(failed := conditions.get("Failed")):
        return "failed", _said(failed)
    spec = look.mapping(owner, "spec")
    is_suspended = look.at(spec, "suspend") is True or look.at(spec, "runPolicy", "suspend") is True
    if is_suspended and workload is not None:
        return "queued", waits_in_queue(workload)
    if is_suspended:
        return "stopped", "it is suspended"
    worst = next((line for line in lines if line.state == "failed"), None)
    running = sum(line.state in {"running", "succeeded"} for line in lines)
    if running == num_pods and num_pods:
        return "running", ""
    waiting = next((line for line in lines if line.state in {"waiting", "starting"} and line.reason), None)
    reason = f"{running} of {num_pods} pods run"
    if worst is not None:
        reason += f"; {worst.name} failed: {worst.reason}"
    if waiting is not None:
        reason += f"; {waiting.name} {waiting.reason}"
    return "starting", reason


def waits_in_queue(workload: Object) -> str:
    """What Kueue says of a Workload that it does not run now."""
    conditions = conditions_of(workload)
    for kind in ("Evicted", "Preempted"):
        if _is_true(conditions.get(kind)) and not _is_true(conditions.get("QuotaReserved")):
            again = conditions.get("QuotaReserved")
            later = f"; {_said(again)}" if again is not None and _said(again) else ""
            return f"{kind.lower()}: {_said(conditions[kind])}{later}"
    reserved = conditions.get("QuotaReserved")
    if reserved is not None and not _is_true(reserved):
        return _said(reserved)
    if reserved is not None and not _is_true(conditions.get("Admitted")):
        return _said(conditions.get("Admitted")) or "its quota is reserved; admission checks are not done"
    return "its queue has not looked at it yet" if reserved is None else "it is admitted"


def conditions_of(obj: Object) -> dict[str, Mapping[str, Any]]:
    return {look.text(one, "type"): one for _, one in look.mappings(obj, "status", "conditions")}


def rank_of(pod: Object) -> int | None:
    """A pod's index among those of its job."""
    for place in ("labels", "annotations"):
        text = look.text(pod, "metadata", place, RANK_LABEL)
        if text.isdigit():
            return int(text)
    return None


def newest(pods: Sequence[Object]) -> list[Object]:
    """Of each index the pod that was made last; pods without an index all. In the order of their indices."""
    found: dict[object, Object] = {}
    for pod in sorted(pods, key=_made):
        rank = rank_of(pod)
        found[rank if rank is not None else look.text(pod, "metadata", "name")] = pod
    return sorted(found.values(), key=lambda pod: (rank_of(pod) or 0, look.text(pod, "metadata", "name")))


def of_rank(pods: Sequence[Object], rank: int) -> Object | None:
    """The newest pod of a rank; of pods that have none the one at that place. None where there is none."""
    found = newest(pods)
    if any(rank_of(pod) is not None for pod in found):
        return next((pod for pod in found if rank_of(pod) == rank), None)
    return found[rank] if rank < len(found) else None


def _lines(pods: Sequence[Object]) -> tuple[PodLine, ...]:
    lines = []
    for pod in newest(pods):
        rank = rank_of(pod)
        before = [one for one in pods if rank is not None and rank_of(one) == rank and one is not pod]
        failed = sum(look.text(one, "status", "phase") == "Failed" for one in before)
        lines.append(_line(pod, rank, failed))
    return tuple(lines)


def _line(pod: Object, rank: int | None, num_failed: int) -> PodLine:
    phase, reason, state = look.text(pod, "status", "phase"), "", "waiting"
    if look.text(pod, "metadata", "deletionTimestamp"):
        state = "stopping"
    elif phase == "Succeeded":
        state = "succeeded"
    elif phase == "Failed":
        state, reason = "failed", why_failed(pod)
    elif phase == "Running":
        failure = failure_of(pod)
        state, reason = ("failed", failure) if failure else ("running", "")
    else:
        failure = failure_of(pod)
        state = "failed" if failure else "starting" if look.text(pod, "spec", "nodeName") else "waiting"
        reason = failure or waits_for(pod)
    containers = [one for _, one in look.mappings(pod, "status", "containerStatuses")]
    return PodLine(
        rank=rank,
        name=look.text(pod, "metadata", "name"),
        state=state,
        node=look.text(pod, "spec", "nodeName"),
        reason=reason,
        num_failed=num_failed,
        restarts=sum(look.count(one, "restartCount", default=0) for one in containers),
    )


def why_failed(pod: Object) -> str:
    """Why a pod that failed did."""
    for _, one in look.mappings(pod, "status", "containerStatuses"):
        ended = look.mapping(one, "state", "terminated")
        code = look.at(ended, "exitCode")
        if code:
            reason = look.text(ended, "reason")
            said = " ".join(look.text(ended, "message").split())
            why = f" ({reason})" if reason not in ("", "Error") else ""
            return f"exit status {code}{why}{f': {said}' if said else ''}"
    disrupted = conditions_of(pod).get("DisruptionTarget")
    if _is_true(disrupted):
        return _said(disrupted)
    return look.text(pod, "status", "message") or look.text(pod, "status", "reason") or "no reason given"


def _is_true(condition: Mapping[str, Any] | None) -> bool:
    return condition is not None and condition.get("status") == "True"


def _said(condition: Mapping[str, Any] | None) -> str:
    if condition is None:
        return ""
    return " ".join((look.text(condition, "message") or look.text(condition, "reason")).split())


def _made(pod: Object) -> tuple[str, str]:
    return look.text(pod, "metadata", "creationTimestamp"), look.text(pod, "metadata", "uid")


def seconds(text: str) -> float:
    """An API time as seconds since the epoch; 0 for none."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0
