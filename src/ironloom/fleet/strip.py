"""Objects without what a fleet is not read from: secrets, the values of environment variables, managed fields.

What is left is an object still, as `kubectl get -o json` would print it with those fields empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import msgspec

from ironloom.fleet.objects import AUTOSCALER_STATUS, KINDS_READ_WHOLE, group_of
from ironloom.fleet.queues import items, mapping, name_of, text
from ironloom.fleet.snapshot import KINDS_LISTED, KINDS_SERVED, NAME, TAKEN_AT, VERSION

_METADATA = (
    "name", "generateName", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "labels", "ownerReferences"
)  # fmt: skip
_POD_ANNOTATIONS = ("kueue.x-k8s.io/", "kai.scheduler/", "scheduling.", "leaderworkerset.sigs.k8s.io/",
                    "jobset.sigs.k8s.io/", "ironloom.dev/", "pod-group-name")  # fmt: skip
"""Prefixes of what pods are annotated with for a scheduler; their other annotations are anybody's."""
_POD_SPEC = (
    "nodeName", "schedulerName", "priority", "priorityClassName", "preemptionPolicy", "schedulingGates",
    "schedulingGroup", "workloadRef", "nodeSelector", "affinity", "tolerations", "topologySpreadConstraints",
    "overhead", "resources", "resourceClaims", "runtimeClassName", "hostNetwork", "terminationGracePeriodSeconds",
)  # fmt: skip
_CONTAINER = ("name", "image", "resources", "restartPolicy", "ports")
_CONTAINER_STATUS = ("name", "ready", "restartCount", "resources", "allocatedResources")
_POD_STATUS = ("phase", "reason", "startTime", "nominatedNodeName", "qosClass", "resourceClaimStatuses", "resize")
_CONDITION = ("type", "status", "reason", "message", "lastHeartbeatTime", "lastTransitionTime")
_NODE_STATUS = ("capacity", "allocatable", "nodeInfo")
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""The manifest as it was applied, the values of its environment variables with it."""
Object = Mapping[str, Any]


def strip(obj: Object) -> dict[str, Any] | None:
    """An object without secrets, values of environment variables, commands and managed fields. Changes nothing itself.

    A Secret is None: it is left out whole. Of pods and nodes the fields stay that say what they ask for, have and may;
    of the kinds that a fleet is read from all of spec and status; of every other kind the name and labels alone.
    """
    api_version, kind = text(obj.get("apiVersion")), text(obj.get("kind"))
    group = group_of(api_version)
    if group == "" and kind == "Secret":
        return None
    metadata = mapping(obj.get("metadata"))
    stripped: dict[str, Any] = {"apiVersion": api_version, "kind": kind, "metadata": _pick(metadata, _METADATA)}
    spec, status = mapping(obj.get("spec")), mapping(obj.get("status"))
    annotations = {key: value for key, value in mapping(metadata.get("annotations")).items() if key != _APPLIED}
    if group == "" and kind == "Pod":
        annotations = {key: value for key, value in annotations.items() if key.startswith(_POD_ANNOTATIONS)}
        stripped["spec"] = _pod_spec(spec)
        stripped["status"] = _pod_status(status)
    elif group == "" and kind == "Node":
        stripped["spec"] = _pick(spec, ("providerID", "unschedulable", "taints"))
        stripped["status"] = {
            **_pick(status, _NODE_STATUS),
            "conditions": [_pick(one, _CONDITION) for one in items(status.get("conditions"))],
        }
    elif (group, kind) in KINDS_READ_WHOLE:
        stripped |= {key: value for key, value in obj.items() if key not in ("apiVersion", "kind", "metadata")}
    elif group == "" and kind == "ConfigMap" and name_of(obj) == AUTOSCALER_STATUS:
        stripped["data"] = _pick(mapping(obj.get("data")), ("status",))
    else:
        annotations = {}
    if annotations:
        stripped["metadata"]["annotations"] = annotations
    return stripped


def write_snapshot(
    objects: Iterable[Object],
    out: BinaryIO,
    *,
    name: str = "",
    taken_at: str = "",
    version: str = "",
    kinds_served: Iterable[str] | None = None,
    kinds_listed: Iterable[str] = (),
) -> int:
    """Write a Kubernetes List of stripped objects, one a line, and return how many; `read_snapshot` reads it.

    `taken_at` is RFC 3339; `kinds_listed` are `group/Kind` of which all objects are here, `kinds_served`
    `group/version/Kind` that the API server has: they stand as annotations of the list.
    """
    said = {NAME: name, TAKEN_AT: taken_at, VERSION: version,
            KINDS_SERVED: ",".join(sorted(kinds_served or ())),
            KINDS_LISTED: ",".join(sorted(set(kinds_listed) - {"/Secret"}))}  # fmt: skip
    metadata = {"annotations": {key: value for key, value in said.items() if value}}
    head = {"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": []}
    out.write(msgspec.json.encode(head).removesuffix(b"]}"))
    num_written = 0
    for obj in objects:
        stripped = strip(obj)
        if stripped is not None:
            out.write((b",\n" if num_written else b"\n") + msgspec.json.encode(stripped))
            num_written += 1
    out.write(b"\n]}\n")
    return num_written


def _pod_spec(spec: Object) -> dict[str, Any]:
    kept = _pick(spec, _POD_SPEC)
    for key in ("containers", "initContainers"):
        if key in spec:
            kept[key] = [_container(one) for one in items(spec[key])]
    return kept


def _container(container: Object) -> dict[str, Any]:
    kept = _pick(container, _CONTAINER)
    names = [{"name": text(one.get("name"))} for one in items(container.get("env"))]
    return {**kept, "env": names} if names else kept


def _pod_status(status: Object) -> dict[str, Any]:
    kept = _pick(status, _POD_STATUS)
    if "conditions" in status:
        kept["conditions"] = [_pick(one, ("type", "status", "reason")) for one in items(status["conditions"])]
    for key in ("containerStatuses", "initContainerStatuses"):
        if key in status:
            kept[key] = [_pick(one, _CONTAINER_STATUS) for one in items(status[key])]
    return kept


def _pick(value: Object, keys: Iterable[str]) -> dict[str, Any]:
    return {key: value[key] for key in keys if key in value}
