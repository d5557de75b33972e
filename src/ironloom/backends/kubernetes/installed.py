"""An installed gateway that has not answered yet: whether it is there, and why none of its pods answers, in its
cluster's own words. And whether there is a namespace at all, without which every list is only empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from ironloom.backends.kubernetes import pods as look
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.install import LABELS
from ironloom.backends.kubernetes.names import MANAGED_BY
from ironloom.backends.kubernetes.roles import NAME
from ironloom.errors import ClusterError, UsageError

Object = Mapping[str, Any]

FORMS: Final = {
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
    "StatefulSet": "/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}",
}
"""The kinds that make a gateway's pods, by where they lie: one of them, and both while one follows the other."""
NAMESPACE: Final = "/api/v1/namespaces/{namespace}"
PODS: Final = "/api/v1/namespaces/{namespace}/pods"
EVENTS: Final = "/api/v1/namespaces/{namespace}/events"
SELECTOR: Final = ",".join(f"{key}={value}" for key, value in {**LABELS, **MANAGED_BY}.items())
"""Of what is the installation's own."""
POD_SELECTOR: Final = ",".join(f"{key}={value}" for key, value in LABELS.items())
"""Of its pods, by which its Deployment or StatefulSet finds them too."""
_NO_NAMESPACE: Final = "there is no namespace"
"""What a 404 is told as where the API server says that it is the namespace's."""


async def must_have(client: Client, namespace: str) -> None:
    """Raises UsageError for a namespace that is not there, ClusterError where the cluster cannot be asked. One that may
    not be looked at counts as there."""
    try:
        await client.get(NAMESPACE.format(namespace=namespace), what=f"get namespace {namespace}")
    except ClusterError as error:
        if error.status == 404 and _NO_NAMESPACE in str(error):
            raise UsageError(
                f"There is no namespace {namespace} in the cluster of context {client.target.context}.",
                hint=f"`kubectl create namespace {namespace}` makes one; --namespace names another",
            ) from None
        if error.status not in {403, 404}:
            raise


async def why_silent(client: Client, namespace: str) -> str | None:
    """Why a gateway that is installed does not answer; None where none is installed, or where none may be looked for.
    Raises ClusterError."""
    for kind in FORMS:
        if (form := await form_of(client, kind, namespace)) is not None:
            pods = await pods_of(client, namespace) or ()
            refused = await _refused(client, namespace) if kind == "StatefulSet" and not pods else None
            return refused or why(form, pods)
    return None


async def form_of(client: Client, kind: str, namespace: str) -> Object | None:
    """What an installation made of a kind of FORMS; None where it made none, or where it may not be looked at. Raises
    ClusterError."""
    path = FORMS[kind].format(namespace=namespace, name=NAME)
    try:
        found: Object = msgspec.json.decode(await client.get(path, what=f"get {kind.lower()} {NAME}"))
    except ClusterError as error:
        if error.status in {403, 404}:
            return None
        raise
    labels = (found.get("metadata") or {}).get("labels") or {}
    return found if {**LABELS, **MANAGED_BY}.items() <= labels.items() else None


async def _refused(client: Client, namespace: str) -> str | None:
    """Why a StatefulSet's pods or claims may not be made, by its last event: it has no conditions that say so. None
    where nothing was refused, or where events may not be seen."""
    about = f"involvedObject.kind=StatefulSet,involvedObject.name={NAME},reason=FailedCreate"
    said: dict[str, str] = {}
    try:
        async for page in client.pages(EVENTS.format(namespace=namespace), params={"fieldSelector": about}):
            for item in page.items:
                event = msgspec.json.decode(item)
                said[event.get("lastTimestamp") or event.get("eventTime") or ""] = _said(event)
    except ClusterError as error:
        if error.status != 403:
            raise
    return said[max(said)] if said else None


async def pods_of(client: Client, namespace: str) -> Sequence[Object] | None:
    """The gateways' own; None where they may not be seen. Raises ClusterError."""
    found: list[Object] = []
    try:
        async for page in client.pages(PODS.format(namespace=namespace), params={"labelSelector": POD_SELECTOR}):
            if page.is_first:
                found.clear()
            found += [msgspec.json.decode(item) for item in page.items]
    except ClusterError as error:
        if error.status != 403:
            raise
        return None
    return found


def why(form: Object, pods: Sequence[Object]) -> str:
    """Of a gateway's Deployment or StatefulSet, and those of its pods that may be seen."""
    if (form.get("spec") or {}).get("replicas") == 0:
        return "it is scaled to 0"
    conditions = {one.get("type"): one for one in (form.get("status") or {}).get("conditions") or ()}
    refused = conditions.get("ReplicaFailure") or {}
    if refused.get("status") == "True":
        return _said(refused)
    for pod in pods:
        if (failure := look.failure_of(pod)) is not None:
            return failure
    for pod in pods:
        ready = {one.get("type"): one.get("status") for one in (pod.get("status") or {}).get("conditions") or ()}
        name = pod["metadata"]["name"]
        if ready.get("Ready") == "True":
            return f"pod {name} is ready and has not said yet that it decides"
        return f"pod {name}: {look.waits_for(pod)}"
    for kind in ("Progressing", "Available"):
        if (one := conditions.get(kind) or {}).get("status") == "False":
            return _said(one)
    return "its pods are being made"


def is_up(form: Object) -> bool:
    """Whether all pods of what was applied last are there and ready."""
    status, wanted = form.get("status") or {}, (form.get("spec") or {}).get("replicas", 1)
    is_seen = status.get("observedGeneration", 0) >= (form.get("metadata") or {}).get("generation", 0)
    num_up: int = min(status.get("updatedReplicas", 0), status.get("availableReplicas", 0))
    return bool(is_seen and num_up >= wanted)


def _said(one: Object) -> str:
    """Of a condition or an event."""
    return " ".join(str(one.get("message") or one.get("reason") or "no reason given").split()).rstrip(".")
