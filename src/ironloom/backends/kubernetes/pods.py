"""A pod as a replica, and why a pod is not ready, in a sentence. Functions of objects alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ironloom.backends.kubernetes.names import GENERATION_LABEL
from ironloom.serve.replica import Replica, ReplicaState

CANNOT_PARK = "a pod cannot give its GPU up and stay"
NOT_PARKED = f"park-for is not honoured: {CANNOT_PARK}"
KSERVE_CONTAINER = "kserve-container"
UNSCHEDULABLE = "waits for a node: "
"""How the phase of a pod begins that the scheduler has looked at and not placed."""
GATED = "waits for admission: "
"""How that of a pod begins which no scheduler looks at yet: a queue holds it."""
_PREEMPTION = re.compile(r"[.,;]?\s+(no new claims to deallocate, )?(pod group )?preemption: .*$", re.DOTALL)
"""What the scheduler adds on whom it could have driven out: the reasons stand before it."""
_AGAIN = re.compile(r"^(pod group is unschedulable, )(?:\1)+")
"""What it says of a gang's pod once for the pod, and once for its group."""
BAD_WAITS = {
    "CrashLoopBackOff": "its container ends again and again",
    "ErrImagePull": "its image cannot be pulled",
    "ImagePullBackOff": "its image cannot be pulled",
    "InvalidImageName": "its image's name is none",
    "ErrImageNeverPull": "its image is not on the node, and imagePullPolicy Never forbids to pull it",
    "RegistryUnavailable": "its image's registry cannot be reached",
    "SignatureValidationFailed": "its image's signature is refused",
    "CreateContainerConfigError": "its container cannot be made",
    "CreateContainerError": "its container cannot be made",
    "RunContainerError": "its container cannot be started",
}
"""Reasons of a waiting container that do not pass by themselves.

Source: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#container-states and
https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/images/types.go"""


OVER_TLS = "its engine answers over TLS alone: ask it at the address that its status names"


@dataclass(frozen=True, kw_only=True, slots=True)
class PodView:
    """One pod, read."""

    replica: Replica
    failure: str | None
    """Why it will not get ready unless something is mended; None where it may."""
    is_placed: bool
    """Whether it has a node."""
    is_stuck: bool = False
    """What fails has failed often enough to be waited for no longer; see `stuck`."""


def view(
    pod: Mapping[str, Any], *, service: str, port: int, engine: str, draining: bool = False, answers: bool = False
) -> PodView:
    """`draining`: it is to be given up, and takes no new requests though it is ready. `answers`: it is seen to be ready
    before its kubelet has said so.
    """
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    conditions = {one.get("type"): one for one in status.get("conditions") or ()}
    is_tls = is_over_tls(pod)
    failure = failure_of(pod) or (OVER_TLS if is_tls else None)
    is_called_ready = answers or conditions.get("Ready", {}).get("status") == "True"
    is_ready = is_called_ready and bool(status.get("podIP")) and not is_tls
    phase, reason = "", ""
    if metadata.get("deletionTimestamp") or draining:
        state, reason = ReplicaState.STOPPING, "the pod is being ended"
    elif status.get("phase") in {"Failed", "Succeeded"}:
        state, reason = ReplicaState.FAILED, status.get("message") or status.get("reason") or "its container ended"
    elif is_ready:
        state = ReplicaState.READY
    else:
        state, phase = ReplicaState.STARTING, waits_for(pod)
        reason = failure or phase
    changed = conditions.get("Ready", {}).get("lastTransitionTime") or metadata.get("creationTimestamp")
    label = (metadata.get("labels") or {}).get(GENERATION_LABEL, "")
    replica = Replica(
        id=metadata["name"],
        service=service,
        state=state,
        generation=int(label) if label.isdigit() else 0,
        engine=engine,
        host=status.get("podIP") or "",
        port=port,
        phase=phase,
        reason=reason,
        devices=_devices(spec),
        since_s=_seconds(changed),
        path_prefix=prefix_of(pod),
    )
    return PodView(replica=replica, failure=failure, is_placed=bool(spec.get("nodeName")), is_stuck=is_tls)


def is_over_tls(pod: Mapping[str, Any]) -> bool:
    """Whether its engine answers over TLS, under a certificate of the cluster's own: its probe says so."""
    asked = (_engine(pod).get("readinessProbe") or {}).get("httpGet") or {}
    return bool(asked.get("scheme") == "HTTPS")


def port_of(pod: Mapping[str, Any], otherwise: int) -> int:
    """Where its engine answers, by its own word. `otherwise` where none is said."""
    ports = _engine(pod).get("ports") or ()
    return int(ports[0]["containerPort"]) if ports else otherwise


def prefix_of(pod: Mapping[str, Any]) -> str:
    """Before the OpenAI paths of its engine. KServe's Hugging Face server answers under /openai/v1:
    https://kserve.github.io/website/docs/model-serving/generative-inference/overview"""
    engine = _engine(pod)
    words = (str(engine.get("image", "")), *map(str, engine.get("command") or ()))
    return "/openai" if any("huggingfaceserver" in word for word in words) else ""


def _engine(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """KServe's container, else the first."""
    containers = (pod.get("spec") or {}).get("containers") or ()
    first: Mapping[str, Any] = containers[0] if containers else {}
    return next((one for one in containers if one.get("name") == KSERVE_CONTAINER), first)


def failure_of(pod: Mapping[str, Any]) -> str | None:
    """Why a pod will not get ready unless something is mended; None where it may."""
    status = pod.get("status") or {}
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (one.get("state") or {}).get("waiting") or {}
        why = BAD_WAITS.get(waiting.get("reason", ""))
        if why is None:
            continue
        last = (one.get("lastState") or {}).get("terminated") or {}
        ended = f" (exit status {last['exitCode']})" if "exitCode" in last else ""
        said = " ".join(str(waiting.get("message") or last.get("message") or "").split())
        image = f" {one['image']}" if "mage" in waiting["reason"] and one.get("image") else ""
        return f"pod {pod['metadata']['name']}: {why}{ended}{image}: {said}".rstrip(": ")
    return None


def waits_for(pod: Mapping[str, Any]) -> str:
    """What a pod that is not ready waits for."""
    status = pod.get("status") or {}
    conditions = {one.get("type"): one for one in status.get("conditions") or ()}
    placed = conditions.get("PodScheduled") or {}
    if placed.get("status") == "False":
        if placed.get("reason") == "SchedulingGated":
            return f"{GATED}its scheduling gates are not lifted"
        message = _AGAIN.sub(r"\1", _PREEMPTION.sub("", placed.get("message") or ""))
        said = message or placed.get("reason") or "no reason given"
        return f"{UNSCHEDULABLE}{said}"
    if not (pod.get("spec") or {}).get("nodeName"):
        return "waits for a node"
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = one.get("state") or {}
        if waiting := state.get("waiting"):
            return f"container {one['name']}: {waiting.get('reason') or 'waiting'}"
        if "running" in state and not one.get("ready"):
            return f"container {one['name']} runs and is not ready"
    return "its containers are being made"


def waits_for_a_node(pod: Mapping[str, Any]) -> bool:
    """Whether the scheduler has looked at it, and found none, or its queue has not admitted it."""
    is_ending = bool(pod["metadata"].get("deletionTimestamp"))
    is_placed = bool((pod.get("spec") or {}).get("nodeName"))
    return not is_placed and not is_ending and waits_for(pod).startswith((UNSCHEDULABLE, GATED))


def _devices(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Devices that are the pod's, `NODE/gpu` a GPU; which of the node's they are is not in the API."""
    node = spec.get("nodeName")
    number = 0
    for container in spec.get("containers") or ():
        limits = (container.get("resources") or {}).get("limits") or {}
        number += sum(int(amount) for name, amount in limits.items() if name.endswith("/gpu") and str(amount).isdigit())
    return tuple([f"{node}/gpu"] * number) if node and number else ((f"{node}/cpu",) if node else ())


def _seconds(text: str | None) -> float:
    try:
        return datetime.fromisoformat(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0
